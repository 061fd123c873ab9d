"""Gradient penalty: y descends F and the squared norm of the lower gradient (G-PBGD).

    y_k = y_{k-1} - eta (grad_y |grad_y f|^2 + grad_y F / lambda)(x, y_{k-1}),      k = 1..K
    g   = dF/dx + lambda d/dx |grad_y f|^2  at (x, y_K),    lambda = weight (n + 1)^power

Shen, Chen: On penalty-based bilevel gradient descent method, ICML 2023 (arXiv 2302.05185), which
moves x and y together: K = 1. In the steps of y F is divided by lambda, so that a step size stays
stable as lambda grows. The paper has no bounds of y; where lower steps end in a projection P,
grad_y f is y - P(y - grad_y f), which is 0 at a solution at a bound, too.

Time: K products with the lower Hessian and K gradients of F. Memory: one lower iterate. Valid where
points with a small lower gradient are near lower solutions (f convex, or as Polyak and Lojasiewicz
say); elsewhere it takes any stationary point of f, a maximum too.
"""

import jax
import jax.numpy as jnp

from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, Point
from bilevel.penalties import (
    WEIGHT_LIMIT,
    Followed,
    counted,
    descend,
    following,
    growing,
    objectives,
    output_of,
    refuse_weight,
)
from bilevel.types import Array, Index, Tree


def gradient_penalty(*, weight: float = 10.0, power: float = 0.0) -> Hypergradient:
    """g = dF/dx + lambda d |grad_y f|^2 / dx, y by K steps on F / lambda + |grad_y f|^2.

    weight, power: lambda = weight (n + 1)^power in upper iteration n.
    Raises ValueError for a weight outside (0, 1e6] or a power outside [0, 1].
    """
    refuse_weight(weight, power)

    def estimate(
        lower: LowerProblem, point: Point, carry: Followed, key: Array
    ) -> HypergradientOutput:
        scale = growing(weight, power, carry.iteration)

        def size(context: Tree, y: Tree, k: Index) -> Array:
            slope = lower.residual(jax.grad(objectives(lower, k).f, argnums=1)(context, y), y)
            return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(slope)), jnp.zeros(()))

        def penalised(y: Tree, k: Index) -> Array:
            return size(point.context, y, k) + objectives(lower, k).F(point.context, y) / scale

        y = descend(lower, point, penalised, lower.num_steps)
        after = lower.num_steps + 1

        def lagrangian(context: Tree) -> tuple[Array, Array]:
            penalty = size(context, y, after)
            return objectives(lower, after).F(context, y) + scale * penalty, penalty

        of_context, penalty = jax.grad(lagrangian, has_aux=True)(point.context)
        shown = {"penalty_weight": scale, "penalty": penalty}
        return output_of(lower, point, y, of_context, shown, following(carry))

    return Hypergradient(
        "gradient_penalty",
        estimate,
        f"g = dF/dx + lambda d |grad_y f|^2 / dx, lambda = {weight:g} (n + 1)^{power:g};  y "
        "descends F / lambda + |grad_y f|^2",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        own_directions=True,
        init=counted,
        limits={"penalty_weight": WEIGHT_LIMIT},
    )
