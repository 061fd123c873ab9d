"""Tables of one's own, from CSV or parquet files: columns of numbers, and those of texts."""

from array import array
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.data.checked_files import LARGEST, open_file, shown_size
from src.data.csv_text import read_csv

PARQUET = b"PAR1"
ABSENT = {"", "na", "nan", "null", "none", "n/a", "?"}  # how people write a value that is missing
TRUTHS = {"true": 1.0, "false": 0.0}


class Columns(NamedTuple):
    """The columns of a file.

    names: of the columns
    numbers: {name: float64 (n,)}; those that could not be read as numbers are left out
    texts: {name: what stands there}, of the columns that were asked for as they are
    problems: {name: why it is no column of numbers}
    lines: int (n,): where each row stands in the file, and "line" or "row": what they count
    """

    names: list[str]
    numbers: dict[str, np.ndarray]
    texts: dict[str, list[str]]
    problems: dict[str, str]
    lines: np.ndarray
    counted: str = "line"


def read_table(path: Path, as_texts: set[str], dropped: set[str]) -> Columns:
    """The columns of a CSV file, or of a parquet file, which pandas reads.

    as_texts: columns that are kept as they are written. dropped: columns that are not read. Raises
    ValueError where the file cannot be read, has no rows or numbers for more than LARGEST bytes.
    """
    with open_file(path) as file:
        parquet = file.read(4) == PARQUET
    return (_read_parquet if parquet else _read_csv)(path, as_texts, dropped)


def _read_csv(path: Path, as_texts: set[str], dropped: set[str]) -> Columns:
    names, rows = read_csv(path)
    kept = [name for name in names if name not in as_texts | dropped]
    places = [names.index(name) for name in kept]
    texts = {name: [] for name in names if name in as_texts}
    wanted = [(found, names.index(name)) for name, found in texts.items()]
    problems: dict[str, str] = {}
    values, lines = array("d"), array("q")
    for line, cells in rows:
        lines.append(line)
        for found, place in wanted:
            found.append(cells[place].strip())
        for name, place in zip(kept, places, strict=True):
            number, problem = read_number(cells[place])
            values.append(number)
            if problem and name not in problems:
                problems[name] = f"line {line} has {problem}"
        if len(values) * 8 > LARGEST:
            raise ValueError(
                f"{path} has numbers for more than {shown_size(LARGEST)}; take fewer rows, or "
                "leave columns out with data.drop=[NAME,...]"
            )
    if not lines:
        raise ValueError(f"{path} has no row below the names of its columns")
    if all(_is_number(name) for name in names):
        raise ValueError(
            f"{path} starts with numbers, {', '.join(names[:3])}, but a first line with the names "
            "of the columns is needed; write one"
        )
    table = np.array(values).reshape(len(lines), len(kept))
    numbers = {name: table[:, i] for i, name in enumerate(kept) if name not in problems}
    return Columns(names, numbers, texts, problems, np.array(lines))


def read_number(cell: str) -> tuple[float, str]:
    """(the number, what is wrong with it): (nan, ...) where anything is, ("no value") included."""
    text = cell.strip()
    try:
        number = float(text)
    except ValueError:
        truth = TRUTHS.get(text.lower())
        if truth is not None:
            return truth, ""
        if text.lower() in ABSENT:
            return np.nan, "no value"
        return np.nan, f"the text {text[:40]!r}"
    if np.isnan(number):
        return np.nan, "no value"
    if not np.isfinite(number) or "_" in text:
        return np.nan, f"{text[:40]!r}, no finite number"
    return number, ""


def _is_number(text: str) -> bool:
    return not read_number(text)[1]


def _read_parquet(path: Path, as_texts: set[str], dropped: set[str]) -> Columns:
    try:
        pandas: Any = import_module("pandas")
    except ImportError as error:
        raise ValueError(
            f"{path} is a parquet file, which pandas reads, and it is not installed: `pip install "
            "pandas pyarrow`, or save the table as CSV, frame.to_csv('FILE.csv', index=False)"
        ) from error
    try:
        frame: Any = pandas.read_parquet(path)
    except ImportError as error:
        raise ValueError(
            f"{path} is a parquet file, and pandas needs another package for it: `pip install "
            "pyarrow`"
        ) from error
    # pyarrow's errors have many types, few of them documented.
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error}); get the file again") from error
    names = [str(name) for name in frame.columns]
    if not len(frame):
        raise ValueError(f"{path} has no rows")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name; rename one")
    numbers, texts, problems = {}, {}, {}
    for name, column in zip(names, frame.columns, strict=True):
        values = frame[column]
        if name in as_texts:
            absent = values.isna().tolist()
            texts[name] = ["" if a else str(v) for v, a in zip(values, absent, strict=True)]
        elif name in dropped:
            continue
        elif values.dtype.kind not in "biuf":
            problems[name] = f"row 0 has the text {str(values.iloc[0])[:40]!r}"
        else:
            found = values.to_numpy(dtype=np.float64, na_value=np.nan)
            numbers[name] = found
            wrong = ~np.isfinite(found)
            if wrong.any():
                row = int(np.argmax(wrong))
                del numbers[name]
                kind = "no value" if np.isnan(found[row]) else "no finite number"
                problems[name] = f"row {row} has {kind}"
    return Columns(names, numbers, texts, problems, np.arange(len(frame)), "row")
