"""The report of several runs: one table of groups, one of what gave no result."""

import csv
import io
from collections.abc import Sequence

from src.output.tables import aligned, markdown
from src.reporting.baselines import chosen_baseline
from src.reporting.compared import Report
from src.reporting.differences import differing, typed_keys
from src.reporting.groups import grouped, in_order
from src.reporting.notes import remarks
from src.reporting.over import with_values_as_seeds
from src.reporting.stored import StoredRun
from src.reporting.table import rows
from src.settings.errors import UserError


def make_report(
    runs: Sequence[StoredRun],
    metric: str | None = None,
    baseline: str | None = None,
    over: str | None = None,
) -> Report:
    """Compare finished runs by a score; None: the monitored one of the best state, of the test.

    baseline: "key=value" pairs, with commas, that choose one group, or one for each row.
    over: an option whose values take the place of seeds. Raises UserError where no run is finished,
    or where a name is not known.
    """
    finished = [run for run in runs if run.result is not None]
    unfinished = [run for run in runs if run.result is None]
    if not finished:
        reasons = "".join(f"; {run.folder}: {run.problem}" for run in unfinished[:3])
        raise UserError(f"no finished run was found: name run folders, or a sweep's{reasons}")
    finished = finished if over is None else with_values_as_seeds(finished, over)
    typed = typed_keys(text for run in finished for text in (run.result or {}).get("overrides", []))
    keys = differing([run.config for run in finished], typed)
    groups = grouped(finished, keys)
    chosen = metric or _monitored(finished[0])
    known = sorted({name for group in groups for of in group.scores.values() for name in of})
    if chosen not in known:
        listed = ", ".join(name for name in known if not name.endswith("_ci95"))
        raise UserError(f"metric={chosen} is in no result; choose one of {listed}")
    return Report(keys, groups, chosen, chosen_baseline(keys, groups, baseline), unfinished, over)


def as_lines(report: Report) -> list[str]:
    """For a terminal."""
    return [*aligned(rows(report)), *remarks(report, "  ")]


def as_markdown(report: Report) -> list[str]:
    """For a document."""
    return [*markdown(rows(report)), "", *remarks(report, "- ")]


def as_csv(report: Report) -> str:
    """One row for each group and seed, with all scores: for other programs."""
    names = sorted({name for group in report.groups for of in group.scores.values() for name in of})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*report.keys, report.over or "seed", *names])
    for group in report.groups:
        for seed in in_order(group.scores):
            scores = group.scores[seed]
            writer.writerow([*group.options, seed, *(scores.get(name, "") for name in names)])
    return text.getvalue()


def _monitored(run: StoredRun) -> str:
    assert run.result is not None
    name = str(run.result["monitor"]).removeprefix("validation/")
    test = f"best/test/{name}"
    return test if test in run.result else f"best/validation/{name}"
