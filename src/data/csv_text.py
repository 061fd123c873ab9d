"""CSV files: a line of column names, then rows, each with the number of its line."""

import csv
from collections.abc import Iterator
from pathlib import Path

from src.data.checked_files import kind_of, open_file, read_lines, remedy_of, unpacked

SEPARATORS = ",;\t"


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """(column names, rows as (line, cells)); empty lines are skipped.

    The separator is the comma, semicolon or tab that the first line has most often. Raises
    ValueError, here or while rows are read, where the file cannot be read, is no text in UTF-8, has
    no line of names or two of one name, or a row with another number of cells.
    """
    with open_file(path) as file, unpacked(file) as content:
        try:
            start = content.read(4096)
        except (OSError, EOFError):  # told by read_lines, which comes next
            start = b""
    if kind_of(start) not in ("", "a text"):
        raise ValueError(f"{path} is no CSV file; {remedy_of(start)}")
    first = start.splitlines()[0].decode("utf-8", "replace") if start.splitlines() else ""
    separator = max(SEPARATORS, key=first.count)
    lines = csv.reader((line for _, line in read_lines(path)), delimiter=separator, strict=True)
    rows = _rows(lines, path)
    _, header = next(rows, (0, []))
    names = [name.strip() for name in header]
    if not names:
        raise ValueError(f"{path} is empty; a first line with the names of the columns is needed")
    for name in names:
        if names.count(name) > 1:
            called = f"the column {name}" if name else "a column without a name"
            raise ValueError(f"{path} has {called} twice; rename one in the first line")
    return names, _of_width(rows, len(names), path)


def _rows(lines, path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        for cells in lines:
            if cells:
                yield lines.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"line {lines.line_num} of {path} is no line of a CSV file ({error}); save it again"
        ) from error


def _of_width(
    rows: Iterator[tuple[int, list[str]]], width: int, path: Path
) -> Iterator[tuple[int, list[str]]]:
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(
                f"line {line} of {path} has {len(cells)} cells, but the first line names {width} "
                "columns; mend the line (a cell with a comma in it stands in quotes)"
            )
        yield line, cells
