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

from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array


def pessimistic() -> Hypergradient:
    """d max_k F(x, y_k(x)) / d (context, dynamics_params, y0) by reverse mode."""

    def scores(lower: LowerProblem, point: Point):
        """F(x, y_1), ..., F(x, y_K), and (y_K, metrics there)."""
        return lower.at(point).score_each(point.y0, lower.num_steps)

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
