"""K lower steps as one `lax.scan`."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from src.bilevel.dynamics import residual
from src.bilevel.types import Array, BilevelProblem, LowerDynamics, LowerState, Tree


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

    def body(state: LowerState, k: Array) -> tuple[LowerState, None]:
        return dynamics.step(problem, params, context, task, state, k, None), None

    return lax.scan(body, state, jnp.arange(first, last + 1))[0]


def run_steps_in_segments(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    params: Tree,
    context: Tree,
    task: Tree,
    state: LowerState,
    num_steps: int,
) -> LowerState:
    """Lower steps 1..num_steps whose reverse pass keeps about 2 sqrt(num_steps) iterates.

    Segments of ceil(sqrt(num_steps)) steps: reverse mode stores the state at the head of each and
    runs a segment again when it gets there (Griewank and Walther, Evaluating derivatives, 2008,
    ch. 12, with one level).
    """
    length = max(1, math.ceil(math.sqrt(num_steps)))
    whole, rest = divmod(num_steps, length)

    def segment(state: LowerState, before: Array | int, steps: int) -> LowerState:
        def body(state: LowerState, k: Array) -> tuple[LowerState, None]:
            return dynamics.step(problem, params, context, task, state, k, None), None

        return lax.scan(body, state, before + jnp.arange(1, steps + 1))[0]

    # Inside a scan nothing can merge the second run of a segment with the first.
    recomputed = jax.checkpoint(segment, static_argnums=2, prevent_cse=False)
    state, _ = lax.scan(
        lambda state, before: (recomputed(state, before, length), None),
        state,
        length * jnp.arange(whole),
    )
    return segment(state, whole * length, rest) if rest else state


def run_until(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    params: Tree,
    context: Tree,
    task: Tree,
    state: LowerState,
    num_steps: int,
    tolerance: Array,
) -> tuple[LowerState, Array]:
    """At most num_steps steps, until |stationarity| <= tolerance; the state and the steps done.

    Only for dynamics with a stationarity condition: the direction does not depend on k, so that
    of the next step serves as the residual of this one.
    """

    def direction(y: Tree) -> Tree:
        return dynamics.direction(problem, params, context, task, y, 1, None)

    def unfinished(carry: tuple[LowerState, Tree, Array]) -> Array:
        state, found, done = carry
        distance = optax.tree.norm(residual(dynamics.projection, found, state.y))
        return (done < num_steps) & (distance > tolerance)

    def body(carry: tuple[LowerState, Tree, Array]) -> tuple[LowerState, Tree, Array]:
        state, found, done = carry
        state = dynamics.move(params, found, state, done + 1)
        return state, direction(state.y), done + 1

    state, _, done = lax.while_loop(
        unfinished, body, (state, direction(state.y), jnp.zeros((), jnp.int32))
    )
    return state, done


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

    def body(state: LowerState, k: Array) -> tuple[LowerState, Tree]:
        state = dynamics.step(problem, params, context, task, state, k, None)
        return state, observe(state.y)

    _, rest = lax.scan(body, dynamics.init(params, y0), jnp.arange(1, num_lower_steps + 1))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), observe(y0), rest)
