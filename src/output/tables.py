"""Scores as text."""

from collections.abc import Sequence


def with_interval(value: float, half_width: float | None, digits: int) -> str:
    """value +- half_width; the value alone where there is no interval."""
    return f"{value:.{digits}g}" + ("" if half_width is None else f" +- {half_width:.2g}")


def iterations(steps: Sequence[int]) -> str:
    """The iterations of the states of several seeds, as one word or two."""
    first, last = min(steps), max(steps)
    return f"iteration {first}" if first == last else f"iterations {first} to {last}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, the cells of a column below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; the first row is its header."""
    header, *body = rows
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body)]
