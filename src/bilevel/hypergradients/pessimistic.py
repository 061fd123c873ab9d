"""Pessimistic trajectory truncation: reverse mode through the lower steps up to the worst (IAPTT).

    g = d/dx max over k = 1..K of F(x, y_k(x))

Liu, Liu, Zeng, Zhang: Towards gradient-based bilevel optimization with non-convex followers and
beyond, NeurIPS 2021 (arXiv 2110.00455), Alg. 1: that every y_k scores at most so much bounds F at
the best of them, without convexity of f. Where the problem learns its start, y_0 is the paper's
auxiliary variable (initialization auxiliary).

Time: that of `unrolled`, and F in each of the K steps. Memory: as `unrolled`. Valid whenever the
steps are differentiable and F is at the worst y_k, where one k alone is the worst (of several that
tie the first is taken).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.types import Array, Index, Tree


class Worst(NamedTuple):
    """The step with the largest F so far, that F, and y there."""

    step: Index
    value: Array
    y: Tree


def pessimistic() -> Hypergradient:
    """d max_k F(x, y_k(x)) / d (context, dynamics_params, y0) by reverse mode."""

    def worst_of(lower: LowerProblem, point: Point) -> tuple[Worst, Tree]:
        """The worst of the K steps, and y_K. Only y there is to be differentiated."""
        level, fixed = lower.at(point), lower.at(lax.stop_gradient(point))

        def body(now: tuple[LowerState, Worst], k: Index) -> tuple[tuple[LowerState, Worst], None]:
            state, worst = now
            state = level.step(state, k)
            value = fixed.upper(lax.stop_gradient(state.y))[0]
            here = Worst(k, value, state.y)
            # A value that is no number stays, so that it is seen.
            is_worse = (k == 1) | (value > worst.value) | jnp.isnan(value)
            taken = jax.tree.map(lambda a, b: jnp.where(is_worse, a, b), here, worst)
            return (state, taken), None

        first = level.init(point.y0)
        steps = jnp.arange(1, lower.num_steps + 1)
        unknown = jnp.zeros_like(jax.eval_shape(fixed.upper, point.y0)[0])
        start = (first, Worst(steps[0], unknown, first.y))  # the first step replaces it
        (state, worst), _ = lax.scan(body, start, steps)
        return worst, state.y

    def estimate(lower: LowerProblem, point: Point, carry, key: Array) -> HypergradientOutput:
        def score(moved: Point):
            worst, y = worst_of(lower, moved)
            return lower.at(moved).upper(worst.y)[0], (worst, y)

        (objective, (worst, y)), gradient = jax.value_and_grad(score, has_aux=True)(point)
        value, metrics = lower.at(point).upper(y)
        shown = {"worst_step": jnp.asarray(worst.step, value.dtype)}
        return HypergradientOutput(value, gradient, y, metrics, shown, objective=objective)

    def target(lower: LowerProblem, point: Point, key: Array):
        """F at the step that is the worst at this point, of which the others are no part."""
        worst = worst_of(lower, point)[0].step

        def phi(moved: Point) -> Array:
            return lower.at(moved).score_each(moved.y0, lower.num_steps)[0][worst - 1]

        return phi

    return Hypergradient(
        "pessimistic",
        estimate,
        "g = d max_k F(x, y_k(x)) / dx, reverse mode through the steps up to the worst",
        Target("F(x, y_k(x)) at the worst step k", target),
    )
