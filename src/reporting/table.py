"""The table of a report: a row is a group of runs."""

from src.output.tables import with_interval
from src.reporting.compared import Report
from src.reporting.differences import short
from src.reporting.groups import Group, paired, summary

SHOWN_COSTS = {"seconds": "seconds", "peak_memory_mib": "MiB"}
SAME = "all seeds the same"


def column_names(report: Report) -> list[str]:
    """The header of the table of groups."""
    compared = [report.metric] if report.baseline is None else [report.metric, "difference"]
    return [*map(short, report.keys), "seeds", *compared, *SHOWN_COSTS.values()]


def row(report: Report, group: Group) -> list[str]:
    """A group's row of that table, as text."""
    values = group.values(report.metric)
    cells = [*group.options, _seeds(group)]
    mean, half = summary(values) if values else (0.0, None)
    if not values:
        cells.append("no number")
    elif group.ignores_seed():
        cells.append(f"{with_interval(mean, None, digits=5)} ({SAME})")
    else:
        cells.append(with_interval(mean, half, digits=5))
    if report.baseline is not None:
        cells.append(_difference(report, group))
    for name in SHOWN_COSTS:
        costs = group.values(name)
        cells.append(f"{summary(costs)[0]:.4g}" if costs else "-")
    return cells


def rows(report: Report) -> list[list[str]]:
    """The table as text; the first row is its header."""
    return [column_names(report), *(row(report, group) for group in report.groups)]


def _difference(report: Report, group: Group) -> str:
    assert report.baseline is not None
    if group is report.baseline:
        return "baseline"
    found = paired(group.values(report.metric), report.baseline.values(report.metric))
    if found is None:
        return "no common seed"
    mean, half, number = found
    if number > 1 and group.ignores_seed() and report.baseline.ignores_seed():
        return f"{with_interval(mean, None, digits=3)} ({SAME})"
    return f"{with_interval(mean, half, digits=3)} ({number} seed{'s' * (number > 1)})"


def _seeds(group: Group) -> str:
    seeds = sorted(group.scores)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
