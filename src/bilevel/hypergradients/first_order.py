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

from src.bilevel.hypergradients.unrolled import differentiate
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    LowerState,
    Tree,
)

DIFFERENTIATES = ("direct", "aggregation", "lower_optimizer", "start")


def target(problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int):
    """F(x, y_K(x)) with the points at which gradients are taken frozen."""

    def at_point(context: Tree, task: Tree, params: Tree, y0: Tree, key: Array):
        del key
        steps = jnp.arange(1, num_lower_steps + 1)

        def forward(state: LowerState, k: Array) -> tuple[LowerState, Tree]:
            return dynamics.step(problem, params, context, task, state, k), state.y

        _, places = lax.scan(forward, dynamics.init(params, y0), steps)

        def phi(moved_context: Tree, moved_params: Tree, moved_start: Tree) -> Array:
            def step(state: LowerState, at: tuple[Array, Tree]) -> tuple[LowerState, None]:
                k, place = at
                found = dynamics.direction(problem, moved_params, context, task, place, k)
                return dynamics.move(moved_params, found, state, k), None

            start = dynamics.init(moved_params, moved_start)
            state, _ = lax.scan(step, start, (steps, places))
            return problem.upper_objective(moved_context, task, state.y, None)[0]

        return phi

    return at_point


TARGET = target


def first_order(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> Hypergradient:
    """The derivative of F(x, y_K) without second derivatives of f or F."""

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key
        fixed_context = lax.stop_gradient(context)

        def scored(context: Tree, params: Tree, y0: Tree):
            def body(state: LowerState, k: Array) -> tuple[LowerState, None]:
                place = lax.stop_gradient(state.y)
                direction = dynamics.direction(problem, params, fixed_context, task, place, k)
                return dynamics.move(params, direction, state, k), None

            steps = jnp.arange(1, num_lower_steps + 1)
            y = lax.scan(body, dynamics.init(params, y0), steps)[0].y
            value, metrics = problem.upper_objective(context, task, y, None)
            return value, (y, metrics)

        return differentiate(scored, carry, context, params, y0)

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula="g = dF/dx at y_K, and dF/dy at y_K for the start: no second derivatives",
    )
