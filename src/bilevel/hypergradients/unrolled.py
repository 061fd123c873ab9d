"""Unrolled hypergradient (reverse mode through all K lower steps; RHG, ITD).

Franceschi, Donini, Frasconi, Pontil: Forward and reverse gradient-based hyperparameter
optimization, ICML 2017 (arXiv 1703.01785), Alg. 1.

    phi_K(x) = F(x, y_K(x)),   y_k = Phi_k(x, y_{k-1}),   y_0 = y_0(x)

Time: about 3 to 4 lower solves. Memory: K lower iterates; with checkpoints=sqrt about 2 sqrt(K)
of them, for one more solve. Valid whenever the steps are differentiable; exact for phi_K, which
for a strongly convex f tends to F(x, y*(x)) as K grows.
"""

from collections.abc import Callable
from typing import Literal

import jax

from src.bilevel.lower_solve import run_steps, run_steps_in_segments
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    Metrics,
    Tree,
)

DIFFERENTIATES = ("context", "aggregation", "lower_optimizer", "start")
Checkpoints = Literal["none", "sqrt"]


def solve_and_score(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    context: Tree,
    task: Tree,
    params: Tree,
    y0: Tree,
    checkpoints: Checkpoints = "none",
) -> tuple[Array, tuple[Tree, Metrics]]:
    """F(x, y_K), and (y_K, metrics)."""
    state = dynamics.init(params, y0)
    if checkpoints == "sqrt":
        state = run_steps_in_segments(
            problem, dynamics, params, context, task, state, num_lower_steps
        )
    else:
        state = run_steps(problem, dynamics, params, context, task, state, 1, num_lower_steps)
    value, metrics = problem.upper_objective(context, task, state.y, None)
    return value, (state.y, metrics)


def target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    checkpoints: Checkpoints = "none",
):
    """F(x, y_K(x))."""
    del checkpoints

    def at_point(context: Tree, task: Tree, params: Tree, y0: Tree, key: Array):
        del context, params, y0, key

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
    return HypergradientOutput(value, *gradients, y=y, metrics=metrics, diagnostics={}, carry=carry)


def unrolled(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    checkpoints: Checkpoints = "none",
) -> Hypergradient:
    """d phi_K / d (context, params, y0) by reverse mode through the K steps.

    checkpoints: none keeps all K iterates, sqrt about 2 sqrt(K) of them (the same numbers).
    """

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key

        def scored(context: Tree, params: Tree, y0: Tree):
            return solve_and_score(
                problem, dynamics, num_lower_steps, context, task, params, y0, checkpoints
            )

        return differentiate(scored, carry, context, params, y0)

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula="g = d F(x, y_K(x)) / dx, reverse mode through all K steps",
    )
