"""What is odd in data that can be used: said once, at the start of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from src.data.labelled import LabelledImages, Table
from src.data.pollution import number_polluted

LISTED = 5
MAJORITY = 0.7  # of one class, beyond which an intercept is missed
# Loaders of files of one's own, in which nobody expects labels that are wrong on purpose.
OWN = ("src.data.arrays", "src.data.image_folder", "src.data.libsvm", "src.data.table")


def remarks(data: Any, dtype: str) -> list[str]:
    """Sentences about constant features, rows of training in other splits, absent classes, a class
    that most rows have, and numbers that `dtype` cannot hold.

    Of a dense table and of labelled images; other data get none.
    """
    found: list[str] = []
    if isinstance(data, Table):
        dense = {s: rows for s, rows in data.inputs.items() if isinstance(rows, np.ndarray)}
        if "train" in dense:
            found += _about_columns(dense["train"], data.features)
            found += _about_intercept(dense["train"], data)
        found += _about_range(dense, dtype)
        found += _about_copies(dense, data.targets)
        labels = data.targets if data.num_classes else {}
    elif isinstance(data, LabelledImages):
        labels = data.labels
        rows = {s: of for s, of in data.images.items() if of.ndim == 2}
        found += _about_copies(rows, labels)
    else:
        return found
    return [*found, *_about_classes(labels, data.names)]


def about_noise(data: Any, loader: Callable, options: Mapping[str, Any]) -> list[str]:
    """A sentence about labels of one's own that hyper_cleaning makes wrong on purpose.

    data: in the form of the problem. loader: of the data. options: of the problem; [] where it
    makes none wrong.
    """
    noise, trained_on = options.get("noise"), options.get("baseline")
    if not isinstance(data, LabelledImages) or loader.__module__ not in OWN or not noise:
        return []
    size = len(data.labels["train"])
    number = number_polluted(size, noise)
    if not number or trained_on == "validation":
        return []
    drawn = "made wrong" if options.get("pollution") == "exact" else "drawn anew at random"
    return [
        f"{number} of the {size} training labels are {drawn} on purpose (problem.noise={noise:g}); "
        "problem.noise=0 leaves yours as they are"
    ]


def _about_columns(rows: np.ndarray, features: tuple[str, ...]) -> list[str]:
    # Another constant than 0 serves as an intercept; standardised it would be 0.
    constant = np.flatnonzero(~rows.any(axis=0))
    if not constant.size:
        return []
    which = "every one" if constant.size == rows.shape[1] else f"{constant.size}"
    named = [features[column] if features else str(column + 1) for column in constant]
    return [
        f"{which} of the {rows.shape[1]} features is constant in the training rows (column "
        f"{_listed(named)}): nothing can be learned from it"
    ]


def _about_intercept(rows: np.ndarray, data: Table) -> list[str]:
    if not data.num_classes or ((rows == rows[0]).all(axis=0) & (rows[0] != 0)).any():
        return []
    counts = np.bincount(data.targets["train"], minlength=data.num_classes)
    share, label = counts.max() / counts.sum(), int(counts.argmax())
    if not MAJORITY < share < 1:
        return []
    return [
        f"{share:.0%} of the training rows are of {_classes([label], data.names)}, and a linear "
        "model without an intercept cannot say so: it may be worse than always guessing this "
        "class; add a column of ones and choose data.standardise=false"
    ]


def _about_copies(inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> list[str]:
    if not {"train", "validation", "test"} <= inputs.keys():
        return []
    known = set(_rows(inputs["train"], targets["train"]))
    sentences = []
    for split in ("validation", "test"):
        number = sum(row in known for row in _rows(inputs[split], targets[split]))
        if number:
            sentences.append(
                f"{number} of the {len(targets[split])} {split} rows are in training, too (the "
                "same features and target)"
            )
    return sentences


def _rows(inputs: np.ndarray, targets: np.ndarray) -> Iterator[bytes]:
    for row, target in zip(inputs, targets, strict=True):
        yield blake2b((row + 0.0).tobytes() + target.tobytes(), digest_size=12).digest()  # no -0.0


def _about_classes(labels: Mapping[str, np.ndarray], names: tuple[str, ...]) -> list[str]:
    sentences = []
    for split in ("validation", "test"):
        if split in labels:
            absent = np.setdiff1d(labels[split], labels["train"])
            if absent.size:
                sentences.append(
                    f"{_classes(absent, names)} is in {split} but in no training "
                    "row: it cannot be predicted"
                )
    absent = np.setdiff1d(labels["train"], labels["test"]) if labels else np.empty(0)
    if absent.size:
        sentences.append(
            f"{_classes(absent, names)} is in no test row: the test says nothing about it"
        )
    return sentences


def _classes(labels: Sequence[int] | np.ndarray, names: tuple[str, ...]) -> str:
    if names:
        return f"class {_listed([names[label] for label in labels])}"
    return f"class {_listed([str(label) for label in labels])} (counted from 0)"


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


def _listed(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
