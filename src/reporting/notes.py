"""What a reader of a report must know beside its table."""

from src.reporting.baselines import in_words
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
from src.reporting.table import BEST, SAME, TASKS, over_tasks

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
    found = []
    if alike:
        listed = ", ".join(f"{short(key)}={value}" for key, value in alike.items() if value != "-")
        found.append(f"All runs: {listed}.")
    if report.metric == "best/step":
        found.append("best/step is the iteration of the state that was best in validation.")
    elif report.metric.startswith("best/"):
        found.append(f"{report.metric} is the score of the state that was best in validation.")
    found += _direction(report)
    if several > len(alike_seeds):
        found.append("+- is half of a 95 % interval over seeds (Student's t).")
    if alike_seeds:
        found.append(
            f"{SAME}: these runs do not depend on the seed; several tell no more than one, so "
            "there is no interval."
        )
    if any(over_tasks(report, group) is not None for group in report.groups):
        found.append(
            f"({TASKS}): +- of one seed is half of a 95 % interval over its tasks; it does not "
            "tell how seeds differ."
        )
    for folder, (seeds, other) in _repeated(report):
        listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
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
    for run in with_result(report):
        if run.refused:
            found.append(f"{run.folder}: a later command was refused: {run.refused}")
    if report.baseline is not None:
        compared = in_words(report.keys, report.baseline)
        found.append(f"difference, seed by seed: to the row of {compared}.")
    if len(versions(report)) > 1:
        found.append("The runs are of different versions of this code or of its libraries.")
    return found


def _direction(report: Report) -> list[str]:
    """Which scores are good, and which row would be chosen."""
    name, mode = monitor(report)
    found = []
    if mode and report.metric.rpartition("/")[2] == name.rpartition("/")[2]:
        found.append(f"{report.metric}: {'higher' if mode == 'max' else 'lower'} is better.")
    if best_rows(report):
        found.append(f"Marked {BEST} best by validation, which is {by_validation(report)}.")
    return found


def _repeated(report: Report) -> list[tuple[str, tuple[list[int], str]]]:
    return [item for group in report.groups for item in group.repeated.items()]


def remarks(report: Report, mark: str) -> list[str]:
    lines = ["", *notes(report)] if notes(report) else []
    missing = left_out(report)
    if missing:
        lines += ["", f"{len(missing)} without a result:"]
        lines += [f"{mark}{folder}: {reason}" for folder, reason in missing]
    return lines
