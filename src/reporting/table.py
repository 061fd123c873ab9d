"""The table of a report: a row is a group of runs."""

from src.output.tables import with_interval
from src.reporting.baselines import baseline_of
from src.reporting.compared import Report, best_rows, by_validation, seeds_in_words
from src.reporting.differences import short
from src.reporting.groups import PER_SEED, Group, in_order, paired, summary

SHOWN_COSTS = {PER_SEED: PER_SEED, "peak_memory_mib": "MiB"}
TASKS = "tasks"
BEST = "*"


def column_names(report: Report) -> list[str]:
    """The header of the table of groups."""
    chosen_by = by_validation(report)
    compared = [report.metric]
    compared += [chosen_by] if chosen_by is not None and chosen_by != report.metric else []
    compared += ["difference"] if report.baseline is not None else []
    return [*map(short, report.keys), seeds_column(report), *compared, *SHOWN_COSTS.values()]


def seeds_column(report: Report) -> str:
    """The name of the column that says what a row is a mean over."""
    return "seeds" if report.over is None else short(report.over)


def same(report: Report) -> str:
    """What is said in place of an interval where nothing is random."""
    return f"all {'seeds' if report.over is None else 'values'} the same"


def row(report: Report, group: Group) -> list[str]:
    """A group's row of that table, as text."""
    cells = [*group.options, _seeds(group)]
    chosen_by = by_validation(report)
    mark = BEST * any(of is group for of in best_rows(report))
    cells.append(_score(report, group, mark * (chosen_by == report.metric)))
    if chosen_by is not None and chosen_by != report.metric:
        cells.append(_mean(group, chosen_by, 5) + mark)
    if report.baseline is not None:
        cells.append(_difference(report, group))
    return [*cells, *(_mean(group, name, 4) for name in SHOWN_COSTS)]


def _mean(group: Group, name: str, digits: int) -> str:
    values = group.values(name)
    return f"{summary(values)[0]:.{digits}g}" if values else "-"


def rows(report: Report) -> list[list[str]]:
    """The table as text; the first row is its header."""
    return [column_names(report), *(row(report, group) for group in report.groups)]


def over_tasks(report: Report, group: Group) -> float | None:
    """Half of the interval of a single seed over its tasks; None where there is none."""
    values = group.values(report.metric)
    if len(values) != 1:
        return None
    return group.values(f"{report.metric}_ci95").get(next(iter(values)))


def _score(report: Report, group: Group, mark: str) -> str:
    values = group.values(report.metric)
    if not values:
        return "no number"
    mean, half = summary(values)
    tasks = over_tasks(report, group)
    said = []
    if group.ignores_seed():
        half, said = None, [same(report)]
    elif tasks is not None:
        half, said = tasks, [TASKS]
    if len(values) < len(group.scores):
        said.append(f"{len(values)} of {seeds_in_words(report, len(group.scores))}")
    return with_interval(mean, half, digits=5) + mark + (f" ({', '.join(said)})" if said else "")


def _difference(report: Report, group: Group) -> str:
    assert report.baseline is not None
    other = baseline_of(report.keys, report.baseline, group)
    if other is None:
        return "-"
    if other is group:
        return "baseline"
    found = paired(group.values(report.metric), other.values(report.metric))
    if found is None:
        return f"no common {'seed' if report.over is None else 'value'}"
    mean, half, number = found
    if number > 1 and group.ignores_seed() and other.ignores_seed():
        return f"{with_interval(mean, None, digits=3)} ({same(report)})"
    return f"{with_interval(mean, half, digits=3)} ({seeds_in_words(report, number)})"


def _seeds(group: Group) -> str:
    seeds = in_order(group.scores)
    first = seeds[0] if seeds else 0
    if isinstance(first, int) and len(seeds) > 2 and seeds == [*range(first, first + len(seeds))]:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
