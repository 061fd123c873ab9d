"""What a report holds: groups of runs, the score that is compared, what gave no result."""

from collections import Counter
from typing import NamedTuple

from src.reporting.baselines import Baseline
from src.reporting.groups import Group
from src.reporting.stored import StoredRun


class Report(NamedTuple):
    """keys: what differs between the groups; metric: the score that is compared."""

    keys: list[str]
    groups: list[Group]
    metric: str
    baseline: Baseline | None
    without_result: list[StoredRun]


def with_result(report: Report) -> list[StoredRun]:
    """The runs of all groups."""
    return [run for group in report.groups for run in group.runs]


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
