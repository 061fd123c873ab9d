"""Evaluate: `python -m src.evaluate run=DIR [checkpoint=best|last|N] [num_test_tasks=600]
[num_lower_steps=10] [curvature=true]` scores a stored run again, after 0..num_lower_steps lower
steps.

The tasks are those of the run's own test, so that its own numbers of tasks and steps give the
logged scores again. A run without test data is scored on its validation split. Writes
DIR/evaluations/*.json and *.png; the path is printed last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from src.output.tables import aligned, iterations, with_interval
from src.settings.cli import key_value_arguments, refusals_as_messages

KEYS = {
    "run": "a run folder, which holds config.json",
    "checkpoint": "last (default), best, or an iteration whose checkpoint is kept",
    "num_test_tasks": "tasks to score on (default: as many as the run did)",
    "num_lower_steps": "lower steps (default: as many as the run did)",
    "curvature": "true: with the largest eigenvalue of the Hessian of f in y, by the power method",
    "traceback": "true: errors with their traceback",
}


def main() -> None:
    """Score a stored run, print scores by lower step, and keep them with the run."""
    arguments = key_value_arguments("src.evaluate", __doc__, KEYS)
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.files import write_json
        from src.output.plots import adaptation_curve
        from src.running.stored_run import evaluate_again, stored_run
        from src.settings.key_values import one_of, read_options, whole_number

        options = read_options(arguments, KEYS)
        curvature = one_of(options, "curvature", ("false", "true")) == "true"
        folder, checkpoint = Path(options["run"]), options.get("checkpoint", "last")
        num_tasks = whole_number(options, "num_test_tasks")
        with stored_run(folder, num_tasks) as run:
            asked = whole_number(options, "num_lower_steps")
            scored = evaluate_again(run, checkpoint, asked, curvature)
            title = f"{run.experiment.title()}, {iterations(scored.step)}"
        num_steps = len(next(iter(scored.curve.values()))) - 1
        name = f"{checkpoint}-K{num_steps}-tasks{scored.num_tasks}{'-curvature' * curvature}"
        written = folder / "evaluations"
        written.mkdir(exist_ok=True)
        adaptation_curve(scored.curve, written / f"{name}.png", title)
        write_json(written / f"{name}.json", scored.as_json())
    print(f"{title} ({checkpoint}), {scored.num_tasks} {scored.split} tasks")
    if scored.split == "validation":
        print("the run has no test data: these are validation scores")
    print(table(scored.curve))
    print(written / f"{name}.json")


def table(curve: Mapping[str, Sequence[float]]) -> str:
    """One row per lower step, one column per score, with the 95 % half-widths."""
    names = [name for name in curve if not name.endswith("_ci95")]
    rows = [["lower steps", *names]]
    for step in range(len(curve[names[0]])):
        halves = [
            curve[f"{name}_ci95"][step] if f"{name}_ci95" in curve else None for name in names
        ]
        cells = [
            with_interval(curve[name][step], half, digits=5)
            for name, half in zip(names, halves, strict=True)
        ]
        rows.append([str(step), *cells])
    return "\n".join(aligned(rows))


if __name__ == "__main__":
    main()
