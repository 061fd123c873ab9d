"""Any table in LIBSVM's text format, from one file or from one for each split."""

import warnings
from typing import Literal

import numpy as np

from src.data.checked_files import LARGEST, about, refuse_shared, shown_size, user_path
from src.data.image_classes import SPLITS
from src.data.labelled import Sizes, Table, make_table, split_parts
from src.data.libsvm_text import (
    LibsvmRows,
    keep_columns,
    most_entries,
    read_libsvm,
    to_dense,
    to_sparse,
)
from src.data.targets import MOST_CLASSES, Targets, names_of_numbers, tell_choice

LIMIT = LARGEST  # bytes of the dense array
NAMED = 1_000_000  # features; the names of more would fill the memory


def libsvm(
    *,
    path: str | None,
    validation_path: str | None,
    test_path: str | None,
    split_sizes: Sizes | None,
    split_seed: int | None,
    num_features: int | None,
    max_features: int | None = None,
    targets: Targets,
    standardise: bool,
    sparse: Literal["auto", True, False] = "auto",
) -> Table:
    """A table, (n, p) with 0 where a row has no entry; labels in sorted order are 0, 1, ..., and
    named as in the files. So are features (up to NAMED of them): by their indices, from 1.

    validation_path, test_path: files of these splits; a split without one is cut from `path`.
    split_sizes=null: 40, 30, 30 percent of `path` for the splits that it serves (all of a file that
    serves one). num_features: p; null: the highest index of all files. max_features: of these only
    so many are kept, those that most training rows have an entry of. targets=auto: classes where
    all labels are whole numbers, at most 100 different. standardise: by the mean and standard
    deviation of the training rows (targets too, where they are numbers); constants become 0.
    sparse: rows as SparseRows, not standardised; auto: where dense ones would fill over 4 GiB.

    Raises ValueError where a line cannot be read (with its number), where two splits are one file,
    where validation or test has a class that `path` has not, where the table would fill more than
    4 GiB, where sparse rows would be standardised, and on sizes that cannot be had. Chang, Lin:
    LIBSVM, ACM TIST 2011.
    """
    if path is None:
        raise ValueError("path=null: name a file in LIBSVM's text format with data.path=FILE")
    own = {"validation": validation_path, "test": test_path}
    own = {f"{split}_path": file for split, file in own.items() if file is not None}
    options = {"path": path, **own}
    refuse_shared(options)
    tables = {}
    for option, file in options.items():
        with about(option, file):
            tables[option] = read_libsvm(user_path(file))
    width = _width(options, tables, num_features)
    names, labels = _targets(options, tables, targets)

    source = {split: f"{split}_path" if f"{split}_path" in own else "path" for split in SPLITS}
    parts = [
        (len(labels[option]), [split for split in SPLITS if source[split] == option])
        for option in options
    ]
    rows = split_parts(parts, split_sizes, split_seed)
    columns = range(width)
    if max_features is not None:
        columns = _most_common(tables["path"], rows["train"], max_features)
        width = len(columns)
        tables = {option: keep_columns(table, columns) for option, table in tables.items()}
    chosen = {split: tables[source[split]] for split in SPLITS}
    sparse = _checked_form(path, chosen, rows, width, standardise, sparse)
    made = to_sparse if sparse else to_dense
    table = make_table(
        {split: made(chosen[split], rows[split], width) for split in SPLITS},
        {split: labels[source[split]][rows[split]] for split in SPLITS},
        len(names),
        standardise,
        names,
    )
    places = {split: chosen[split].lines[rows[split]].tolist() for split in SPLITS}
    origins = {
        split: tuple(f"line {line} of {options[source[split]]}" for line in places[split])
        for split in SPLITS
    }
    # By their indices in the files, which count from 1.
    features = tuple(str(column + 1) for column in columns) if width <= NAMED else ()
    serves = tuple(tuple(splits) for _, splits in parts)
    return table._replace(origins=origins, features=features, serves=serves)


def _width(options: dict[str, str], tables: dict[str, LibsvmRows], num_features: int | None) -> int:
    """The number of features of all files."""
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
    return width


def _most_common(table: LibsvmRows, rows: np.ndarray, number: int) -> np.ndarray:
    """The `number` columns, ascending, in which most of the rows have an entry; fewer if all."""
    if number < 1:
        raise ValueError(f"max_features={number} must be at least 1, or null for all")
    kinds, counts = np.unique(table.columns[np.isin(table.rows, rows)], return_counts=True)
    if not kinds.size:
        raise ValueError(
            f"max_features={number}: no training row has an entry, so there is no feature to keep; "
            "choose other rows for training (data.split_seed, data.split_sizes)"
        )
    # Of columns with as many entries, the first ones.
    return np.sort(kinds[np.argsort(-counts, kind="stable")][:number])


def _checked_form(
    path: str,
    tables: dict[str, LibsvmRows],
    rows: dict[str, np.ndarray],
    width: int,
    standardise: bool,
    sparse: Literal["auto", True, False],
) -> bool:
    """Whether rows are sparse. Raises ValueError where they are too large, or standardised."""
    total = sum(map(len, rows.values()))
    dense = total * width * 8
    if sparse == "auto":
        sparse = dense > LIMIT
    fewer = f"data.max_features={max(LIMIT // (8 * total), 1)}"
    if not sparse and dense > LIMIT:
        raise ValueError(
            f"path={path}: {total} rows of {width} features would fill {shown_size(dense)} as a "
            f"dense table, over the limit of {shown_size(LIMIT)}; choose data.sparse=true with "
            f"data.standardise=false, or keep the most common features alone, {fewer}"
        )
    if sparse and standardise:
        other = f"dense rows of the most common features, {fewer}"
        raise ValueError(
            f"standardise=true: {total} rows of {width} features are kept sparse, and to centre "
            f"them would fill in every 0 ({shown_size(dense)}); choose data.standardise=false, or "
            f"{other if dense > LIMIT else 'data.sparse=false'}"
        )
    most = max(most_entries(tables[split], rows[split]) for split in SPLITS) if sparse else 0
    if 12 * total * most > LIMIT or width >= 2**31:
        raise ValueError(
            f"path={path}: {total} sparse rows of {width} features, each as long as the longest "
            f"(of {most} entries), would fill {shown_size(12 * total * most)}, over the limit of "
            f"{shown_size(LIMIT)}; keep the most common features alone, {fewer}"
        )
    return sparse


def _targets(
    options: dict[str, str], tables: dict[str, LibsvmRows], targets: Targets
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(names of the classes, {option: 0-based classes}), or ((), {option: numbers})."""
    labels = {option: table.labels for option, table in tables.items()}
    names = np.unique(np.concatenate(list(labels.values())))
    whole = bool((names == np.rint(names)).all())
    if targets == "numbers" or (targets == "auto" and not (whole and len(names) <= MOST_CLASSES)):
        if targets == "auto" and whole:
            tell_choice(len(names), classes=False)
        return (), labels
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
        unknown = ~np.isin(table.labels, first)
        if unknown.any():
            row = int(np.argmax(unknown))
            raise ValueError(
                f"{where} has the class {table.labels[row]:g} in line {table.lines[row]}, but "
                f"path={options['path']}, from which is learned, has only {_listed(first)}: move "
                "some of its rows there, or leave them out; if labels are numbers, choose "
                "targets=numbers"
            )
        absent = np.setdiff1d(first, table.labels)
        if len(absent):
            warnings.warn(
                f"data.{where} has no row of the class {_listed(absent)}, so its scores say "
                "nothing about it",
                stacklevel=2,
            )
    if len(names) < 2:
        raise ValueError(
            f"path={options['path']}: every label is {names[0]:g}, but at least two classes are "
            "needed; if labels are numbers, choose targets=numbers"
        )
    if targets == "auto":
        tell_choice(len(names), classes=True)
    classes = {option: np.searchsorted(names, of) for option, of in labels.items()}
    return names_of_numbers(names), classes


def _listed(names: np.ndarray) -> str:
    shown = ", ".join(f"{name:g}" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown}, ... ({len(names)})"
