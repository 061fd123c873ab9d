"""Rows as text: the list, one row in full, a comparison, and the tables of docs/results.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from src.output.tables import aligned, markdown
from src.results.comparing import Comparison, Estimate, estimate, paired
from src.results.row import Quoted, Row
from src.results.rows import GROUPS, ROWS
from src.results.stored import STORE, Stored, results_of, stored_of, usable

NOT_RUN = "not run yet"
HEADER = [
    *("setting (ROW=)", "command", "seeds", "value with interval", "minutes, machine"),
    *("published value, source", "difference in protocol"),
]


def number(quoted: Quoted, value: float, half_width: float | None) -> str:
    """A score in its unit, with its interval."""
    if quoted.percent:
        half = "" if half_width is None else f" ± {100 * half_width:.2g}"
        return f"{100 * value:.4g}{half} %"
    return f"{value:.4g}" + ("" if half_width is None else f" ± {half_width:.2g}")


def value_of(row: Row, stored: Mapping[int, Stored], store: Path = STORE) -> str:
    """What is stored for a row, or why nothing is; and its difference from the row `against`."""
    kept = usable(stored)
    if not kept:
        return "stored by another version" if stored else NOT_RUN
    results = results_of(kept)

    def shown(quoted: Quoted) -> str:
        return number(quoted, *estimate(results, quoted.score)) + difference(quoted)

    def difference(quoted: Quoted) -> str:
        if not row.against:
            return ""
        others = usable(stored_of(ROWS[row.against], store))
        found = paired(results, results_of(others), quoted.score)
        if found is None:
            return ""
        factor, unit = (100, " %") if quoted.percent else (1, "")
        half = "" if found.half_width is None else f" ± {factor * found.half_width:.2g}"
        return f" ({factor * found.value:+.2f}{half}{unit} from `{row.against}`, paired)"

    return "; ".join(f"{quoted.label} {shown(quoted)}" for quoted in row.quoted)


def published_of(row: Row) -> str:
    """What others have, with the source; "recalled" is not checked against the paper."""
    found = [(quoted, quoted.published) for quoted in row.quoted if quoted.published is not None]
    if not found:
        return ""
    values = "; ".join(f"{q.label} {number(q, p.value, p.half_width)}" for q, p in found)
    _, first = found[0]
    return f"{values} ({first.source}{', recalled' if first.recalled else ''})"


def minutes_of(stored: Mapping[int, Stored]) -> str:
    """The mean over seeds, machine by machine."""
    of_machines: dict[str, list[float]] = {}
    for one in usable(stored).values():
        of_machines.setdefault(one.machine, []).append(one.minutes)
    means = {name: sum(found) / len(found) for name, found in sorted(of_machines.items())}
    # As .2g, but without an exponent: 0.025, 1.4, 83, 130.
    return "; ".join(
        f"{mean:.0f}, {name}" if mean >= 10 else f"{mean:.2g}, {name}"
        for name, mean in means.items()
    )


def listing(store: Path = STORE) -> Iterable[str]:
    """All rows with what is stored, group by group."""
    for name, group in GROUPS.items():
        cells = [["", "stored", "published"]]
        for row in group.rows:
            cells.append([row.name, value_of(row, stored_of(row, store), store), published_of(row)])
        yield from [f"{name}: {group.title}", *(f"  {line}" for line in aligned(cells)), ""]


def in_full(row: Row, stored: Mapping[int, Stored]) -> Iterable[str]:
    """One row: command, what is stored, what is published, what differs."""
    differs = "; ".join(filter(None, (row.differs, GROUPS[row.group].shared)))
    yield row.name
    yield f"  command     {row.command()}"
    yield f"  seeds       {', '.join(map(str, row.seeds))}"
    if row.needs:
        yield f"  needs       the files of {row.needs}: data.root=FOLDER, or BILEVEL_DATA"
    yield f"  stored      {value_of(row, stored)}"
    yield from (f"              {one.problem}" for one in stored.values() if one.problem)
    if minutes_of(stored):
        yield f"  minutes     {minutes_of(stored)}"
    yield f"  published   {published_of(row) or 'nothing'}"
    if differs:
        yield f"  differs     {differs}"


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One line for each score: stored, new, difference, bound, verdict."""
    cells = [["", "stored", "new", "difference", "allowed", "", "published"]]
    for one in comparisons:
        quoted, published = one.quoted, one.quoted.published
        cells.append(
            [
                *(quoted.label, number(quoted, *one.stored), number(quoted, *one.new)),
                *(number(quoted, one.difference, None), number(quoted, one.bound, None)),
                "agrees" if one.agrees else "DIFFERS",
                "" if published is None else number(quoted, published.value, published.half_width),
            ]
        )
    return aligned(cells)


def estimates(row: Row, results: Mapping[int, Mapping]) -> list[str]:
    """What a run gave, where there is nothing to compare it with."""
    found: list[tuple[Quoted, Estimate]] = [(q, estimate(results, q.score)) for q in row.quoted]
    return [f"{quoted.label} {number(quoted, *one)}" for quoted, one in found]


def table(group: str, store: Path = STORE) -> Iterable[str]:
    """The rows of a group for docs/results.md."""
    cells = [HEADER]
    for row in GROUPS[group].rows:
        stored = stored_of(row, store)
        seeds = sorted(usable(stored)) or row.seeds
        cells.append(
            [
                *(f"`{row.name}`", f"`{' '.join(row.overrides)}`", ", ".join(map(str, seeds))),
                *(value_of(row, stored, store), minutes_of(stored), published_of(row), row.differs),
            ]
        )
    return markdown(cells)
