"""What a reader of a report must know beside its table."""

from src.reporting.baselines import Baseline, baseline_of, in_words
from src.reporting.compared import (
    Report,
    best_rows,
    by_validation,
    left_out,
    monitor,
    versions,
    with_result,
)
from src.reporting.differences import shared, short
from src.reporting.groups import Seed
from src.reporting.table import BEST, TASKS, over_tasks, same, seeds_column

MOST_REFUSED = 3  # that are named: all jobs of a sweep have the same reason
# What a study is of, where it is the same in all runs.
SETTING = (
    *("problem.name", "method.name", "data._target_", "model._target_"),
    *("num_iterations", "num_lower_steps", "meta_batch_size"),
)


def notes(report: Report) -> list[str]:
    """What a reader of the table must know."""
    alike_seeds = [group for group in report.groups if group.ignores_seed()]
    several = sum(len(group.values(report.metric)) > 1 for group in report.groups)
    configs = [run.config for run in with_result(report)]
    alike = shared(configs, SETTING)
    seeds, seed = (report.over, report.over) if report.over else ("seeds", "the seed")
    found = []
    if report.over:
        found.append(f"A row is a mean over {report.over}, whose values stand in place of seeds.")
    if alike:
        listed = ", ".join(f"{short(key)}={value}" for key, value in alike.items() if value != "-")
        found.append(f"All runs: {listed}.")
    if report.metric == "best/step":
        found.append("best/step is the iteration of the state that was best in validation.")
    elif report.metric.startswith("best/"):
        found.append(f"{report.metric} is the score of the state that was best in validation.")
    found += _direction(report)
    if several > len(alike_seeds):
        found.append(f"+- is half of a 95 % interval over {seeds} (Student's t).")
    if alike_seeds:
        found.append(
            f"{same(report)}: these runs do not depend on {seed}; several tell no more than one, "
            "so there is no interval."
        )
    if any(over_tasks(report, group) is not None for group in report.groups):
        found.append(
            f"({TASKS}): +- of one seed is half of a 95 % interval over its tasks; it does not "
            "tell how seeds differ."
        )
    for folder, (of, other) in _repeated(report):
        named = report.over or f"seed{'s' * (len(of) > 1)}"
        listed = f"{named} {', '.join(map(str, of))}"
        found.append(
            f"{folder} is left out for {listed}: {other} has the same with the same options."
        )
    for group in report.groups:
        for run in group.runs:
            if run not in group.drawn():
                found.append(
                    f"{run.folder} is not in the pictures: it shares seeds with another run, and "
                    "its curves are means over all its seeds."
                )
    found += _refused(report)
    if report.baseline is not None:
        compared = in_words(report.keys, report.baseline)
        one = "seed" if report.over is None else f"{report.over}"
        found.append(f"difference, {one} by {one}: to the row of {compared}.")
        found += _other_data(report, report.baseline)
    if any(not run.result.get("peak_memory_mib") for run in with_result(report) if run.result):
        found.append(
            "MiB is of runs that came first in their process; later jobs of a sweep have none, as "
            "the peak of an earlier one hides theirs."
        )
    if len(versions(report)) > 1:
        found.append("The runs are of different versions of this code or of its libraries.")
    return found


def _refused(report: Report) -> list[str]:
    """Results that a later command of other options has left as they were."""
    refused = [run for run in with_result(report) if run.refused]
    found = [f"{run.folder}: a later command was refused: {run.refused}" for run in refused]
    if len(found) <= MOST_REFUSED:
        return found
    others = len(found) - MOST_REFUSED
    more = (
        f"So it was in {others} other folder{'s' * (others > 1)}: failures.jsonl has the reasons."
    )
    return [*found[:MOST_REFUSED], more]


def _direction(report: Report) -> list[str]:
    """Which scores are good, and which row would be chosen."""
    name, mode = monitor(report)
    found = []
    if mode and report.metric.rpartition("/")[2] == name.rpartition("/")[2]:
        found.append(f"{report.metric}: {'higher' if mode == 'max' else 'lower'} is better.")
    if best_rows(report):
        alike = len({frozenset(group.scores) for group in report.groups}) == 1
        mind = "" if alike else f" Mind that the rows are of different {seeds_column(report)}."
        found.append(f"Marked {BEST} best by validation, which is {by_validation(report)}.{mind}")
    return found


def _other_data(report: Report, baseline: Baseline) -> list[str]:
    """A warning for each key of the data's seed in which a row and its baseline differ."""
    pairs = [(group, baseline_of(report.keys, baseline, group)) for group in report.groups]
    return [
        f"difference: {key} differs between a row and its baseline, so the difference is one of "
        f"data too; over={key} takes means over it, and differences value by value."
        for i, key in enumerate(report.keys)
        if key.endswith("data_seed")
        and any(other is not None and of.options[i] != other.options[i] for of, other in pairs)
    ]


def _repeated(report: Report) -> list[tuple[str, tuple[list[Seed], str]]]:
    return [item for group in report.groups for item in group.repeated.items()]


def remarks(report: Report, mark: str) -> list[str]:
    lines = ["", *notes(report)] if notes(report) else []
    missing = left_out(report)
    if missing:
        lines += ["", f"{len(missing)} without a result:"]
        lines += [f"{mark}{folder}: {reason}" for folder, reason in missing]
    return lines
