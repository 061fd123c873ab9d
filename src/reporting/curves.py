"""Learning curves of a group of runs: means over its seeds, with 95 % intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from src.output.writers import Row, read_rows
from src.reporting.groups import Group
from src.reporting.stored import StoredRun
from src.running.intervals import mean_and_half_width

MOST_POINTS = 200  # of a curve that is drawn
INTERVAL = "_ci95"


class Curve(NamedTuple):
    """Values against iterations (or lower steps), and half of a 95 % interval; nan: none.

    The interval is over seeds; of one seed alone over its tasks, where it has several.
    """

    steps: np.ndarray
    values: np.ndarray
    half_widths: np.ndarray


def learning_curves(group: Group) -> dict[str, Curve]:
    """{metric: curve} of all that metrics.jsonl of these runs hold.

    A curve without steps is of seeds that share none.
    """
    return _together([_columns(read_rows(run.folder / "metrics.jsonl")) for run in group.runs])


def adaptation_curves(group: Group) -> dict[str, Curve]:
    """{score: curve against lower steps}, as result.json of these runs tells."""
    return _together([_of_steps(run) for run in group.runs])


def thinned(curve: Curve) -> Curve:
    """At most 200 of its points, the first and the last among them."""
    number = len(curve.steps)
    if number <= MOST_POINTS:
        return curve
    kept = np.unique(np.linspace(0, number - 1, MOST_POINTS).round().astype(int))
    return Curve(*(part[kept] for part in curve))


def _together(runs: Sequence[Mapping[str, Curve]]) -> dict[str, Curve]:
    """Each metric's mean over runs, at the steps that all runs with this metric have."""
    names = sorted({name for run in runs for name in run})
    return {name: _mean([run[name] for run in runs if name in run]) for name in names}


def _mean(curves: Sequence[Curve]) -> Curve:
    if len(curves) == 1:
        return curves[0]
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    values = np.stack([c.values[np.searchsorted(c.steps, steps)] for c in curves])
    mean, half = mean_and_half_width(values, axis=0)
    assert half is not None
    return Curve(steps, mean, half)


def _columns(rows: Sequence[Row]) -> dict[str, Curve]:
    """{metric: curve} of one run's rows."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            scored = "/" in name and not name.endswith(INTERVAL)
            if scored and isinstance(value, int | float):
                half = row.get(f"{name}{INTERVAL}")
                half = float(half) if isinstance(half, int | float) else np.nan
                found.setdefault(name, {})[row["step"]] = (float(value), half)
    return {name: _curve(by_step) for name, by_step in found.items()}


def _curve(by_step: Mapping[int, tuple[float, float]]) -> Curve:
    steps = sorted(by_step)
    values, half_widths = np.array([by_step[step] for step in steps]).T
    return Curve(np.array(steps), values, half_widths)


def _of_steps(run: StoredRun) -> dict[str, Curve]:
    found = (run.result or {}).get("adaptation") or {}
    curves: dict[str, Curve] = {}
    for name, values in found.items():
        if not name.endswith(INTERVAL):
            half = found.get(f"{name}{INTERVAL}", [np.nan] * len(values))
            curves[name] = Curve(
                np.arange(len(values)), np.array(values, float), np.array(half, float)
            )
    return curves
