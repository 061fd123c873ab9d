"""What counts as solved: of a pair (x, y), by what no method knows.

solved   |F - best| <= 0.01 scale,  |f(x, y) - f*| <= 0.001 max(1, |f*|), and no constraint
         above 0.01
nearly   the same with 0.1, 0.01 and 0.1
no       else

scale is max(1, |best|), or what the caller says.
"""

from typing import NamedTuple

import numpy as np

LIMITS = {"solved": (0.01, 0.001, 0.01), "nearly": (0.1, 0.01, 0.1)}


class Ended(NamedTuple):
    """F, f above its least value, and the worst violation of a constraint, where a run ended."""

    upper: float = np.nan
    lower_gap: float = np.nan
    violation: float = np.nan


def verdict(ended: Ended, best: float, least: float, scale: float | None = None) -> str:
    """solved, nearly or no; least: f* for that x."""
    scale = max(1.0, abs(best)) if scale is None else scale
    for word, (of_upper, of_lower, of_constraints) in LIMITS.items():
        if (
            abs(ended.upper - best) <= of_upper * scale
            and abs(ended.lower_gap) <= of_lower * max(1.0, abs(least))
            and ended.violation <= of_constraints
        ):
            return word
    return "no"
