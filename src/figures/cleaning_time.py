"""Hyper-cleaning against time: `python -m src.figures.cleaning_time data.root=FOLDER`.

Methods on mini-batches. Fashion-MNIST, a linear model, a share of 5,000 labels wrong, batches of 50
rows, ten seeds, 4,000 iterations with Adam 0.01: benchmark_bilevel's data cleaning in small. Runs
lie in runs/cleaning_time and are not made again. Seconds are those of one seed alone, which 1,000
iterations of each method measure, one method after the other; leave the machine alone meanwhile.
Draws docs/cleaning_time.png and prints where the methods end. Takes an hour on a core.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.files import write_atomically
from src.running.intervals import mean_and_half_width
from src.settings.cli import compose_config, key_value_arguments, refusals_as_messages
from src.settings.config import resolve
from src.settings.key_values import read_pairs

METHODS: tuple[str, ...] = ("soba", "saba", "srba", "amigo", "stocbio", "mrbo")
ACCURACY = "validation/accuracy"
QUOTED = ("test/accuracy", "test/detection_f1")
NUM_SEEDS, NUM_ITERATIONS, TIMED = 10, 4000, 1000
KEYS = {
    "data.root": "the folder of Fashion-MNIST, as for src.train (default: BILEVEL_DATA)",
    "runs": "the folder of the runs (default: runs/cleaning_time)",
    "to": "the picture (default: docs/cleaning_time.png)",
    "noises": "shares of wrong labels, with commas (default: 0.5,0.7,0.9)",
}


class Curve(NamedTuple):
    """Error on the validation rows: means over seeds and their 95 % half-widths, (steps,).

    accuracy, f1: of test rows, and of the labels found wrong, at the end: (seeds,)
    """

    steps: np.ndarray
    error: np.ndarray
    half: np.ndarray
    accuracy: np.ndarray
    f1: np.ndarray


def main() -> None:
    """Run what is missing, draw, print the table."""
    arguments = key_value_arguments("src.figures.cleaning_time", __doc__, KEYS)
    with refusals_as_messages(traceback=False):
        options = read_pairs(arguments, KEYS)
        noises = [float(text) for text in options.get("noises", "0.5,0.7,0.9").split(",")]
        runs = Path(options.get("runs", "runs/cleaning_time"))
        root = [f"data.root={options['data.root']}"] if "data.root" in options else []
        found = {(n, m): curve(runs, n, m, root) for n in noises for m in METHODS}
        rates = {method: seconds_per_iteration(runs, method, root) for method in METHODS}
    path = Path(options.get("to", "docs/cleaning_time.png"))
    draw(found, rates, path)
    print("\n".join(table(found, rates)), path, sep="\n")


def overrides(noise: float, method: str, *more: str) -> list[str]:
    """What is typed for src.train."""
    return [
        *(f"method={method}", "problem=hyper_cleaning", "data=fashion_mnist", "model=flat"),
        *("data.split_sizes=[5000,5000,10000]", f"problem.noise={noise}", "logger=[jsonl]"),
        *("problem.batch_size=50", "problem.sampling=epochs", "upper_optimizer.step_size=0.01"),
        *more,
    ]


def curve(runs: Path, noise: float, method: str, root: Sequence[str]) -> Curve:
    """All seeds of a method in one program; those of srba one by one.

    In one program both branches of srba, all rows or a few, would be computed in each iteration.
    """
    whole = [
        *(f"num_iterations={NUM_ITERATIONS}", f"eval_every={NUM_ITERATIONS // 20}"),
        *(f"checkpoint_every={NUM_ITERATIONS}", *root),
    ]
    if method != "srba":
        folder = runs / f"{noise}-{method}"
        result = _run(folder, overrides(noise, method, *whole, f"seeds={NUM_SEEDS}"))
        rows, scores = _validations(folder), result["per_seed"]
        halves = np.array([row[f"{ACCURACY}_ci95"] for row in rows])
        errors = np.array([1 - row[ACCURACY] for row in rows])
        accuracy, f1 = (np.array(scores[name]) for name in QUOTED)
    else:
        folders = [runs / f"{noise}-{method}-s{seed}" for seed in range(NUM_SEEDS)]
        results = [
            _run(folder, overrides(noise, method, *whole, f"seed={seed}"))
            for seed, folder in enumerate(folders)
        ]
        each = [_validations(folder) for folder in folders]
        rows = each[0]
        errors, halves = _interval(
            np.array([[1 - row[ACCURACY] for row in of_seed] for of_seed in each])
        )
        accuracy, f1 = (np.array([result[name] for result in results]) for name in QUOTED)
    return Curve(np.array([row["step"] for row in rows]), errors, halves, accuracy, f1)


def seconds_per_iteration(runs: Path, method: str, root: Sequence[str]) -> float:
    """Of one seed, without compilation."""
    more = [f"num_iterations={TIMED}", f"eval_every={TIMED}", f"checkpoint_every={TIMED}", *root]
    return 1 / _run(runs / f"rate-{method}", overrides(0.5, method, *more))["iterations_per_second"]


def draw(found: Mapping[tuple[float, str], Curve], rates: Mapping[str, float], path: Path) -> None:
    """A panel for each noise: means and 95 % intervals."""
    from matplotlib.figure import Figure

    noises = sorted({noise for noise, _ in found})
    figure = Figure(figsize=(3.6 * len(noises) + 0.6, 3.8), layout="constrained")
    panels = figure.subplots(1, len(noises), squeeze=False)[0]
    for panel, noise in zip(panels, noises, strict=True):
        for k, method in enumerate(METHODS):
            one = found[noise, method]
            seconds, color = one.steps * rates[method], f"C{k}"
            panel.plot(seconds, 100 * one.error, color=color, label=method)
            low, high = (100 * (one.error + sign * one.half) for sign in (-1, 1))
            panel.fill_between(seconds, low, high, color=color, alpha=0.25, lw=0)
        panel.set(title=f"{noise:.0%} of the labels wrong", xlabel="seconds", xscale="log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("error on validation rows, %")
    panels[0].legend(fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def table(found: Mapping[tuple[float, str], Curve], rates: Mapping[str, float]) -> list[str]:
    """Means and 95 % half-widths at the end, in Markdown."""
    lines = [
        "| labels wrong | method | test accuracy, % | F1 | iterations per second |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (noise, method), one in found.items():
        (accuracy, wide), (f1, f1_wide) = (
            map(float, _interval(scores)) for scores in (one.accuracy, one.f1)
        )
        lines.append(
            f"| {noise:.0%} | `{method}` | {100 * accuracy:.1f} +- {100 * wide:.1f} "
            f"| {f1:.3f} +- {f1_wide:.3f} | {1 / rates[method]:.0f} |"
        )
    return lines


def _interval(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half-width over the seeds, of which there are several (axis 0)."""
    mean, half = mean_and_half_width(scores, axis=0)
    assert half is not None
    return mean, half


def _run(folder: Path, typed: list[str]) -> dict[str, Any]:
    from src.running.run import run

    return run(resolve(compose_config(typed)[0]), folder, typed)


def _validations(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl with scores of the validation rows."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if ACCURACY in row]


if __name__ == "__main__":
    main()
