"""Learning curves of a group of runs: means over its seeds, with 95 % intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from src.output.writers import Row, read_rows
from src.reporting.groups import Group, all_seeds
from src.reporting.stored import StoredRun

MOST_POINTS = 200  # of a curve that is drawn
INTERVAL = "_ci95"


class Curve(NamedTuple):
    """Values against iterations (or lower steps), and half of a 95 % interval; nan: none.

    The interval is over seeds; of one seed alone over its tasks, where it has several.
    numbers: of how many seeds each value is the mean.
    """

    steps: np.ndarray
    values: np.ndarray
    half_widths: np.ndarray
    numbers: np.ndarray


def learning_curves(group: Group) -> dict[str, Curve]:
    """{metric: curve} of all that metrics.jsonl of these runs hold.

    A curve without steps is of seeds that share none.
    """
    runs = group.drawn()
    return _together(
        [_columns(read_rows(run.folder / "metrics.jsonl"), len(all_seeds(run))) for run in runs]
    )


def adaptation_curves(group: Group) -> dict[str, Curve]:
    """{score: curve against lower steps}, as result.json of these runs tells."""
    return _together([_of_steps(run) for run in group.drawn()])


def thinned(curve: Curve) -> Curve:
    """At most 200 of its points, the first and the last among them."""
    number = len(curve.steps)
    if number <= MOST_POINTS:
        return curve
    kept = np.unique(np.linspace(0, number - 1, MOST_POINTS).round().astype(int))
    return Curve(*(part[kept] for part in curve))


def _together(runs: Sequence[Mapping[str, Curve]]) -> dict[str, Curve]:
    """Each metric's mean over seeds, at the steps that all runs with this metric have."""
    names = sorted({name for run in runs for name in run})
    return {name: pooled([run[name] for run in runs if name in run]) for name in names}


def pooled(curves: Sequence[Curve]) -> Curve:
    """The mean over all seeds of several runs and its interval, from those of each run.

    They are exact: a half-width over n seeds tells the sum of squares within the run.
    """
    if len(curves) == 1:
        return curves[0]
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    at = [np.searchsorted(curve.steps, steps) for curve in curves]
    n = np.stack([curve.numbers[i] for curve, i in zip(curves, at, strict=True)])
    means = np.stack([curve.values[i] for curve, i in zip(curves, at, strict=True)])
    halves = np.stack([curve.half_widths[i] for curve, i in zip(curves, at, strict=True)])
    total = n.sum(axis=0)
    mean = (n * means).sum(axis=0) / total
    # Of one seed the half-width is over tasks, and says nothing of how seeds differ.
    freedom = np.maximum(n - 1, 1)
    deviation = np.where(n > 1, halves * n**0.5 / stdtrit(freedom, 0.975), 0.0)
    squares = (freedom * deviation**2 + n * (means - mean) ** 2).sum(axis=0)
    spread = (squares / (total - 1) / total) ** 0.5
    return Curve(steps, mean, stdtrit(total - 1, 0.975) * spread, total)


def _columns(rows: Sequence[Row], seeds: int) -> dict[str, Curve]:
    """{metric: curve} of one run's rows; a row says how many of its seeds have failed by then."""
    found: dict[str, dict[int, tuple[float, float, int]]] = {}
    for row in rows:
        for name, value in row.items():
            scored = "/" in name and not name.endswith(INTERVAL)
            if scored and isinstance(value, int | float):
                half = row.get(f"{name}{INTERVAL}")
                half = float(half) if isinstance(half, int | float) else np.nan
                number = seeds - row.get("failed_seeds", 0)
                found.setdefault(name, {})[row["step"]] = (float(value), half, number)
    return {name: _curve(by_step) for name, by_step in found.items()}


def _curve(by_step: Mapping[int, tuple[float, float, int]]) -> Curve:
    steps = sorted(by_step)
    values, half_widths, numbers = np.array([by_step[step] for step in steps]).T
    return Curve(np.array(steps), values, half_widths, numbers)


def _of_steps(run: StoredRun) -> dict[str, Curve]:
    result = run.result or {}
    found = result.get("adaptation") or {}
    number = len(all_seeds(run)) - len(result.get("failed_seeds", {}))
    curves: dict[str, Curve] = {}
    for name, values in found.items():
        if not name.endswith(INTERVAL):
            half = found.get(f"{name}{INTERVAL}", [np.nan] * len(values))
            steps = np.arange(len(values))
            columns = np.array(values, float), np.array(half, float), np.full(len(values), number)
            curves[name] = Curve(steps, *columns)
    return curves
