"""The text format of LIBSVM: a line is `label index:value index:value ...`.

Not scikit-learn's load_svmlight_file: its errors name no line ("could not convert string to float:
b'one'"), and it reads nan, inf, 1_0 and groups of a ranking (qid) as if they were rows.
"""

import math
import operator
import re
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.data.checked_files import LARGEST, kind_of, read_lines, shown_size
from src.data.labelled import SparseRows

NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
PAIR = rf"(\d{{1,15}}):({NUMBER})"
ROW = re.compile(rf"{NUMBER}(?:\s+{PAIR})*", re.ASCII)


class LibsvmRows(NamedTuple):
    """What a file holds, entry by entry: entry j is `values[j]` at [rows[j], columns[j]]."""

    labels: np.ndarray  # float64 (n,)
    lines: np.ndarray  # int64 (n,): the line of each row, from 1
    rows: np.ndarray  # int64 (entries,)
    columns: np.ndarray  # int64 (entries,), from 0
    values: np.ndarray  # float64 (entries,)


def read_libsvm(path: Path) -> LibsvmRows:
    """The rows of a file; what follows a # and empty lines are skipped.

    The file may be packed by gzip, bzip2 or xz; indices of a row may come in any order. Raises
    ValueError, with the number of the line and what is there, where a line is not UTF-8, or not a
    finite number and pairs with different indices from 1 and finite values; where no line holds a
    row, where the entries fill more than LARGEST bytes, and where the file cannot be read.
    https://www.csie.ntu.edu.tw/~cjlin/libsvm (README).
    """
    labels, indices, values = array("d"), array("d"), array("d")
    lines, lengths = array("q"), array("q")
    for number, line in read_lines(path):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        numbers = _parse(text)
        if numbers is None:
            kind = kind_of(line.encode()) if number == 1 else ""
            known = f": the file is {kind}" if kind not in ("", "a text") else ""
            raise ValueError(f"line {number} {_what_is_wrong(text)}{known}")
        labels.append(numbers[0])
        indices.extend(numbers[1::2])
        values.extend(numbers[2::2])
        lines.append(number)
        lengths.append(len(numbers) // 2)
        if 16 * len(values) > LARGEST:
            raise ValueError(
                f"the file has entries for more than {shown_size(LARGEST)} by line {number}; take "
                "a part of it, as in `head -n 100000 FILE`"
            )
    if not labels:
        raise ValueError("the file holds no row; a row is for example `+1 1:0.5 3:2`")
    return LibsvmRows(
        np.array(labels),
        np.array(lines),
        np.repeat(np.arange(len(labels)), np.array(lengths)),
        np.array(indices).astype(np.int64) - 1,
        np.array(values),
    )


def keep_columns(table: LibsvmRows, columns: np.ndarray) -> LibsvmRows:
    """The entries in these (ascending) columns, which become 0, 1, ..."""
    found = np.minimum(np.searchsorted(columns, table.columns), len(columns) - 1)
    kept = columns[found] == table.columns
    return table._replace(rows=table.rows[kept], columns=found[kept], values=table.values[kept])


def to_dense(table: LibsvmRows, rows: np.ndarray, num_features: int) -> np.ndarray:
    """float64 (rows, num_features) of these rows, 0 where there is no entry."""
    at, columns, values = _entries(table, rows)
    dense = np.zeros((len(rows), num_features))
    dense[at, columns] = values
    return dense


def to_sparse(table: LibsvmRows, rows: np.ndarray, num_features: int) -> SparseRows:
    """The same without the zeros."""
    at, columns, values = _entries(table, rows)
    counts = np.bincount(at, minlength=len(rows))
    place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = len(rows), max(int(counts.max(initial=0)), 1)
    sparse = SparseRows(np.zeros(shape, np.int32), np.zeros(shape), num_features)
    sparse.columns[at, place] = columns
    sparse.values[at, place] = values
    return sparse


def most_entries(table: LibsvmRows, rows: np.ndarray) -> int:
    """Of one of these rows; 1 at least."""
    return max(int(np.bincount(_entries(table, rows)[0], minlength=1).max()), 1)


def _entries(table: LibsvmRows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place in `rows`, column, value) of every entry of these rows, row by row."""
    place = np.full(len(table.labels), -1)
    place[rows] = np.arange(len(rows))
    at = place[table.rows]
    kept = np.flatnonzero(at >= 0)
    kept = kept[np.argsort(at[kept], kind="stable")]
    return at[kept], table.columns[kept], table.values[kept]


def _parse(text: str) -> list[float] | None:
    """[label, index, value, index, value, ...]; None where anything is wrong."""
    if ROW.fullmatch(text) is None:
        return None
    numbers = list(map(float, text.replace(":", " ").split()))
    indices = numbers[1::2]
    different = all(map(operator.lt, [0, *indices], indices)) or (
        min(indices) > 0 and len(set(indices)) == len(indices)
    )
    return numbers if different and all(map(math.isfinite, numbers)) else None


def _what_is_wrong(text: str) -> str:
    """What is wrong with a line that `_parse` does not take: the first thing that is."""
    label, *pairs = re.split(r"\s+", text, flags=re.ASCII)
    if not re.fullmatch(NUMBER, label, re.ASCII) or not math.isfinite(float(label)):
        other = " (data=table reads CSV files)" if "," in label else ""
        return (
            f"starts with {label[:40]!r}, but a row starts with its label, a finite number{other}"
        )
    seen: set[int] = set()
    for pair in pairs:
        if pair.startswith("qid:"):
            return f"has {pair[:40]!r}: groups of a ranking are not read; remove them"
        match = re.fullmatch(PAIR, pair, re.ASCII)
        if match is None or not math.isfinite(float(match[2])):
            return f"has {pair[:40]!r}, but index:value is needed, with a finite number: 3:0.5"
        if int(match[1]) == 0:
            return (
                f"has {pair[:40]!r}, but indices start at 1; write the file anew by scikit-learn's "
                "dump_svmlight_file(*load_svmlight_file(FILE, zero_based=True), NEW, "
                "zero_based=False)"
            )
        if int(match[1]) in seen:
            return f"has {pair[:40]!r}, the index {match[1]} a second time; remove one of the two"
        seen.add(int(match[1]))
    raise AssertionError(f"nothing is wrong with {text!r}")
