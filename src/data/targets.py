"""Targets of rows: classes, which are counted from 0, or numbers."""

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np

Targets = Literal["auto", "classes", "numbers"]
MOST_CLASSES = 100  # that targets=auto takes for classes
USUAL_CLASSES = 20  # more of them are told: they may be meant as numbers


def read_targets(
    values: np.ndarray, targets: Targets, where: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int32 classes, their names, sorted), or (float64 numbers, ()).

    values: numbers, texts or booleans (n,). Texts and booleans are classes; numbers are, with
    targets=auto, where all are whole and at most MOST_CLASSES different. `where` names a row, for
    messages. Raises ValueError where one is not finite, where texts are to be numbers or numbers
    that are not whole classes, where bytes are not UTF-8, where values are of another kind (complex
    numbers, records), and where there is one class alone.
    """
    if values.dtype.kind == "S":
        values = _decoded(values, where)
    if values.dtype.kind not in "biufUO":
        raise ValueError(
            f"targets: they are {values.dtype}, but whole numbers, texts or real numbers are needed"
        )
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
    # Whole numbers as they are: float64 has the same value for 2^60 and 2^60 + 1.
    exact = values if values.dtype.kind in "iu" else numbers
    names, classes = np.unique(exact, return_inverse=True)
    broken = numbers != np.rint(numbers)
    if targets == "numbers" or (
        targets == "auto"
        and values.dtype.kind != "b"
        and (broken.any() or len(names) > MOST_CLASSES)
    ):
        if targets == "auto" and not broken.any():
            tell_choice(len(names), classes=False)
        return numbers, ()
    if broken.any():
        row = int(np.argmax(broken))
        raise ValueError(
            f"targets=classes: {where(row)} is {numbers[row]:g}, but classes are whole numbers or "
            "texts; choose targets=numbers"
        )
    if targets == "auto":
        tell_choice(len(names), classes=True)
    return _classes(classes, list(names_of_numbers(names)))


def tell_choice(number: int, *, classes: bool) -> None:
    """Warn of what targets=auto made of `number` different whole numbers, where it may be wrong."""
    if classes and number <= USUAL_CLASSES:
        return
    taken, other = ("classes", "numbers") if classes else ("numbers", "classes")
    warnings.warn(
        f"data.targets=auto: the targets are whole numbers, {number} different ones, and are taken "
        f"as {taken}; if they are {other}, choose data.targets={other} "
        f"(data.targets={taken} says that they are not, and leaves this warning out)",
        stacklevel=3,
    )


def names_of_numbers(labels: np.ndarray) -> tuple[str, ...]:
    """Of classes that are whole numbers: 1, not 1.0."""
    return tuple(str(int(label)) for label in labels)


def _decoded(values: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        for row, value in enumerate(values.tolist()):
            try:
                value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"targets: {where(row)} is {value!r}, which is no UTF-8; save texts, as in "
                    "numpy.char.decode(labels, 'latin-1')"
                ) from error
        raise


def _classes(classes: np.ndarray, names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if len(names) < 2:
        raise ValueError(
            f"targets: every row has the target {names[0]}, but at least two classes are needed; "
            "if the targets are numbers, choose targets=numbers"
        )
    return classes.astype(np.int32), tuple(names)
