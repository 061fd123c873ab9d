"""Unrolled hypergradient (reverse mode through all K lower steps; RHG, ITD).

Franceschi, Donini, Frasconi, Pontil: Forward and reverse gradient-based hyperparameter
optimization, ICML 2017 (arXiv 1703.01785), Alg. 1.

    phi_K(x) = F(x, y_K(x)),   y_k = Phi_k(x, y_{k-1}),   y_0 = y_0(x)

Time: about 3 to 4 lower solves. Memory: K lower iterates. Valid whenever the steps are
differentiable; exact for phi_K, which for a strongly convex f tends to F(x, y*(x)) as K grows.
"""

from collections.abc import Callable

import jax

from src.bilevel.lower_solve import run_steps
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    Metrics,
    Tree,
)

DIFFERENTIATES = ("context", "params", "start")


def solve_and_score(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    context: Tree,
    task: Tree,
    params: Tree,
    y0: Tree,
) -> tuple[Array, tuple[Tree, Metrics]]:
    """F(x, y_K), and (y_K, metrics)."""
    state = dynamics.init(params, y0)
    y = run_steps(problem, dynamics, params, context, task, state, 1, num_lower_steps).y
    value, metrics = problem.upper_objective(context, task, y, None)
    return value, (y, metrics)


def target(problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int):
    """The function whose derivative `unrolled` is: (context, params, y0) -> F(x, y_K).

    Returned as a function of the point (context, task, params, y0) at which the derivative is
    taken, which matters to estimators that freeze a part of the computation; not here.
    """

    def at_point(context: Tree, task: Tree, params: Tree, y0: Tree):
        del context, params, y0

        def phi(context: Tree, params: Tree, y0: Tree) -> Array:
            return solve_and_score(problem, dynamics, num_lower_steps, context, task, params, y0)[0]

        return phi

    return at_point


TARGET = target


def differentiate(
    scored: Callable[[Tree, Tree, Tree], tuple[Array, tuple[Tree, Metrics]]],
    carry: Tree,
    context: Tree,
    params: Tree,
    y0: Tree,
) -> HypergradientOutput:
    """Value and reverse-mode gradients of scored(context, params, y0) -> F, (y_K, metrics)."""
    (value, (y, metrics)), gradients = jax.value_and_grad(scored, argnums=(0, 1, 2), has_aux=True)(
        context, params, y0
    )
    return HypergradientOutput(value, *gradients, y=y, metrics=metrics, carry=carry)


def unrolled(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> Hypergradient:
    """d phi_K / d (context, params, y0) by reverse mode through the K steps."""

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key

        def scored(context: Tree, params: Tree, y0: Tree):
            return solve_and_score(problem, dynamics, num_lower_steps, context, task, params, y0)

        return differentiate(scored, carry, context, params, y0)

    return Hypergradient(init=lambda y0: (), estimate=estimate)
