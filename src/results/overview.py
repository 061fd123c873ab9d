"""Each method and cell beside its paper: of its rows the one with the best validation."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from src.output.tables import markdown
from src.results.comparing import estimate
from src.results.few_shot_rows import OMNIGLOT
from src.results.row import Row
from src.results.stored import STORE, Stored, results_of, stored_of, usable
from src.results.tables import NOT_RUN, minutes_of, number

HEADER = [
    *("ways, shots", "method", "test accuracy", "seeds", "published", "below it"),
    *("minutes, machine", "ROW="),
]
CELL = ("problem.ways", "problem.shots", "method")
Kept = tuple[Row, Mapping[int, Stored]]


def overview(store: Path = STORE, rows: Iterable[Row] = OMNIGLOT) -> Iterable[str]:
    """A line for each method and cell. No test score chooses among its rows."""
    found: dict[tuple[str, ...], list[Kept]] = {}
    for row in rows:
        options = dict(option.split("=", 1) for option in row.overrides)
        cell = tuple(options[key] for key in CELL)
        found.setdefault(cell, []).append((row, usable(stored_of(row, store))))
    cells = [HEADER]
    for ways, shots, method in sorted(found, key=lambda cell: (int(cell[0]), int(cell[1]))):
        row, stored = max(found[ways, shots, method], key=_validation)
        cells.append([f"{ways}, {shots}", f"`{method}`", *_line(row, stored)])
    return markdown(cells)


def _validation(kept: Kept) -> float:
    """Below any accuracy where nothing is stored."""
    return estimate(results_of(kept[1]), "validation/accuracy").value if kept[1] else -1.0


def _line(row: Row, stored: Mapping[int, Stored]) -> list[str]:
    (quoted,) = row.quoted
    published = quoted.published
    assert published is not None, "only what a paper has stands among these rows"
    of_paper, name = number(quoted, published.value, published.half_width), f"`{row.name}`"
    if not stored:
        return [NOT_RUN, "", of_paper, "", "", name]
    value, half = estimate(results_of(stored), quoted.score)
    below = round(100 * (published.value - value), 1)
    return [
        *(number(quoted, value, half), ", ".join(map(str, sorted(stored)))),
        *(of_paper, f"{abs(below):.1f} %{' above' if below < 0 else ''}"),
        *(minutes_of(stored), name),
    ]
