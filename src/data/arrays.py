"""Arrays of one's own, from one .npz file: images or rows, their labels, and perhaps a split."""

import warnings
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from src.data.checked_files import about, user_path
from src.data.image_classes import SPLIT_NAMES, SPLITS
from src.data.labelled import Sizes, Table, serves_of, split_table
from src.data.npz import names_in, read_npz
from src.data.pool import Pool
from src.data.targets import Targets, read_targets

# What people call the members of such files.
INPUTS = ("inputs", "images", "data", "features", "x")
LABELS = ("labels", "targets", "label", "target", "y")
SPLIT = ("split", "splits")


class _Samples(NamedTuple):
    """What a file holds: inputs (n, ...), labels (n,), the part of each, what each part serves."""

    inputs: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    serves: tuple[tuple[str, ...], ...]


def arrays(
    *,
    path: str | None,
    inputs: str | None,
    labels: str | None,
    split: str | None,
    split_sizes: Sizes | None,
    split_seed: int | None,
    targets: Targets,
    standardise: bool,
    streamed: Literal["auto", True, False],
) -> Pool | Table:
    """Images: uint8 (n, height, width) or (n, height, width, channels); or rows: numbers (n, p).

    inputs, labels, split: the names of the members; null: the usual ones (images, labels, x, y,
    ...). split: texts (train, validation, test); without it, members such as x_train and x_test, or
    train_images, are the splits (x and y beside x_test and y_test are train), or all is shared out.
    A split without samples of its own is cut from train. split_sizes: rows; of images: classes for
    few_shot, else images of each class; null: 40, 30, 30 percent. targets, standardise: of rows, as
    of `libsvm`. Warns of members that are not read.

    Raises ValueError where a member is missing or has another form, or sizes cannot be had.
    """
    if path is None:
        raise ValueError("path=null: name an .npz file with data.path=FILE")
    file = user_path(path)
    with about("path", path):
        names = names_in(file)
    members = _choose(path, names, {"inputs": inputs, "labels": labels, "split": split})
    _tell_unread(path, names, members)
    with about("path", path):
        wanted = {name for of_split in members.values() for name in of_split.values()}
        found = _joined(members, read_npz(file, wanted))
        if found.inputs.ndim > 2:
            found = found._replace(inputs=_images(found.inputs))
        else:
            found = found._replace(inputs=_rows(found.inputs))
    kind: Targets = targets
    if found.inputs.ndim > 2:
        if targets == "numbers":
            raise ValueError(
                "targets=numbers, but the inputs are images, whose labels are classes; to predict "
                "numbers, save the images as rows, images.reshape(len(images), -1)"
            )
        kind = "classes"
        if found.labels.dtype.kind == "f" and (found.labels != np.rint(found.labels)).any():
            raise ValueError(
                "labels: those of images are classes, whole numbers or texts, but here they are "
                "others; to predict numbers, save the images as rows, images.reshape(len(images), "
                "-1)"
            )
    values, classes = read_targets(found.labels, kind, lambda row: f"the label of row {row}")
    if found.inputs.ndim == 2:
        return split_table(
            found.inputs,
            values,
            classes,
            found.parts,
            found.serves,
            split_sizes,
            split_seed,
            standardise,
            lambda row: f"row {row}",
        )
    origins = tuple(f"row {row}" for row in range(len(values)))
    return Pool(
        found.inputs,
        values,
        classes,
        found.serves,
        found.parts,
        origins,
        split_sizes,
        split_seed,
        streamed=streamed,
    )


def _choose(
    path: str, names: list[str], options: Mapping[str, str | None]
) -> dict[str, dict[str, str]]:
    """{split, or "" for all: {"inputs", "labels", perhaps "split": member}}."""
    for option, name in options.items():
        if name is not None and name not in names:
            raise ValueError(f"{option}={name}: {path} has the members {', '.join(names)}")
    lower = {name.lower(): name for name in names}
    found = {}
    for option, usual in (("inputs", INPUTS), ("labels", LABELS), ("split", SPLIT)):
        name = options[option] or next((lower[n] for n in usual if n in lower), None)
        if name is not None:
            found[option] = name
    by_split: dict[str, dict[str, str]] = {}
    for word, split in SPLIT_NAMES.items():
        for option, usual in (("inputs", INPUTS), ("labels", LABELS)):
            for name in usual:
                member = lower.get(f"{name}_{word}", lower.get(f"{word}_{name}"))
                if member is not None:
                    by_split.setdefault(split, {}).setdefault(option, member)
    held_out = {s: by_split[s] for s in SPLITS[1:] if len(by_split.get(s, ())) == 2}
    if {"inputs", "labels"} <= found.keys():
        if "train" in by_split or not held_out or any(options.values()):
            return {"": found}
        if "split" not in found:
            return {"train": found, **held_out}
        raise ValueError(
            f"split={found['split']}: {path} says the split of each sample, and has "
            f"{next(iter(held_out.values()))['inputs']} of another split, too; which is meant is "
            "not known: name the members with data.inputs=NAME data.labels=NAME data.split=NAME"
        )
    if "train" in by_split and all(len(of) == 2 for of in by_split.values()):
        return {split: by_split[split] for split in SPLITS if split in by_split}
    absent = "labels" if "inputs" in found else "inputs"
    raise ValueError(
        f"{absent}=null: {path} has the members {', '.join(names) or 'none at all'}, and which are "
        f"the {absent} is not known; name them with data.{absent}=NAME"
    )


def _tell_unread(path: str, names: list[str], members: Mapping[str, Mapping[str, str]]) -> None:
    read = {name for of_split in members.values() for name in of_split.values()}
    unread = sorted(set(names) - read)
    if unread:
        warnings.warn(
            f"data.path={path}: not read: {', '.join(unread)}; other members are named with "
            "data.inputs, data.labels and data.split",
            stacklevel=3,
        )


def _joined(members: Mapping[str, Mapping[str, str]], found: Mapping[str, np.ndarray]) -> _Samples:
    """All samples, one part after the other."""
    inputs, labels = [], []
    for of_split in members.values():
        one, other = found[of_split["inputs"]], found[of_split["labels"]]
        if other.ndim == 2 and other.shape[1] == 1:
            other = other[:, 0]
        if other.ndim == 2:
            raise ValueError(
                f"{of_split['labels']} is {_form(other)}, but one label for each sample is needed; "
                "of columns of 0 and 1 (one-hot) save labels.argmax(axis=1)"
            )
        if one.ndim < 2 or other.ndim != 1 or len(one) != len(other):
            raise ValueError(
                f"{of_split['inputs']} is {_form(one)} and {of_split['labels']} {_form(other)}, "
                "but as many inputs, (n, ...), as labels, (n,), are needed"
            )
        if inputs and (one.shape[1:], one.dtype) != (inputs[0].shape[1:], inputs[0].dtype):
            raise ValueError(
                f"{of_split['inputs']} is {_form(one)}, but that of train {_form(inputs[0])}; all "
                "must have one shape and type"
            )
        inputs.append(one)
        labels.append(other)
    if "" not in members:
        parts = np.repeat(np.arange(len(members)), [len(of) for of in labels])
        return _Samples(np.concatenate(inputs), np.concatenate(labels), parts, serves_of(members))
    if "split" not in members[""]:
        return _Samples(inputs[0], labels[0], np.zeros(len(labels[0]), int), (SPLITS,))
    parts, serves = _parts(found[members[""]["split"]], len(labels[0]))
    return _Samples(inputs[0], labels[0], parts, serves)


def _parts(split: np.ndarray, number: int) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    if split.shape != (number,) or split.dtype.kind != "U":
        raise ValueError(
            f"split is {_form(split)}, but a text for each of the {number} samples is needed: "
            "train, validation or test"
        )
    for row, word in enumerate(split.tolist()):
        if word.lower() not in SPLIT_NAMES:
            raise ValueError(f"split of row {row} is {word!r}; write train, validation or test")
    of_each = [SPLIT_NAMES[word.lower()] for word in split.tolist()]
    given = [name for name in SPLITS if name in of_each]
    if "train" not in given:
        raise ValueError("split has no row that is train; some are needed to learn from")
    return np.array([given.index(name) for name in of_each]), serves_of(given)


def _images(images: np.ndarray) -> np.ndarray:
    """uint8 (n, height, width, channels)."""
    form = _form(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == bool:
        images = images.astype(np.uint8) * 255
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"the inputs are {form}, but images are (n, height, width) or (n, height, width, "
            "channels), and rows (n, p)"
        )
    if images.dtype != np.uint8:
        raise ValueError(
            f"the inputs are {form}, but images are uint8, 0 to 255; of values in 0..1 save "
            "(images * 255).round().astype(numpy.uint8); or save rows, "
            "images.reshape(len(images), -1)"
        )
    if images.shape[3] not in (1, 3):
        remedy = "save one channel (grey) or three"
        if images.shape[1] in (1, 3):
            remedy = "save images.transpose(0, 2, 3, 1), with the channels last"
        raise ValueError(f"the inputs are {form}, {images.shape[3]} channels; {remedy}")
    return images


def _rows(rows: np.ndarray) -> np.ndarray:
    """float64 (n, p)."""
    if rows.dtype.kind not in "biuf" or 0 in rows.shape:
        raise ValueError(f"the inputs are {_form(rows)}, but rows are numbers, (n, p)")
    rows = rows.astype(np.float64)
    wrong = ~np.isfinite(rows)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"row {row} of the inputs has {rows[row, column]} in column {column}, but finite "
            "numbers are needed; leave such rows out, or fill them in"
        )
    return rows


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} ({', '.join(map(str, array.shape))})"
