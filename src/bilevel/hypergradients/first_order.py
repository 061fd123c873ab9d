"""First-order hypergradient: all second derivatives of f and F are dropped (FOMAML).

Finn, Abbeel, Levine: Model-agnostic meta-learning, ICML 2017 (arXiv 1703.03400), section 5.2.

    y_k = Phi_k(d_k, y_{k-1}) with the point (x, y_{k-1}) at which d_k is taken held fixed:
    SGD:  g = dF/dx at y_K,   dF/dy0 = grad_y F(y_K),   dF/d step_size = -sum_k d_k . grad_y F(y_K)

Learned alpha, s, t and step sizes act on fixed gradients, so their part needs no second derivative
either. Time: one lower solve and two gradients of F. Memory: one lower iterate (K where something
of the lower step is learned). Valid as an approximation for small steps from a learned start; x
inside the lower level is not seen at all.
"""

import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target, by_reverse_mode
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.types import Array, Index, Tree


def first_order() -> Hypergradient:
    """The derivative of F(x, y_K) without second derivatives of f or F."""

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        fixed_context = lax.stop_gradient(point.context)

        def score(moved: Point):
            level, seen = lower.at(moved), lower.at(moved._replace(context=fixed_context))

            def body(state: LowerState, k: Index) -> tuple[LowerState, None]:
                direction = seen.direction(lax.stop_gradient(state.y), k)
                return level.move(direction, state, k), None

            steps = jnp.arange(1, lower.num_steps + 1)
            return level.score(lax.scan(body, level.init(moved.y0), steps)[0].y)

        return by_reverse_mode(score, point)

    def target(lower: LowerProblem, point: Point, key: Array):
        at_point, steps = lower.at(point), jnp.arange(1, lower.num_steps + 1)

        def forward(state: LowerState, k: Index) -> tuple[LowerState, Tree]:
            return at_point.step(state, k), state.y

        _, places = lax.scan(forward, at_point.init(point.y0), steps)

        def phi(moved: Point) -> Array:
            level, seen = lower.at(moved), lower.at(moved._replace(context=point.context))

            def step(state: LowerState, where: tuple[Index, Tree]) -> tuple[LowerState, None]:
                k, place = where
                return level.move(seen.direction(place, k), state, k), None

            return level.upper(lax.scan(step, level.init(moved.y0), (steps, places))[0].y)[0]

        return phi

    return Hypergradient(
        "first_order",
        estimate,
        "g = dF/dx at y_K, and dF/dy at y_K for the start: no second derivatives",
        Target("F(x, y_K(x)) with the points at which gradients are taken frozen", target),
        differentiates=frozenset({"direct", "aggregation", "lower_optimizer", "start"}),
        direction_alone=True,
    )
