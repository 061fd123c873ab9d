"""Targets of rows: classes, which are counted from 0, or numbers."""

from collections.abc import Callable
from typing import Literal

import numpy as np

Targets = Literal["auto", "classes", "numbers"]
MOST_CLASSES = 100  # that targets=auto takes for classes


def read_targets(
    values: np.ndarray, targets: Targets, where: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int32 classes, their names, sorted), or (float64 numbers, ()).

    values: numbers, texts or booleans (n,). Texts and booleans are classes; numbers are, with
    targets=auto, where all are whole and at most MOST_CLASSES different. `where` names a row, for
    messages. Raises ValueError where one is not finite, where texts are to be numbers or numbers
    that are not whole classes, and where there is one class alone.
    """
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "U":
        if targets == "numbers":
            raise ValueError(
                f"targets=numbers, but {where(0)} is the text {str(values[0])!r}; choose "
                "targets=classes"
            )
        names, classes = np.unique(values, return_inverse=True)
        return _classes(classes, [str(name) for name in names])
    numbers = values.astype(np.float64)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"targets: {where(row)} is {numbers[row]}, but a finite number is needed")
    names, classes = np.unique(numbers, return_inverse=True)
    broken = numbers != np.rint(numbers)
    if targets == "numbers" or (
        targets == "auto"
        and values.dtype.kind != "b"
        and (broken.any() or len(names) > MOST_CLASSES)
    ):
        return numbers, ()
    if broken.any():
        row = int(np.argmax(broken))
        raise ValueError(
            f"targets=classes: {where(row)} is {numbers[row]:g}, but classes are whole numbers or "
            "texts; choose targets=numbers"
        )
    return _classes(classes, [f"{name:g}" if abs(name) < 1e6 else f"{name:.0f}" for name in names])


def _classes(classes: np.ndarray, names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if len(names) < 2:
        raise ValueError(
            f"targets: every row has the target {names[0]}, but at least two classes are needed; "
            "if the targets are numbers, choose targets=numbers"
        )
    return classes.astype(np.int32), tuple(names)
