"""K lower steps as one `lax.scan`."""

from collections.abc import Callable

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
    observe: Callable[[Tree], Tree],
) -> Tree:
    """observe(y_0), ..., observe(y_K) along a leading axis; the y_k are not kept."""

    def body(state: LowerState, k: jax.Array) -> tuple[LowerState, Tree]:
        state = dynamics.step(problem, params, context, task, state, k, None)
        return state, observe(state.y)

    _, rest = lax.scan(body, dynamics.init(params, y0), jnp.arange(1, num_lower_steps + 1))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), observe(y0), rest)
