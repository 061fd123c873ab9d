"""The report of several runs: one table of groups, one of what gave no result."""

import csv
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from src.output.tables import aligned, markdown, with_interval
from src.reporting.differences import differing, shared, short, typed_keys
from src.reporting.groups import Group, grouped, paired, summary
from src.reporting.stored import StoredRun
from src.settings.errors import UserError

SHOWN_COSTS = {"seconds": "seconds", "peak_memory_mib": "MiB"}
SAME = "all seeds the same"
# What a study is of, where it is the same in all runs.
SETTING = (
    *("problem.name", "method.name", "data._target_", "model._target_"),
    *("num_iterations", "num_lower_steps", "meta_batch_size"),
)


class Report(NamedTuple):
    """keys: what differs between the groups; metric: the score that is compared."""

    keys: list[str]
    groups: list[Group]
    metric: str
    baseline: Group | None
    without_result: list[StoredRun]


def make_report(
    runs: Sequence[StoredRun], metric: str | None = None, baseline: str | None = None
) -> Report:
    """Compare finished runs by a score; None: the monitored one of the best state, of the test.

    baseline: "key=value" pairs, with commas, that choose one group. Raises UserError where no run
    is finished, or where a name is not known.
    """
    finished = [run for run in runs if run.result is not None]
    unfinished = [run for run in runs if run.result is None]
    if not finished:
        reasons = "".join(f"; {run.folder}: {run.problem}" for run in unfinished[:3])
        raise UserError(f"no finished run was found: name run folders, or a sweep's{reasons}")
    typed = typed_keys(text for run in finished for text in (run.result or {}).get("overrides", []))
    keys = differing([run.config for run in finished], typed)
    groups = grouped(finished, keys)
    chosen = metric or _monitored(finished[0])
    known = sorted({name for group in groups for of in group.scores.values() for name in of})
    if chosen not in known:
        listed = ", ".join(name for name in known if not name.endswith("_ci95"))
        raise UserError(f"metric={chosen} is in no result; choose one of {listed}")
    return Report(keys, groups, chosen, _chosen(keys, groups, baseline), unfinished)


def with_result(report: Report) -> list[StoredRun]:
    """The runs of all groups."""
    return [run for group in report.groups for run in group.runs]


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


def notes(report: Report) -> list[str]:
    """What a reader of the table must know."""
    alike_seeds = [group for group in report.groups if group.ignores_seed()]
    several = sum(len(group.scores) > 1 for group in report.groups)
    configs = [run.config for run in with_result(report)]
    alike = shared(configs, SETTING)
    found = []
    if alike:
        listed = ", ".join(f"{short(key)}={value}" for key, value in alike.items() if value != "-")
        found.append(f"All runs: {listed}.")
    if report.metric.startswith("best/"):
        found.append(f"{report.metric} is the score of the state that was best in validation.")
    if several > len(alike_seeds):
        found.append("+- is half of a 95 % interval over seeds (Student's t).")
    if alike_seeds:
        found.append(
            f"{SAME}: these runs do not depend on the seed; several tell no more than one, so "
            "there is no interval."
        )
    for folder, (seeds, other) in _repeated(report):
        listed = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        found.append(
            f"{folder} is left out for {listed}: {other} has the same with the same options."
        )
    if report.baseline is not None:
        found.append("difference: to the baseline, seed by seed.")
    if len(versions(report)) > 1:
        found.append("The runs are of different versions of this code or of its libraries.")
    return found


def _repeated(report: Report) -> list[tuple[str, tuple[list[int], str]]]:
    return [item for group in report.groups for item in group.repeated.items()]


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


def as_lines(report: Report) -> list[str]:
    """For a terminal."""
    return [*aligned(rows(report)), *_remarks(report, "  ")]


def as_markdown(report: Report) -> list[str]:
    """For a document."""
    return [*markdown(rows(report)), "", *_remarks(report, "- ")]


def as_csv(report: Report) -> str:
    """One row for each group and seed, with all scores: for other programs."""
    names = sorted({name for group in report.groups for of in group.scores.values() for name in of})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*report.keys, "seed", *names])
    for group in report.groups:
        for seed, scores in sorted(group.scores.items()):
            writer.writerow([*group.options, seed, *(scores.get(name, "") for name in names)])
    return text.getvalue()


def _monitored(run: StoredRun) -> str:
    assert run.result is not None
    name = str(run.result["monitor"]).removeprefix("validation/")
    test = f"best/test/{name}"
    return test if test in run.result else f"best/validation/{name}"


def _chosen(keys: Sequence[str], groups: Sequence[Group], text: str | None) -> Group | None:
    if text is None:
        return None
    wanted = [part.partition("=") for part in _pairs(text)]
    names = {short(key): i for i, key in enumerate(keys)} | {key: i for i, key in enumerate(keys)}
    for key, equals, _ in wanted:
        if not equals or key not in names:
            listed = ", ".join(short(key) for key in keys) or "nothing"
            raise UserError(f"baseline={text}: {key} does not differ here; there is {listed}")
    values = {names[key]: _unquoted(value) for key, _, value in wanted}
    fitting = [g for g in groups if all(g.options[i] == value for i, value in values.items())]
    if len(fitting) != 1:
        options = zip(keys, groups[0].options, strict=True)
        example = ",".join(f"{short(key)}={_comma_kept(value)}" for key, value in options)
        raise UserError(
            f"baseline={text} fits {len(fitting)} groups of runs; name one, for example "
            + shlex.quote(f"baseline={example}")
        )
    return fitting[0]


def _pairs(text: str) -> list[str]:
    """The text cut at its commas, but for those in brackets and in quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _comma_kept(value: str) -> str:
    return value if _pairs(value) == [value] else f'"{value}"'


def _unquoted(value: str) -> str:
    quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quotes else value


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


def _remarks(report: Report, mark: str) -> list[str]:
    lines = ["", *notes(report)] if notes(report) else []
    missing = left_out(report)
    if missing:
        lines += ["", f"{len(missing)} without a result:"]
        lines += [f"{mark}{folder}: {reason}" for folder, reason in missing]
    return lines


def _seeds(group: Group) -> str:
    seeds = sorted(group.scores)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
