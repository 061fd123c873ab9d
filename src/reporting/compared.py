"""What a report holds: groups of runs, the score that is compared, what gave no result."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from src.reporting.baselines import Baseline
from src.reporting.groups import Group, summary
from src.reporting.stored import StoredRun


class Report(NamedTuple):
    """What is compared.

    keys     what differs between the groups
    metric   the score that is compared
    over     the option whose values stand in the place of seeds; None: seeds themselves
    """

    keys: list[str]
    groups: list[Group]
    metric: str
    baseline: Baseline | None
    without_result: list[StoredRun]
    over: str | None = None


def seeds_in_words(report: Report, number: int) -> str:
    """3 seeds, or 3 values of what stands in their place."""
    return f"{number} {'seed' if report.over is None else 'value'}{'s' * (number != 1)}"


def with_result(report: Report) -> list[StoredRun]:
    """The runs of all groups."""
    return [run for group in report.groups for run in group.runs]


def monitor(report: Report) -> tuple[str, str]:
    """What chose the best states of all runs: its name, and min or max; "" where they differ."""
    names = {str((run.result or {})["monitor"]) for run in with_result(report)}
    modes = {_mode(run) for run in with_result(report)}
    return names.pop() if len(names) == 1 else "", modes.pop() if len(modes) == 1 else ""


def _mode(run: StoredRun) -> str:
    problem = run.config.get("problem")
    found = problem.get("monitor") if isinstance(problem, Mapping) else None
    mode = found.get("mode") if isinstance(found, Mapping) else None
    return mode if mode in ("min", "max") else ""


def by_validation(report: Report) -> str | None:
    """The score that says which row to choose, best/validation/...; None where runs have none."""
    name = f"best/{monitor(report)[0]}"
    test = report.metric.startswith("best/test/") or report.metric == name
    return name if test and any(group.values(name) for group in report.groups) else None


def is_of_data(key: str) -> bool:
    """Whether runs that differ in this key have other data."""
    return key.startswith("data.") or key.endswith("data_seed")


def best_rows(report: Report) -> list[Group]:
    """The groups that are best by it; none where there is one group, no direction, or other data.

    Scores on different data say nothing of which options are better.
    """
    name, mode = by_validation(report), monitor(report)[1]
    other = any(key == "problem.name" or is_of_data(key) for key in report.keys)
    if name is None or not mode or other or len(report.groups) == 1:
        return []
    means = [summary(of)[0] if (of := group.values(name)) else None for group in report.groups]
    known = [mean for mean in means if mean is not None]
    best = max(known) if mode == "max" else min(known)
    return [group for group, mean in zip(report.groups, means, strict=True) if mean == best]


def left_out(report: Report) -> list[tuple[str, str]]:
    """(folder, reason) of every run, and of every seed of a run, that gave no result."""
    found = [(str(run.folder), run.problem) for run in report.without_result]
    for run in with_result(report):
        for seed, reason in (run.result or {}).get("failed_seeds", {}).items():
            found.append((str(run.folder), f"seed {seed}: {reason}"))
    return found


def cited(report: Report) -> list[str]:
    """The keys that any of the runs cites, each once."""
    runs = with_result(report)
    return list({key: None for run in runs for key in (run.result or {}).get("cite", [])})


def versions(report: Report) -> dict[str, int]:
    """{the versions that made a result: how many runs}."""
    found: Counter[str] = Counter()
    for run in with_result(report):
        of = (run.result or {}).get("versions", {})
        packages = {"python": of.get("python"), **of.get("packages", {})}
        text = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        found[text or "not recorded"] += 1
    return dict(found)
