"""Each method and cell beside its paper: the line with the best validation, and what is missing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.output.tables import markdown
from src.results.comparing import estimate
from src.results.few_shot_rows import OMNIGLOT
from src.results.row import Row
from src.results.stored import STORE, Stored, stored_of, usable
from src.results.tables import minutes_of, number

HEADER = [
    *("ways, shots", "method", "test accuracy", "seeds", "published", "missing"),
    *("minutes, machine", "ROW="),
]
CELL = ("problem.ways", "problem.shots", "method")


def overview(store: Path = STORE) -> Iterable[str]:
    """A line for each method and cell that is stored. No test score chooses among its rows."""
    found: dict[tuple[str, ...], list[tuple[Row, Mapping[int, Stored]]]] = {}
    for row in OMNIGLOT:
        if stored := usable(stored_of(row, store)):
            options = dict(option.split("=", 1) for option in row.overrides)
            found.setdefault(tuple(options[key] for key in CELL), []).append((row, stored))
    cells = [HEADER]
    for ways, shots, method in sorted(found, key=lambda cell: (int(cell[0]), int(cell[1]))):
        row, stored = max(found[ways, shots, method], key=_validation)
        cells.append([f"{ways}, {shots}", f"`{method}`", *_line(row, stored)])
    return markdown(cells)


def _validation(row_and_stored: tuple[Row, Mapping[int, Stored]]) -> float:
    return estimate(_results(row_and_stored[1]), "validation/accuracy").value


def _line(row: Row, stored: Mapping[int, Stored]) -> list[str]:
    (quoted,) = row.quoted
    value, half = estimate(_results(stored), quoted.score)
    published = quoted.published
    assert published is not None, "only what a paper has stands among these rows"
    missing = 100 * (published.value - value)
    return [
        *(number(quoted, value, half), ", ".join(map(str, sorted(stored)))),
        *(number(quoted, published.value, published.half_width), f"{missing:.1f} %"),
        *(minutes_of(stored), f"`{row.name}`"),
    ]


def _results(stored: Mapping[int, Stored]) -> dict[int, Mapping[str, Any]]:
    return {seed: one.result for seed, one in stored.items()}
