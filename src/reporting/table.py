"""The table of a report: a row is a group of runs."""

from src.output.tables import with_interval
from src.reporting.baselines import baseline_of
from src.reporting.compared import Report
from src.reporting.differences import short
from src.reporting.groups import PER_SEED, Group, paired, summary

SHOWN_COSTS = {PER_SEED: PER_SEED, "peak_memory_mib": "MiB"}
SAME = "all seeds the same"
TASKS = "tasks"


def column_names(report: Report) -> list[str]:
    """The header of the table of groups."""
    compared = [report.metric] if report.baseline is None else [report.metric, "difference"]
    return [*map(short, report.keys), "seeds", *compared, *SHOWN_COSTS.values()]


def row(report: Report, group: Group) -> list[str]:
    """A group's row of that table, as text."""
    cells = [*group.options, _seeds(group), _score(report, group)]
    if report.baseline is not None:
        cells.append(_difference(report, group))
    for name in SHOWN_COSTS:
        costs = group.values(name)
        cells.append(f"{summary(costs)[0]:.4g}" if costs else "-")
    return cells


def over_tasks(report: Report, group: Group) -> float | None:
    """Half of the interval of a single seed over its tasks; None where there is none."""
    values = group.values(report.metric)
    if len(values) != 1:
        return None
    return group.values(f"{report.metric}_ci95").get(next(iter(values)))


def _score(report: Report, group: Group) -> str:
    values = group.values(report.metric)
    if not values:
        return "no number"
    mean, half = summary(values)
    tasks = over_tasks(report, group)
    said = []
    if group.ignores_seed():
        half, said = None, [SAME]
    elif tasks is not None:
        half, said = tasks, [TASKS]
    if len(values) < len(group.scores):
        said.append(f"{len(values)} of {len(group.scores)} seeds")
    return with_interval(mean, half, digits=5) + (f" ({', '.join(said)})" if said else "")


def rows(report: Report) -> list[list[str]]:
    """The table as text; the first row is its header."""
    return [column_names(report), *(row(report, group) for group in report.groups)]


def _difference(report: Report, group: Group) -> str:
    assert report.baseline is not None
    other = baseline_of(report.keys, report.baseline, group)
    if other is None:
        return "-"
    if other is group:
        return "baseline"
    found = paired(group.values(report.metric), other.values(report.metric))
    if found is None:
        return "no common seed"
    mean, half, number = found
    if number > 1 and group.ignores_seed() and other.ignores_seed():
        return f"{with_interval(mean, None, digits=3)} ({SAME})"
    return f"{with_interval(mean, half, digits=3)} ({number} seed{'s' * (number > 1)})"


def _seeds(group: Group) -> str:
    seeds = sorted(group.scores)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
