"""Whether a new run agrees with a stored one, and with what is published."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from src.results.row import Quoted
from src.running.intervals import mean_and_half_width

Results = Mapping[int, Mapping[str, Any]]


class Estimate(NamedTuple):
    """A score: mean over seeds with Student's interval; of one seed that over its test tasks."""

    value: float
    half_width: float | None


class Comparison(NamedTuple):
    """A stored and a new estimate of the same seeds; `bound` is the largest difference allowed."""

    quoted: Quoted
    stored: Estimate
    new: Estimate
    bound: float

    @property
    def difference(self) -> float:
        return self.new.value - self.stored.value

    @property
    def agrees(self) -> bool:
        """False also where a value is no number."""
        return abs(self.difference) <= self.bound


def estimate(results: Results, score: str) -> Estimate:
    """The score of these seeds."""
    values = [float(result[score]) for result in results.values()]
    if len(values) == 1:
        (result,) = results.values()
        half = result.get(f"{score}_ci95")
        return Estimate(values[0], None if half is None else float(half))
    mean, half = mean_and_half_width(np.array(values), axis=0)
    return Estimate(float(mean), None if half is None else float(half))


def paired(results: Results, others: Results, score: str) -> Estimate | None:
    """The mean difference, seed by seed, with Student's interval; None where they share no seed."""
    mine, theirs = _by_seed(results, score), _by_seed(others, score)
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return None
    mean, half = mean_and_half_width(np.array([mine[s] - theirs[s] for s in both]), axis=0)
    return Estimate(float(mean), None if half is None else float(half))


def _by_seed(results: Results, score: str) -> dict[int, float]:
    """{seed: score}; a run of several seeds gives one for each that went on to its end."""
    found: dict[int, float] = {}
    for seed, result in results.items():
        values = result.get("per_seed", {}).get(score)
        if values is None:
            found[seed] = float(result[score])
        else:
            pairs = zip(result["seeds"], values, strict=True)
            found |= {number: float(value) for number, value in pairs if value is not None}
    return found


def compared(stored: Results, new: Results, quoted: Quoted) -> Comparison:
    """The seeds that both have, at least one.

    The bound is the joint 95 % interval, the root of the sum of both squared half-widths, or the
    tolerance of the score where that is larger. Runs of one seed share tasks and starts, so this is
    wider than the interval of their paired difference: on one machine they are equal to the bit.
    """
    both = sorted(stored.keys() & new.keys())
    old, now = ({seed: of[seed] for seed in both} for of in (stored, new))
    first, second = estimate(old, quoted.score), estimate(now, quoted.score)
    joint = math.hypot(first.half_width or 0.0, second.half_width or 0.0)
    return Comparison(quoted, first, second, max(joint, quoted.tolerance))
