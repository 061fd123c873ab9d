"""Any table in LIBSVM's text format, from one file or from one for each split."""

from pathlib import Path
from typing import Literal

import numpy as np

from src.data.image_classes import SPLITS
from src.data.labelled import Sizes, Table, make_table, split_parts
from src.data.libsvm_text import LibsvmRows, read_libsvm, to_dense

LIMIT = 4 * 2**30  # bytes of the dense array
MOST_CLASSES = 100  # that targets=auto takes for classes


def libsvm(
    *,
    path: str | None,
    validation_path: str | None,
    test_path: str | None,
    split_sizes: Sizes | None,
    split_seed: int | None,
    num_features: int | None,
    targets: Literal["auto", "classes", "numbers"],
    standardise: bool,
) -> Table:
    """A dense table, (n, p) with 0 where a row has no entry; labels in sorted order are 0, 1, ...

    validation_path, test_path: files of these splits; a split without one is cut from `path`.
    split_sizes=null: 40, 30, 30 percent of `path` for the splits that it serves (all of a file that
    serves one). num_features: p; null: the highest index of all files. targets=auto: classes where
    all labels are whole numbers, at most 100 different. standardise: by the mean and standard
    deviation of the training rows (targets too, where they are numbers); constants become 0.

    Raises ValueError where a line cannot be read (with its number), where two splits are one file,
    where files have different classes, where the table would fill more than 4 GiB, and on sizes
    that cannot be had. Chang, Lin: LIBSVM, ACM TIST 2011.
    """
    if path is None:
        raise ValueError("path=null: name a file in LIBSVM's text format with data.path=FILE")
    own = {"validation": validation_path, "test": test_path}
    own = {f"{split}_path": file for split, file in own.items() if file is not None}
    options = {"path": path, **own}
    _refuse_shared(options)
    tables = {option: _read(option, file) for option, file in options.items()}
    width = _width(options, tables, num_features)
    num_classes, labels = _targets(options, tables, targets)

    source = {split: f"{split}_path" if f"{split}_path" in own else "path" for split in SPLITS}
    parts = [
        (len(labels[option]), [split for split in SPLITS if source[split] == option])
        for option in options
    ]
    rows = split_parts(parts, split_sizes, split_seed)
    inputs = {option: to_dense(table, width) for option, table in tables.items()}
    return make_table(
        {split: inputs[source[split]][rows[split]] for split in SPLITS},
        {split: labels[source[split]][rows[split]] for split in SPLITS},
        num_classes,
        standardise,
    )


def _read(option: str, file: str) -> LibsvmRows:
    try:
        return read_libsvm(file)
    except ValueError as error:
        raise ValueError(f"{option}={file}: {error}") from error


def _refuse_shared(options: dict[str, str]) -> None:
    """Rows of training that are tested on make every score too good."""
    first: dict[Path, str] = {}
    for option, file in options.items():
        other = first.setdefault(Path(file).resolve(), option)
        if other != option:
            raise ValueError(
                f"{option}={file} is the file of {other} too, so scores would mean nothing; leave "
                f"{option} out (null), and the split is cut from path"
            )


def _width(options: dict[str, str], tables: dict[str, LibsvmRows], num_features: int | None) -> int:
    """The number of features of all files, so many that the dense table can be held."""
    highest = {option: int(table.columns.max(initial=-1)) + 1 for option, table in tables.items()}
    if num_features is not None and num_features < 1:
        raise ValueError(f"num_features={num_features} must be at least 1, or null")
    width = max(highest.values()) if num_features is None else num_features
    if width < 1:
        raise ValueError(f"path={options['path']}: no row has a feature, as in `+1 1:0.5 3:2`")
    for option, table in tables.items():
        if highest[option] > width:
            line = table.lines[table.rows[np.argmax(table.columns >= width)]]
            raise ValueError(
                f"num_features={num_features}: {option}={options[option]} has an index up to "
                f"{highest[option]}, first past it in line {line}; choose "
                f"num_features={max(highest.values())}, or null"
            )
    num_rows = sum(len(table.labels) for table in tables.values())
    if num_rows * width * 8 > LIMIT:
        raise ValueError(
            f"path={options['path']}: {num_rows} rows of {width} features would fill "
            f"{num_rows * width * 8 / 2**30:.1f} GiB as a dense table, over the limit of "
            f"{LIMIT / 2**30:.0f} GiB; take fewer rows, or a file with fewer features"
        )
    return width


def _targets(
    options: dict[str, str], tables: dict[str, LibsvmRows], targets: str
) -> tuple[int, dict[str, np.ndarray]]:
    """(number of classes, {option: 0-based classes}), or (0, {option: numbers})."""
    labels = {option: table.labels for option, table in tables.items()}
    names = np.unique(np.concatenate(list(labels.values())))
    whole = bool((names == np.rint(names)).all())
    if targets == "numbers" or (targets == "auto" and not (whole and len(names) <= MOST_CLASSES)):
        return 0, labels
    first = np.unique(labels["path"])
    for option, table in tables.items():
        where = f"{option}={options[option]}"
        broken = table.labels != np.rint(table.labels)
        if broken.any():
            row = int(np.argmax(broken))
            raise ValueError(
                f"targets=classes: {where} has the label {table.labels[row]:g} in line "
                f"{table.lines[row]}, but classes are whole numbers; choose targets=numbers"
            )
        if not np.array_equal(np.unique(table.labels), first):
            raise ValueError(
                f"{where} has the labels {_listed(np.unique(table.labels))}, but "
                f"path={options['path']} has {_listed(first)}: classes must be the same in all "
                "files; if they are numbers, choose targets=numbers"
            )
    if len(names) < 2:
        raise ValueError(
            f"path={options['path']}: every label is {names[0]:g}, but at least two classes are "
            "needed; if labels are numbers, choose targets=numbers"
        )
    return len(names), {option: np.searchsorted(names, of) for option, of in labels.items()}


def _listed(names: np.ndarray) -> str:
    shown = ", ".join(f"{name:g}" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown}, ... ({len(names)})"
