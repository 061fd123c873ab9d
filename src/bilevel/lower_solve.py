"""K lower steps as one `lax.scan`."""

import jax
import jax.numpy as jnp
from jax import lax

from src.bilevel.types import BilevelProblem, LowerDynamics, LowerState, Tree


def run_steps(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    params: Tree,
    context: Tree,
    task: Tree,
    state: LowerState,
    first: int,
    last: int,
) -> LowerState:
    """Lower steps k = first..last (1-based, inclusive) from `state`; none if last < first."""

    def body(state: LowerState, k: jax.Array) -> tuple[LowerState, None]:
        return dynamics.step(problem, params, context, task, state, k, None), None

    return lax.scan(body, state, jnp.arange(first, last + 1))[0]


def trajectory(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    params: Tree,
    context: Tree,
    task: Tree,
    y0: Tree,
    num_lower_steps: int,
) -> Tree:
    """y_0, ..., y_K stacked along a leading axis of length K + 1."""

    def body(state: LowerState, k: jax.Array) -> tuple[LowerState, Tree]:
        state = dynamics.step(problem, params, context, task, state, k, None)
        return state, state.y

    _, steps = lax.scan(body, dynamics.init(params, y0), jnp.arange(1, num_lower_steps + 1))
    return jax.tree.map(lambda start, rest: jnp.concatenate([start[None], rest]), y0, steps)
