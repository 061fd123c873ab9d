"""Lower steps up to a tolerance, for estimators that need the lower solution alone."""

import math

import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Metrics, Tree


def solved_to_tolerance(
    lower: LowerProblem, point: Point, lower_tolerance: float | None, shrink: Array | float = 1.0
) -> tuple[Tree, Metrics]:
    """y, and what there is to report: lower_residual, and lower_steps where they may end early.

    They end where |stationarity| <= lower_tolerance shrink; None for the tolerance of the lower
    optimizer itself, and all K steps where it has none.
    """
    own, steps = lower.dynamics.tolerance, {}
    tolerance = own if lower_tolerance is None else lower_tolerance
    if tolerance is None:
        y = lower.solve(point)
    else:
        # A solver stays where its own tolerance is reached: to wait for less would be in vain.
        wanted = tolerance * shrink if own is None else jnp.maximum(tolerance * shrink, own)
        y, done = lower.solve_until(point, wanted)
        steps = {"lower_steps": done.astype(jnp.result_type(float))}
    direction = lower.on_all_rows().at(point).direction(y, 1)
    return y, {**steps, "lower_residual": optax.tree.norm(lower.residual(direction, y))}


def refuse_tolerance(lower_tolerance: float | None) -> None:
    """Raises TypeError or ValueError outside (0, inf)."""
    check.numbers(lower_tolerance=lower_tolerance)
    if lower_tolerance is not None and not 0 < lower_tolerance < math.inf:
        raise ValueError(
            f"lower_tolerance={lower_tolerance} must be positive and finite; null does all steps"
        )


def refuse_stopping(lower: LowerProblem, lower_tolerance: float | None) -> None:
    """Raises ValueError where the lower steps would not stop there."""
    own, batches = lower.dynamics.tolerance, lower.problem.mini_batch is not None
    if lower_tolerance is not None and batches:
        raise ValueError(
            f"lower_tolerance={lower_tolerance}: steps on mini-batches never come to rest; "
            "choose hypergradient.lower_tolerance=null, or problem.batch_size=null"
        )
    if own is not None and batches:
        raise ValueError(
            f"the lower optimizer is a solver that stops at tolerance={own:g}, but steps on "
            "mini-batches never come to rest; choose problem.batch_size=null, or "
            "lower_optimizer=sgd"
        )
    if own is not None and lower_tolerance is not None and lower_tolerance < own:
        raise ValueError(
            f"lower_tolerance={lower_tolerance:g}: the lower optimizer stops at its own "
            f"tolerance={own:g} before; choose lower_optimizer.tolerance={lower_tolerance:g}, "
            "or hypergradient.lower_tolerance=null"
        )
