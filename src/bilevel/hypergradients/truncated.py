"""Truncated hypergradient: reverse mode through the last n of the K lower steps (TRHG, K-RMD).

Shaban, Cheng, Hatch, Boots: Truncated back-propagation for bilevel optimization, AISTATS 2019
(arXiv 1810.10667).

    g = d/dx F(x, Phi_K o ... o Phi_{K-n+1}(x, y_{K-n}))   with y_{K-n} held fixed

Where the start is learned, the Jacobian of the dropped steps, d y_{K-n} / d y_0, is taken to be
the identity, so that n = 0 gives the start FOMAML's gradient. n = K is `unrolled`.

Time: K steps forward, n back. Memory: n lower iterates. Valid where steps far back do not matter:
the bias shrinks like (1 - step_size mu)^n where f is mu-strongly convex; with several lower
solutions it does not shrink.
"""

import jax
import jax.numpy as jnp
from jax import lax

from src.bilevel.hypergradients.unrolled import differentiate
from src.bilevel.lower_solve import run_steps
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    LowerState,
    Tree,
)

DIFFERENTIATES = ("context", "aggregation", "lower_optimizer", "start")


def _kept_steps(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int, keep_last: int
):
    """(freeze, finish): the dropped steps, and F as a function of what comes after them."""

    def freeze(context: Tree, task: Tree, params: Tree, y0: Tree) -> LowerState:
        start = dynamics.init(params, y0)
        last_dropped = num_lower_steps - keep_last
        return run_steps(problem, dynamics, params, context, task, start, 1, last_dropped)

    def finish(frozen: LowerState, task: Tree, context: Tree, params: Tree, shift: Tree):
        """`shift` = y0 - its frozen value: it enters behind the dropped steps (identity)."""
        state = frozen._replace(y=jax.tree.map(lambda y, d: y + d, frozen.y, shift))
        first = num_lower_steps - keep_last + 1
        y = run_steps(problem, dynamics, params, context, task, state, first, num_lower_steps).y
        value, metrics = problem.upper_objective(context, task, y, None)
        return value, (y, metrics)

    return freeze, finish


def target(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int, *, keep_last: int
):
    """F(x, y_K(x)) with the dropped steps frozen."""
    freeze, finish = _kept_steps(problem, dynamics, num_lower_steps, keep_last)

    def at_point(context: Tree, task: Tree, params: Tree, frozen_start: Tree, key: Array):
        del key
        frozen = freeze(context, task, params, frozen_start)

        def phi(context: Tree, params: Tree, y0: Tree) -> Array:
            shift = jax.tree.map(lambda a, b: a - b, y0, frozen_start)
            return finish(frozen, task, context, params, shift)[0]

        return phi

    return at_point


TARGET = target


def dropped_steps(num_lower_steps: int, *, keep_last: int) -> int:
    """How many of the first lower steps no gradient reaches."""
    return num_lower_steps - keep_last


def truncated(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int, *, keep_last: int
) -> Hypergradient:
    """The derivative through the last `keep_last` = n steps, 0 <= n <= K.

    Raises ValueError where n is outside 0..K.
    """
    if not 0 <= keep_last <= num_lower_steps:
        raise ValueError(
            f"keep_last={keep_last} is outside 0..{num_lower_steps} (0..num_lower_steps): no more "
            f"steps exist; choose keep_last={min(max(keep_last, 0), num_lower_steps)}, or "
            "hypergradient=unrolled to keep them all"
        )
    freeze, finish = _kept_steps(problem, dynamics, num_lower_steps, keep_last)

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key
        frozen = lax.stop_gradient(freeze(context, task, params, y0))

        def scored(context: Tree, params: Tree, shift: Tree):
            return finish(frozen, task, context, params, shift)

        no_shift = jax.tree.map(jnp.zeros_like, y0)
        return differentiate(scored, carry, context, params, no_shift)

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula=f"g = d F(x, y_K(x)) / dx through the last {keep_last} of {num_lower_steps} steps",
    )
