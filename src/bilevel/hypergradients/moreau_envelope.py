"""Moreau envelope: z is pulled towards y, so that its problem is convex where f is not (MEHA).

    z_k = z_{k-1} - eta (grad_y f(z_{k-1}) + (z_{k-1} - y_{k-1}) / gamma),               k = 1..K
    y_k = y_{k-1} - eta (grad_y f(y_{k-1}) - (y_{k-1} - z_k) / gamma + grad_y F(y_{k-1}) / lambda)
    g   = dF/dx(y) + lambda (df/dx(y) - df/dx(z)),       lambda = weight (n + 1)^power,  all at x

The constraint that is penalised is f(x, y) <= min_z [f(x, z) + |z - y|^2 / (2 gamma)]. Liu, Liu,
Yao, Zeng, Zhang: Moreau envelope for nonconvex bi-level optimization: a single-loop and
Hessian-free solution strategy, ICML 2024 (arXiv 2405.09927): K = 1. There g is divided by lambda,
and x moves before y; here y moves before x, and g is on the scale of F.

Time: per lower step two gradients of f and one of F. No second derivatives. Memory: two lower
iterates. Valid for a lower level that is weakly convex: gamma is below 1 / its most negative
curvature.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.penalties import (
    WEIGHT_LIMIT,
    Followed,
    first,
    following,
    growing,
    objectives,
    of_value_gap,
    other_of,
    output_of,
    refuse_weight,
)
from bilevel.types import Array, Index


def moreau_envelope(
    *, weight: float = 10.0, power: float = 0.25, gamma: float = 1.0
) -> Hypergradient:
    """g = dF/dx + lambda (df/dx(y) - df/dx(z)), z near the proximal point of f at y.

    weight, power: lambda = weight (n + 1)^power in upper iteration n. gamma: of
    |z - y|^2 / (2 gamma). Raises ValueError for a weight outside (0, 1e6], a power outside [0, 1]
    or gamma <= 0.
    """
    refuse_weight(weight, power)
    gamma = check.number("gamma", gamma)
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be positive; choose gamma=1")

    def estimate(
        lower: LowerProblem, point: Point, carry: Followed, key: Array
    ) -> HypergradientOutput:
        scale = growing(weight, power, carry.iteration)
        level, context = lower.at(point), point.context

        def body(states: tuple[LowerState, LowerState], k: Index):
            other, state = states
            rows = objectives(lower, k)
            of_f = jax.grad(rows.f, argnums=1)
            away = jax.tree.map(lambda z, y: (z - y) / gamma, other.y, state.y)
            slope = jax.tree.map(jnp.add, of_f(context, other.y), away)
            other = level.move(slope, other, k)
            slope = jax.tree.map(
                lambda f, y, z, upper: f - (y - z) / gamma + upper / scale,
                of_f(context, state.y),
                state.y,
                other.y,
                jax.grad(rows.F, argnums=1)(context, state.y),
            )
            return (other, level.move(slope, state, k)), None

        start = (level.init(other_of(carry, point)), level.init(point.y0))
        (other, state), _ = lax.scan(body, start, jnp.arange(1, lower.num_steps + 1))
        of_context, gap = of_value_gap(lower, point, state.y, other.y, scale)
        shown = {"penalty_weight": scale, "value_gap": gap}
        return output_of(lower, point, state.y, of_context, shown, following(carry, other.y))

    return Hypergradient(
        "moreau_envelope",
        estimate,
        f"g = dF/dx(y) + lambda (df/dx(y) - df/dx(z)), lambda = {weight:g} (n + 1)^{power:g};  "
        f"z descends f + |z - y|^2 / (2 {gamma:g}), "
        f"y descends f - |y - z|^2 / (2 {gamma:g}) + F / lambda",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        own_directions=True,
        init=first,
        limits={"penalty_weight": WEIGHT_LIMIT},
    )
