"""Forward hypergradient: one Jacobian-vector product per differentiated scalar.

Franceschi, Donini, Frasconi, Pontil, ICML 2017 (arXiv 1703.01785), Alg. 2:

    z_k = d Phi_k / dy z_{k-1} + d Phi_k / dx,   g = dF/dy z_K + dF/dx,   z_0 = d y_0 / dx

Time: one lower solve per scalar of context, learned parameters and learned start, batched; memory:
one lower iterate per scalar, whatever K. Valid wherever `unrolled` is, and the same number: use it
for a few scalars (penalties, step sizes, alpha) and many steps.
"""

import jax
from jax.flatten_util import ravel_pytree

from src.bilevel.hypergradients.unrolled import solve_and_score
from src.bilevel.hypergradients.unrolled import target as unrolled_target
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    Tree,
)

DIFFERENTIATES = ("context", "aggregation", "lower_optimizer", "start")


def target(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int, *, max_scalars: int
):
    """F(x, y_K(x))."""
    del max_scalars
    return unrolled_target(problem, dynamics, num_lower_steps)


TARGET = target


def forward(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    max_scalars: int = 1000,
) -> Hypergradient:
    """d F(x, y_K) / d (context, params, y0) by forward mode; y0 only where the start is learned.

    Refuses (ValueError, before tracing) more than `max_scalars` differentiated scalars.
    """
    if max_scalars < 1:
        raise ValueError(f"max_scalars={max_scalars} must be at least 1; choose max_scalars=1000")

    def check(context: Tree, params: Tree, y0: Tree) -> None:
        parts = {"context": context, "learned parameters of the lower step": params}
        if problem.learned_start:
            parts["start"] = y0
        sizes = {name: sum(a.size for a in jax.tree.leaves(tree)) for name, tree in parts.items()}
        total = sum(sizes.values())
        if total > max_scalars:
            listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
            raise ValueError(
                f"max_scalars={max_scalars}: forward mode would need {total:,} Jacobian-vector "
                f"products ({listed}); choose hypergradient=unrolled, which needs one pass back, "
                f"or hypergradient.max_scalars={total}"
            )

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key
        point = (context, params, y0 if problem.learned_start else ())
        flat, unravel = ravel_pytree(point)

        def scored(vector: Array):
            context, params, start = unravel(vector)
            value, (y, metrics) = solve_and_score(
                problem,
                dynamics,
                num_lower_steps,
                context,
                task,
                params,
                start if problem.learned_start else y0,
            )
            return value, (value, y, metrics)

        gradient, (value, y, metrics) = jax.jacfwd(scored, has_aux=True)(flat)
        context_gradient, params_gradient, start_gradient = unravel(gradient)
        if not problem.learned_start:
            start_gradient = jax.tree.map(jax.numpy.zeros_like, y0)
        return HypergradientOutput(
            value,
            context_gradient,
            params_gradient,
            start_gradient,
            y=y,
            metrics=metrics,
            diagnostics={},
            carry=carry,
        )

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula="g = d F(x, y_K(x)) / dx, forward mode through all K steps",
        check=check,
    )
