"""Step sizes that fall from iteration to iteration: step_size (n + 1)^-power, n iterations done."""

import math

import jax
import jax.numpy as jnp

from bilevel import option_checks as check
from bilevel.lower_level import LowerLevel, LowerProblem, LowerState
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, BilevelProblem, Index, Tree


def falling(step_power: float, n: Index) -> Array | float:
    """(n + 1)^-step_power, n iterations done; a plain 1 where nothing falls."""
    if not step_power:
        return 1.0
    return jnp.asarray(n + 1, jnp.result_type(float)) ** -step_power


def shortened(lower: LowerProblem, share: Array | float) -> LowerProblem:
    """The same with steps of y of this share of their length.

    y_k = y_{k-1} + share (U(y_{k-1}) - y_{k-1}), U the step of the lower optimizer: its step size
    times share, where the step is along a direction (all of `lower_optimizers` but `projected`).
    """
    if isinstance(share, float) and share == 1:
        return lower
    dynamics = lower.dynamics

    def at(
        problem: BilevelProblem, task: Tree, context: Tree, dynamics_params: DynamicsParams
    ) -> LowerLevel:
        level = dynamics.at(problem, task, context, dynamics_params)

        def move(direction: Tree, state: LowerState, k: Index) -> LowerState:
            moved = level.move(direction, state, k)
            return moved._replace(y=jax.tree.map(_between(share), state.y, moved.y))

        return level._replace(move=move)

    return lower._replace(dynamics=dynamics._replace(at=at))


def _between(share: Array | float):
    # Of the type of y: share is of 64 bits where those are switched on.
    return lambda y, moved: y + jnp.asarray(share, y.dtype) * (moved - y)


def refuse_power(step_power: float) -> None:
    """Raises ValueError where step_power is negative or not finite."""
    check.number("step_power", step_power)
    if not 0 <= step_power < math.inf:
        raise ValueError(
            f"step_power={step_power} must be finite and not negative: steps are step_size "
            "(n + 1)^-step_power; choose step_power=0 for none, or 0.5"
        )


def words_of(step_power: float, moved: str) -> str:
    """What the formula of an estimator says of it."""
    return f";  steps of {moved} times (n + 1)^-{step_power:.3g}" if step_power else ""
