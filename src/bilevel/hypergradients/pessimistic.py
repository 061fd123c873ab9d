"""Pessimistic trajectory truncation: reverse mode through the lower steps up to the worst (IAPTT).

    g = d/dx max over k = 1..K of F(x, y_k(x))

Liu, Liu, Zeng, Zhang: Towards gradient-based bilevel optimization with non-convex followers and
beyond, NeurIPS 2021 (arXiv 2110.00455), Alg. 1: that every y_k scores at most so much bounds F at
the best of them, without convexity of f. Where the problem learns its start, y_0 is the paper's
auxiliary variable (initialization auxiliary).

Time: that of `unrolled`, and F in each of the K steps. Memory: as `unrolled`. Valid whenever the
steps are differentiable, where one k alone is the worst; several that tie share the derivative.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.types import Array, Index


def pessimistic() -> Hypergradient:
    """d max_k F(x, y_k(x)) / d (context, dynamics_params, y0) by reverse mode."""

    def scores(lower: LowerProblem, point: Point):
        """F(x, y_1), ..., F(x, y_K), and (y_K, metrics there)."""
        level = lower.at(point)

        def body(state: LowerState, k: Index) -> tuple[LowerState, Array]:
            state = level.step(state, k)
            return state, level.upper(state.y)[0]

        steps = jnp.arange(1, lower.num_steps + 1)
        state, values = lax.scan(body, level.init(point.y0), steps)
        return values, (state.y, level.upper(state.y)[1])

    def estimate(lower: LowerProblem, point: Point, carry, key: Array) -> HypergradientOutput:
        def worst(moved: Point):
            values, (y, metrics) = scores(lower, moved)
            return values.max(), (values, y, metrics)

        (_, (values, y, metrics)), gradient = jax.value_and_grad(worst, has_aux=True)(point)
        step = (values.argmax() + 1).astype(values.dtype)
        return HypergradientOutput(values[-1], gradient, y, metrics, {"worst_step": step})

    def target(lower: LowerProblem, point: Point, key: Array):
        """F at the step that is the worst at this point, of which the others are no part."""
        worst = scores(lower, point)[0].argmax()

        def phi(moved: Point) -> Array:
            return scores(lower, moved)[0][worst]

        return phi

    return Hypergradient(
        "pessimistic",
        estimate,
        "g = d max_k F(x, y_k(x)) / dx, reverse mode through the steps up to the worst",
        Target("F(x, y_k(x)) at the worst step k", target),
    )
