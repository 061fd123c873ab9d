"""Evaluate: `python -m src.evaluate run=DIR [checkpoint=best|last|N] [num_test_tasks=600]
[num_lower_steps=10]` tests a stored run again, after 0..num_lower_steps lower steps.

The tasks are those of the run's own test, so that its own numbers of tasks and steps give the
logged scores again. Writes DIR/evaluations/*.json and *.png; the path is printed last.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.output.tables import aligned, iterations, with_interval
from src.settings.cli import refusals_as_messages

KEYS = ("run", "checkpoint", "num_test_tasks", "num_lower_steps", "traceback")


def main() -> None:
    """Test a stored run, print scores by lower step, and keep them with the run."""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    with refusals_as_messages(traceback="traceback=true" in sys.argv):
        from src.files import write_json
        from src.output.plots import adaptation_curve, title_of
        from src.running.stored_run import evaluate_again, read_config

        given = read_arguments(sys.argv[1:])
        run_dir = Path(given["run"])
        checkpoint = given.get("checkpoint", "last")
        config = read_config(run_dir)
        scored = evaluate_again(
            run_dir,
            config,
            checkpoint,
            num_test_tasks=whole_number(given, "num_test_tasks"),
            num_lower_steps=whole_number(given, "num_lower_steps"),
        )
        steps = len(next(iter(scored.curve.values()))) - 1
        name = f"{checkpoint}-K{steps}-tasks{scored.num_test_tasks}"
        folder = run_dir / "evaluations"
        folder.mkdir(exist_ok=True)
        title = f"{title_of(config)}, {iterations(scored.step)}"
        adaptation_curve(scored.curve, folder / f"{name}.png", title)
        write_json(folder / f"{name}.json", scored._asdict())
    print(f"{title} ({checkpoint}), {scored.num_test_tasks} test tasks")
    print(table(scored.curve))
    print(folder / f"{name}.json")


def read_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """key=value pairs. Raises UserError on an unknown key, or where run is missing."""
    from src.settings.config import unknown_key
    from src.settings.errors import UserError

    given = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"{argument} is not of the form key=value; choose for example run=DIR")
        if key not in KEYS:
            raise UserError(unknown_key("", key, list(KEYS)))
        given[key] = value
    if "run" not in given:
        raise UserError("run is missing: name a run folder, run=DIR")
    return given


def whole_number(given: Mapping[str, str], key: str) -> int | None:
    """The value of a key as an integer, None where it is not given. Raises UserError."""
    from src.settings.errors import UserError

    if key not in given:
        return None
    try:
        return int(given[key])
    except ValueError as error:
        raise UserError(f"{key}={given[key]} is not a whole number") from error


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
