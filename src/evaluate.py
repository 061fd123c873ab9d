"""Evaluate: `python -m src.evaluate run=DIR [checkpoint=best|last|N] [num_test_tasks=600]
[num_lower_steps=10] [curvature=true]` scores a stored run again, after 0..num_lower_steps lower
steps. DIR may also be the folder of a sweep: then all its runs are scored, one by one.

The tasks are those of the run's own test, so that its own numbers of tasks and steps give the
logged scores again. A run without test data is scored on its validation split. Writes
DIR/evaluations/*.json and *.png into the folder of each run; the path is printed last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.output.tables import aligned, iterations, with_interval
from src.settings.cli import key_value_arguments, refusals_as_messages
from src.settings.errors import UserError

KEYS = {
    "run": "a run folder, which holds config.json, or a folder with such folders below it",
    "checkpoint": "last (default), best, or an iteration whose checkpoint is kept",
    "num_test_tasks": "tasks to score on (default: as many as the run did)",
    "num_lower_steps": "lower steps (default: as many as the run did)",
    "curvature": "true: with the largest eigenvalue of the Hessian of f in y, by the power method",
    "traceback": "true: errors with their traceback",
}


class Evaluated(NamedTuple):
    """What was found for one run, and the file that keeps it."""

    title: str
    scored: Any  # running.stored_run.Scored, which would import jax
    path: Path


def main() -> None:
    """Score stored runs, print scores by lower step, and keep them with each run."""
    arguments = key_value_arguments("src.evaluate", __doc__, KEYS)
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.settings.key_values import one_of, read_options, whole_number

        options = read_options(arguments, KEYS)
        asked = {
            "checkpoint": options.get("checkpoint", "last"),
            "num_tasks": whole_number(options, "num_test_tasks"),
            "num_lower_steps": whole_number(options, "num_lower_steps"),
            "curvature": one_of(options, "curvature", ("false", "true")) == "true",
        }
        folder = Path(options["run"])
        runs = runs_in(folder)
        if runs == [folder]:
            _show(evaluated(folder, **asked), asked["checkpoint"])
            return
        rows, refused = [], 0
        for run in runs:
            name = str(run.relative_to(folder))
            try:
                found = evaluated(run, **asked)
            except UserError as error:
                refused += 1
                print(f"{name}: {error}")
                continue
            print(f"{name}: {found.path}")
            rows.append((name, found.scored))
        if refused == len(runs):
            raise UserError(f"run={folder}: none of its {refused} runs could be scored (see above)")
        print("\n".join(["", *last_scores(rows)]))


def runs_in(folder: Path) -> list[Path]:
    """The folder itself where it is a run's or holds none, else the runs below it."""
    if (folder / "config.json").exists() or not folder.is_dir():
        return [folder]
    from src.reporting.stored import find_runs

    # A job that was refused before it began has no folder of its own.
    return [run.folder for run in find_runs([folder]) if run.config] or [folder]


def evaluated(
    folder: Path,
    checkpoint: str,
    num_tasks: int | None,
    num_lower_steps: int | None,
    curvature: bool,
) -> Evaluated:
    """Scores of a stored run, kept in its folder as a picture and as numbers."""
    from src.files import write_json
    from src.output.plots import adaptation_curve
    from src.running.stored_run import evaluate_again, stored_run

    with stored_run(folder, num_tasks) as run:
        scored = evaluate_again(run, checkpoint, num_lower_steps, curvature)
        title = f"{run.experiment.title()}, {iterations(scored.step)}"
    num_steps = len(next(iter(scored.curve.values()))) - 1
    name = f"{checkpoint}-K{num_steps}-tasks{scored.num_tasks}{'-curvature' * curvature}"
    written = folder / "evaluations"
    written.mkdir(exist_ok=True)
    adaptation_curve(scored.curve, written / f"{name}.png", title)
    write_json(written / f"{name}.json", scored.as_json())
    return Evaluated(title, scored, written / f"{name}.json")


def _show(found: Evaluated, checkpoint: str) -> None:
    scored = found.scored
    print(f"{found.title} ({checkpoint}), {scored.num_tasks} {scored.split} tasks")
    if scored.split == "validation":
        print("the run has no test data: these are validation scores")
    print(table(scored.curve))
    print(found.path)


def last_scores(rows: Sequence[tuple[str, Any]]) -> list[str]:
    """One row per run: its scores after its last lower step, with the 95 % half-widths."""
    curves = [scored.curve for _, scored in rows]
    names = list(dict.fromkeys(n for curve in curves for n in curve if not n.endswith("_ci95")))
    cells = [["run", "iteration", *names]]
    for name, scored in rows:
        found = [_cell(scored.curve, column, -1) for column in names]
        cells.append([name, ", ".join(map(str, scored.step)), *found])
    return list(aligned(cells))


def table(curve: Mapping[str, Sequence[float]]) -> str:
    """One row per lower step, one column per score, with the 95 % half-widths."""
    names = [name for name in curve if not name.endswith("_ci95")]
    rows = [["lower steps", *names]]
    for step in range(len(curve[names[0]])):
        rows.append([str(step), *(_cell(curve, name, step) for name in names)])
    return "\n".join(aligned(rows))


def _cell(curve: Mapping[str, Sequence[float]], name: str, step: int) -> str:
    """A score after this lower step; a dash where the run has no such score."""
    if name not in curve:
        return "-"
    half = curve[f"{name}_ci95"][step] if f"{name}_ci95" in curve else None
    return with_interval(curve[name][step], half, digits=5)


if __name__ == "__main__":
    main()
