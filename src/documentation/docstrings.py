"""Docstrings of this project, which are plain text, as reStructuredText for Sphinx.

Their forms are few: prose, indented formulas, and lines of `name   meaning`.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

# `name   meaning`, or a call, which may fill the column of names: `check(lower, shapes) raises ...`
ENTRY = re.compile(r"(\S.*?(?=\s{2})|\w+\([\w, ]*\)(?=\s))\s+(\S.*)")


def as_rst(lines: Sequence[str]) -> list[str]:
    """The same docstring, with nothing in it that Sphinx would misread."""
    return [line for paragraph in _paragraphs(lines) for line in (*_one(paragraph), "")]


def _paragraphs(lines: Sequence[str]) -> Iterator[list[str]]:
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        if not blank:
            yield list(group)


def _one(lines: list[str]) -> Iterator[str]:
    if _is_list(lines):
        yield from _entries(_dedented(lines))
        return
    for indented, group in groupby(lines, key=lambda line: line.startswith(" ")):
        if not indented:
            yield from map(_escaped, group)
        else:
            yield from ("", "::", "", *(f"    {line}" for line in _dedented(list(group))), "")


def _dedented(lines: list[str]) -> list[str]:
    least = min(len(line) - len(line.lstrip()) for line in lines)
    return [line[least:] for line in lines]


def _is_list(lines: list[str]) -> bool:
    """Whether each line is `name   meaning` or goes on with the meaning of the one before."""
    first, *others = _dedented(lines)
    return bool(ENTRY.fullmatch(first)) and all(
        line.startswith(" ") or ENTRY.fullmatch(line) for line in others
    )


def _entries(lines: list[str]) -> Iterator[str]:
    """A definition list; entries below an entry are items of a list."""
    for line in lines:
        found = ENTRY.fullmatch(line.strip())
        if found and not line.startswith(" "):
            yield from ("", f"``{found[1].strip('` ')}``", f"    {_escaped(found[2])}")
        elif found:
            yield from ("", f"    * ``{found[1].strip('` ')}``: {_escaped(found[2])}")
        else:
            yield f"    {_escaped(line.strip())}"


def _escaped(line: str) -> str:
    """`code` as literal; * | _ and \\ as they are."""
    parts = re.split(r"`+([^`]+)`+", line)
    return "".join(
        f"``{part}``" if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part)
        for i, part in enumerate(parts)
    )
