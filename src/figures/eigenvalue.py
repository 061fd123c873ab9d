"""The best presets with their eigenvalue: `python -m src.figures.eigenvalue data.root=FOLDER`.

Omniglot, 5 ways, 1 shot, bda with rotations; without centred features, with them, and with them
and half the lower step; with only=20-ways, trained on tasks of 20 ways; seed 0. At some iterations,
on validation tasks: accuracy, and the largest eigenvalue of the lower Hessian at the start of the
lower level, times the lower step of these tasks (steps leave a minimiser where it is above 2); and
the norm of the hypergradient. Runs lie in runs/eigenvalue and go on where they were. Draws
docs/eigenvalue.png and prints the numbers. Takes two hours on a core, one curve alone under one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.files import write_atomically, write_text
from src.output.tables import markdown
from src.settings.cli import compose_config, key_value_arguments, refusals_as_messages
from src.settings.config import resolve
from src.settings.errors import UserError
from src.settings.key_values import read_pairs

PLAIN = ("experiment=omniglot", "method=bda", "problem.ways=5", "problem.shots=1")
CENTRED = (*PLAIN, "model.centre=true")
TWENTY_WAYS = "20-ways"
# {its name for only=: what the picture calls it, what is typed}
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("features as they are", PLAIN),
    "centred": ("features centred", CENTRED),
    "half-step": ("centred, half the step", (*CENTRED, "lower_optimizer.step_size=0.05")),
    TWENTY_WAYS: ("trained on 20 ways", ("experiment=omniglot_20_ways",)),
}
AT = (100, 250, *range(500, 6001, 500))  # iterations
NUM_TASKS = 600
NORM = "train/hypergradient_norm"
KEYS = {
    "data.root": "the folder of Omniglot, as for src.train (default: BILEVEL_DATA)",
    "runs": "the folder of the runs (default: runs/eigenvalue)",
    "to": "the picture (default: docs/eigenvalue.png; of one curve docs/eigenvalue_NAME.png)",
    "only": f"one curve: {', '.join(WAYS)} (default: all but the last)",
}


class Point(NamedTuple):
    """On the validation tasks after some iterations, with 95 % half-widths over tasks."""

    iteration: int
    accuracy: float
    accuracy_half: float
    eigenvalue: float
    eigenvalue_half: float


class Curve(NamedTuple):
    """norms: of the hypergradient, {iteration: norm}."""

    points: list[Point]
    norms: dict[int, float]
    lower_step: float


def main() -> None:
    """Run what is missing, draw, print the table."""
    arguments = key_value_arguments("src.figures.eigenvalue", __doc__, KEYS)
    with refusals_as_messages(traceback=False):
        options = read_pairs(arguments, KEYS)
        runs = Path(options.get("runs", "runs/eigenvalue"))
        root = [f"data.root={options['data.root']}"] if "data.root" in options else []
        only = options.get("only")
        found = {
            label: curve(runs / name, overrides(*typed, *root))
            for name, (label, typed) in chosen(only).items()
        }
    path = Path(options.get("to", default_picture(only)))
    draw(found, path)
    print("\n".join(table(found)), path, sep="\n")


def chosen(only: str | None) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Those trained on 5 ways, or one of WAYS. Raises UserError for an unknown name."""
    if only is None:
        return {name: way for name, way in WAYS.items() if name != TWENTY_WAYS}
    if only not in WAYS:
        raise UserError(f"only={only} is no curve; choose one of {', '.join(WAYS)}")
    return {only: WAYS[only]}


def default_picture(only: str | None) -> str:
    """No curve alone overwrites the picture of several."""
    return "docs/eigenvalue" + (f"_{only.replace('-', '_')}" if only else "") + ".png"


def overrides(*more: str) -> list[str]:
    """What is typed for src.train."""
    return [
        *("logger=[jsonl]", "eval_every=500", f"num_validation_tasks={NUM_TASKS}"),
        *("num_test_tasks=20", *more),
    ]


def curve(folder: Path, typed: Sequence[str]) -> Curve:
    """Points at AT; those that were measured are read from the folder."""
    from src.running.run import run

    config = resolve(compose_config([*typed])[0])
    kept = folder / "eigenvalues.json"
    points = [Point(*one) for one in json.loads(kept.read_text())] if kept.is_file() else []
    for iteration in AT[len(points) :]:
        run({**config, "num_iterations": iteration}, folder, [*typed])
        points.append(measured(folder, iteration))
        write_text(kept, json.dumps(points))
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    norms = {row["step"]: row[NORM] for row in rows if NORM in row}
    of_tests = config["test_step_size"]
    learned = isinstance(of_tests, str)  # "learned" or "initial": of training
    return Curve(points, norms, config["lower_optimizer"]["step_size"] if learned else of_tests)


def measured(folder: Path, iteration: int) -> Point:
    """Of the last state of a run: accuracy after K lower steps, the eigenvalue before the first."""
    from src.running.curvature import SCORE, with_curvature
    from src.running.evaluation import make_evaluate
    from src.running.stored_run import stored_run, stored_state

    with stored_run(folder) as run:
        experiment = run.experiment._replace(problem=with_curvature(run.experiment.problem))
        settings = experiment.settings
        evaluate = make_evaluate(experiment, settings.steps_of_tests(), every_step=True)
        state = stored_state(run, "last").state
        scores = evaluate(state, "validation", settings.num_validation_tasks)
    accuracy, eigenvalue = (
        [float(values[f"validation/{name}"][0, step]) for values in scores]
        for name, step in (("accuracy", -1), (SCORE, 0))
    )
    return Point(iteration, *accuracy, *eigenvalue)


def draw(found: Mapping[str, Curve], path: Path) -> None:
    """Three panels: accuracy, eigenvalue times step, norm of the hypergradient."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    scores, eigenvalues, norms = figure.subplots(1, 3)
    for k, (name, one) in enumerate(found.items()):
        iterations, accuracy, half, eigenvalue, wide = map(np.array, zip(*one.points, strict=True))
        style = {"color": f"C{k}", "label": name}
        scores.errorbar(iterations, 100 * accuracy, 100 * half, capsize=2, **style)
        step = one.lower_step
        eigenvalues.errorbar(iterations, step * eigenvalue, step * wide, capsize=2, **style)
        norms.plot(*_smoothed(one.norms), **style)
    eigenvalues.axhline(2, color="black", linestyle="--", linewidth=1)
    eigenvalues.annotate(
        "stable below",
        (0.98, 2),
        (0, 3),
        ha="right",
        fontsize=8,
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    scores.set(ylabel="accuracy on validation tasks, %")
    highest = max(2.2, eigenvalues.get_ylim()[1])  # room for the words above the line
    eigenvalues.set(ylabel="largest eigenvalue x lower step", ylim=(0, highest))
    norms.set(ylabel="norm of the hypergradient", yscale="log")
    for panel in (scores, eigenvalues, norms):
        panel.set(xlabel="iterations")
        panel.grid(alpha=0.3)
    scores.legend(loc="lower right", fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def _smoothed(norms: Mapping[int, float], over: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Medians of so many rows that follow each other, at the middle of their iterations."""
    rows = np.array(sorted(norms.items()))
    groups = np.array_split(rows, max(1, len(rows) // over))
    return (
        np.array([group[:, 0].mean() for group in groups]),
        np.array([np.median(group[:, 1]) for group in groups]),
    )


def table(found: Mapping[str, Curve]) -> list[str]:
    """The points of all curves, in Markdown."""
    header = ["iterations"]
    for name in found:
        header += [f"{name}: accuracy, %", "eigenvalue x step"]
    rows = [header]
    for points in zip(*(one.points for one in found.values()), strict=True):
        row = [str(points[0].iteration)]
        for one, point in zip(found.values(), points, strict=True):
            row.append(f"{100 * point.accuracy:.1f} +- {100 * point.accuracy_half:.1f}")
            row.append(f"{one.lower_step * point.eigenvalue:.2f}")
        rows.append(row)
    return list(markdown(rows))


if __name__ == "__main__":
    main()
