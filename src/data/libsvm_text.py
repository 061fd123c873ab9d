"""The text format of LIBSVM: a line is `label index:value index:value ...`.

Not scikit-learn's load_svmlight_file: its errors name no line ("could not convert string to float:
b'one'"), and it reads nan, inf, 1_0 and groups of a ranking (qid) as if they were rows.
"""

import math
import operator
import re
from array import array
from typing import NamedTuple

import numpy as np

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


def read_libsvm(path: str) -> LibsvmRows:
    """The rows of a file; what follows a # and empty lines are skipped.

    Raises ValueError, with the number of the line and what is there, where a line is not a finite
    number and pairs with ascending indices from 1 and finite values, where no line holds a row,
    and where the file cannot be opened. https://www.csie.ntu.edu.tw/~cjlin/libsvm (README).
    """
    labels, indices, values = array("d"), array("d"), array("d")
    lines, lengths = array("q"), array("q")
    try:
        # A byte that is no text becomes a character that no number has.
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                text = line.partition("#")[0].strip()
                if not text:
                    continue
                numbers = _parse(text)
                if numbers is None:
                    raise ValueError(f"line {number} {_what_is_wrong(text)}")
                labels.append(numbers[0])
                indices.extend(numbers[1::2])
                values.extend(numbers[2::2])
                lines.append(number)
                lengths.append(len(numbers) // 2)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from error
    if not labels:
        raise ValueError("the file holds no row; a row is for example `+1 1:0.5 3:2`")
    return LibsvmRows(
        np.array(labels),
        np.array(lines),
        np.repeat(np.arange(len(labels)), np.array(lengths)),
        np.array(indices).astype(np.int64) - 1,
        np.array(values),
    )


def to_dense(table: LibsvmRows, num_features: int) -> np.ndarray:
    """float64 (n, num_features), 0 where a row has no entry."""
    dense = np.zeros((len(table.labels), num_features))
    dense[table.rows, table.columns] = table.values
    return dense


def _parse(text: str) -> list[float] | None:
    """[label, index, value, index, value, ...]; None where anything is wrong."""
    if ROW.fullmatch(text) is None:
        return None
    numbers = list(map(float, text.replace(":", " ").split()))
    indices = numbers[1::2]
    ascending = all(map(operator.lt, [0, *indices], indices))
    return numbers if ascending and all(map(math.isfinite, numbers)) else None


def _what_is_wrong(text: str) -> str:
    """What is wrong with a line that `_parse` does not take: the first thing that is."""
    label, *pairs = re.split(r"\s+", text, flags=re.ASCII)
    if not re.fullmatch(NUMBER, label, re.ASCII) or not math.isfinite(float(label)):
        return f"starts with {label[:40]!r}, but a row starts with its label, a finite number"
    last = 0
    for pair in pairs:
        if pair.startswith("qid:"):
            return f"has {pair[:40]!r}: groups of a ranking are not read; remove them"
        match = re.fullmatch(PAIR, pair, re.ASCII)
        if match is None or not math.isfinite(float(match[2])):
            return f"has {pair[:40]!r}, but index:value is needed, with a finite number: 3:0.5"
        if int(match[1]) == 0:
            return f"has {pair[:40]!r}, but indices start at 1; add 1 to every index of the file"
        if int(match[1]) <= last:
            return f"has {pair[:40]!r} after the index {last}; indices must ascend"
        last = int(match[1])
    raise AssertionError(f"nothing is wrong with {text!r}")
