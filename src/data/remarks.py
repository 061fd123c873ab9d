"""What is odd in data that can be used: said once, at the start of a run."""

from typing import Any

import numpy as np

from src.data.labelled import LabelledImages, Table

LISTED = 5


def remarks(data: Any, dtype: str) -> list[str]:
    """Sentences about constant features, absent classes, and numbers that `dtype` cannot hold.

    Of a dense table and of labelled images; other data get none.
    """
    found: list[str] = []
    if isinstance(data, Table):
        dense = {s: rows for s, rows in data.inputs.items() if isinstance(rows, np.ndarray)}
        found += _about_columns(dense["train"]) if "train" in dense else []
        found += _about_range(dense, dtype)
        labels = data.targets if data.num_classes else {}
    elif isinstance(data, LabelledImages):
        labels = data.labels
    else:
        return found
    return [*found, *_about_classes(labels)]


def _about_columns(rows: np.ndarray) -> list[str]:
    constant = np.flatnonzero(rows.max(axis=0) == rows.min(axis=0))
    if not constant.size:
        return []
    which = "every one" if constant.size == rows.shape[1] else f"{constant.size}"
    return [
        f"{which} of the {rows.shape[1]} features is constant in the training rows (column "
        f"{_listed(constant + 1)}): nothing can be learned from it"
    ]


def _about_classes(labels: dict[str, np.ndarray]) -> list[str]:
    sentences = []
    for split in ("validation", "test"):
        if split in labels:
            absent = np.setdiff1d(labels[split], labels["train"])
            if absent.size:
                sentences.append(
                    f"class {_listed(absent)} (counted from 0) is in {split} but in no training "
                    "row: it cannot be predicted"
                )
    return sentences


def _about_range(arrays: dict[str, np.ndarray], dtype: str) -> list[str]:
    limits = np.finfo(dtype)
    sentences = []
    for name, array in arrays.items():
        size = np.abs(array)
        lost = int(((size > 0) & (size < limits.tiny)).sum())
        if lost:
            sentences.append(
                f"{lost} of the inputs of {name} are too small for {dtype} (below "
                f"{limits.tiny:.0e}) and become 0: rescale them, or choose dtype=float64"
            )
        if (size > limits.max).any():
            sentences.append(
                f"some inputs of {name} are too large for {dtype} (above {limits.max:.0e}) "
                "and become infinite: rescale them, or choose dtype=float64"
            )
    return sentences


def _listed(numbers: np.ndarray) -> str:
    more = ", ..." if numbers.size > LISTED else ""
    return ", ".join(str(number) for number in numbers[:LISTED]) + more
