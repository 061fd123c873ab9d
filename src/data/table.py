"""A table of one's own: a CSV or parquet file with a column to predict."""

import re
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from src.data.checked_files import about, refuse_shared, user_path
from src.data.image_classes import SPLIT_NAMES, SPLITS
from src.data.labelled import Sizes, Table, serves_of, split_table
from src.data.table_files import Columns, read_number, read_table
from src.data.targets import Targets, read_targets

WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
# Names that need no quotation marks in a list of Hydra's.
PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[A-Za-z_][\w.-]*", re.ASCII | re.IGNORECASE)


def table(
    *,
    path: str | None,
    validation_path: str | None,
    test_path: str | None,
    target: str | None,
    split: str | None,
    drop: tuple[str, ...],
    split_sizes: Sizes | None,
    split_seed: int | None,
    targets: Targets,
    standardise: bool,
) -> Table:
    """Every column but `target`, `split` and `drop` is a feature, hence a column of numbers.

    target: the column to predict, numbers or classes (texts too). split: a column that says train,
    validation or test. validation_path, test_path: files of these splits with the same columns. A
    split of which nothing says its rows is cut from those for training. Other options as of
    `libsvm`.

    Raises ValueError where a file cannot be read, a column is missing, holds texts or a cell
    without a value (with its line), or sizes cannot be had.
    """
    if path is None:
        raise ValueError("path=null: name a CSV or parquet file with data.path=FILE")
    own = {"validation_path": validation_path, "test_path": test_path}
    files = {"path": path, **{option: file for option, file in own.items() if file is not None}}
    refuse_shared(files)
    as_texts = {name for name in (target, split) if name is not None}
    found: dict[str, Columns] = {}
    for option, file in files.items():
        with about(option, file):
            found[option] = read_table(user_path(file), as_texts, set(drop))
    features = _features(files, found, target, split, drop)
    labels = _labels(files, found, str(target), targets)
    inputs = [np.stack([of.numbers[name] for name in features], axis=1) for of in found.values()]
    values, classes = read_targets(labels, targets, _Place(files, found, str(target)))
    parts, serves = _parts(files, found, split)
    made = split_table(
        np.concatenate(inputs),
        values,
        classes,
        parts,
        serves,
        split_sizes,
        split_seed,
        standardise,
        _Place(files, found),
        f"target={target}",
    )
    return made._replace(features=tuple(features))


class _Place(NamedTuple):
    """Where a row of all files together stands, for people."""

    files: Mapping[str, str]
    found: Mapping[str, Columns]
    column: str | None = None

    def __call__(self, row: int) -> str:
        for option, of in self.found.items():
            if row < len(of.lines):
                place = f"{of.counted} {of.lines[row]} of {self.files[option]}"
                return place if self.column is None else f"{self.column} in {place}"
            row -= len(of.lines)
        raise IndexError(row)


def _features(
    files: Mapping[str, str],
    found: Mapping[str, Columns],
    target: str | None,
    split: str | None,
    drop: Sequence[str],
) -> list[str]:
    """The columns of numbers that all files have."""
    names = found["path"].names
    if target is None:
        raise ValueError(
            f"target=null: name the column to predict with data.target=NAME; {files['path']} has "
            f"{_listed(names)}"
        )
    for option, name in (("target", target), ("split", split), *(("drop", name) for name in drop)):
        if name is not None and name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{option}={name} is no column of {files['path']}: {hint}it has {_listed(names)}"
            )
    apart = {target, split, *drop}
    features = [name for name in names if name not in apart]
    if not features:
        raise ValueError(f"path={files['path']}: no column is left for the features")
    for option, of in found.items():
        where = f"{option}={files[option]}"
        other = set(names) ^ set(of.names)
        if other - set(drop):
            raise ValueError(
                f"{where}: the column {min(other - set(drop))} is in one of the files alone; all "
                "must have the same columns (data.drop=[NAME] leaves one out)"
            )
        if "" in features:
            raise ValueError(
                f"{where}: the column {names.index('') + 1} has no name in the first line (an "
                "index that pandas wrote?); give it a name, or write the table with index=False"
            )
        _refuse_problems(where, of, [name for name in features if name in of.problems])
    return features


def _refuse_problems(where: str, of: Columns, names: list[str]) -> None:
    if not names:
        return
    texts = [name for name in names if "the text" in of.problems[name]]
    first = (texts or names)[0]
    said = f"{where}: the column {first} is no column of numbers ({of.problems[first]})"
    if not texts:
        raise ValueError(
            f"{said}; fill such cells in or leave their rows out, or leave the column out with "
            f"{_typed_drop([first])}"
        )
    others = f", nor {'is' if len(texts) == 2 else 'are'} {_listed(texts[1:])}" if texts[1:] else ""
    raise ValueError(
        f"{said}{others}: leave texts out with {_typed_drop(texts)}, or write them as "
        f"columns of 0 and 1: pandas.get_dummies(frame, columns={texts[:5]}, dtype=float) (numbers "
        "are written 1.5, not 1,5)"
    )


def _labels(
    files: Mapping[str, str], found: Mapping[str, Columns], target: str, targets: Targets
) -> np.ndarray:
    """The targets of all rows: numbers where all are, or else texts."""
    texts = [text for of in found.values() for text in of.texts[target]]
    place = _Place(files, found, target)
    numbers = np.empty(len(texts))
    first_text = first_number = None
    for row, text in enumerate(texts):
        numbers[row], problem = read_number(text)
        if problem == "no value":
            raise ValueError(
                f"target={target}: {place(row)} has no value; fill it in, or leave the row out"
            )
        if problem and first_text is None:
            first_text = row
        if not problem and first_number is None:
            first_number = row
    if first_text is None:
        return _exact(numbers, texts, targets)
    if first_number is not None and targets != "classes":
        raise ValueError(
            f"target={target}: {place(first_text)} is {texts[first_text]!r}, but {target} is a "
            f"number elsewhere ({texts[first_number]}); mend it (1.5, not 1,5), or choose "
            "data.targets=classes"
        )
    return np.array(texts)


def _exact(numbers: np.ndarray, texts: list[str], targets: Targets) -> np.ndarray:
    """The same as integers, where some are whole numbers that float64 has not, such as long ids."""
    if (np.abs(numbers) < 2**53).all() or not all(map(WHOLE.fullmatch, texts)):
        return numbers
    try:
        return np.array(list(map(int, texts)), np.int64)
    except OverflowError:
        return numbers if targets == "numbers" else np.array(texts)


def _parts(
    files: Mapping[str, str], found: Mapping[str, Columns], split: str | None
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """The part of each row, and what each part serves."""
    own = [option.removesuffix("_path") for option in found if option != "path"]
    counts = [len(of.lines) for of in found.values()]
    if split is None:
        return np.repeat(np.arange(len(counts)), counts), serves_of(["train", *own])
    if own:
        raise ValueError(
            f"split={split}: {own[0]}_path gives a split already; leave one of the two out (null)"
        )
    words = found["path"].texts[split]
    for row, word in enumerate(words):
        if word.lower() not in SPLIT_NAMES:
            place = _Place(files, found, split)(row)
            raise ValueError(f"split={split}: {place} is {word!r}; write train, validation or test")
    of_each = [SPLIT_NAMES[word.lower()] for word in words]
    given = [name for name in SPLITS if name in of_each]
    if "train" not in given:
        raise ValueError(f"split={split} has no row that is train; some are needed to learn from")
    return np.array([given.index(name) for name in of_each]), serves_of(given)


def _typed_drop(names: Sequence[str]) -> str:
    """As an override in a shell, in quotes where a name needs them (src/settings/overrides.py has
    the same for whole values, but stands above src/data).
    """
    plain = [name if PLAIN.fullmatch(name) else _quoted(name) for name in names]
    override = f"data.drop=[{','.join(plain)}]"
    return shlex.quote(override) if '"' in override else override


def _quoted(name: str) -> str:
    # Hydra reads a backslash as one, except before a quotation mark.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda m: 2 * m[1] + m[2].replace('"', '\\"'), name) + '"'


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... ({len(names)})"
