"""Forward hypergradient: one Jacobian-vector product per differentiated scalar.

Franceschi, Donini, Frasconi, Pontil, ICML 2017 (arXiv 1703.01785), Alg. 2:

    z_k = d Phi_k / dy z_{k-1} + d Phi_k / dx,   g = dF/dy z_K + dF/dx,   z_0 = d y_0 / dx

Time: one lower solve per scalar of context, learned parameters and learned start, batched; memory:
one lower iterate per scalar, whatever K. Valid wherever `unrolled` is, and the same number: use it
for a few scalars (penalties, step sizes, alpha) and many steps.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.hypergradients.unrolled import PHI_K, solve_and_score
from bilevel.lower_level import LowerProblem, Point
from bilevel.option_checks import whole_number
from bilevel.types import Array, Tree


def forward(*, max_scalars: int = 1000) -> Hypergradient:
    """d F(x, y_K) / d (context, dynamics_params, y0) by forward mode; y0 only where it is learned.

    Refuses (ValueError, before tracing) more than `max_scalars` differentiated scalars.
    """
    max_scalars = whole_number("max_scalars", max_scalars, least=None)
    if max_scalars < 1:
        raise ValueError(f"max_scalars={max_scalars} must be at least 1; choose max_scalars=1000")

    def check(lower: LowerProblem, shapes: Point) -> None:
        parts = {
            "context": shapes.context,
            "learned parameters of the lower step": shapes.dynamics_params,
            "start": shapes.y0 if lower.problem.learned_start else (),
        }
        sizes = {name: sum(a.size for a in jax.tree.leaves(tree)) for name, tree in parts.items()}
        total = sum(sizes.values())
        if total > max_scalars:
            listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
            raise ValueError(
                f"max_scalars={max_scalars}: forward mode would need {total:,} Jacobian-vector "
                f"products ({listed}); choose hypergradient=unrolled, which needs one pass back, "
                f"or hypergradient.max_scalars={total}"
            )

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        learned_start = lower.problem.learned_start
        flat, unravel = ravel_pytree(point if learned_start else point._replace(y0=()))

        def score(vector: Array):
            moved = unravel(vector)
            value, aux = solve_and_score(
                lower, moved if learned_start else moved._replace(y0=point.y0)
            )
            return value, (value, aux)

        gradient, (value, (y, metrics)) = jax.jacfwd(score, has_aux=True)(flat)
        gradient = unravel(gradient)
        if not learned_start:
            gradient = gradient._replace(y0=jax.tree.map(jnp.zeros_like, point.y0))
        return HypergradientOutput(value, gradient, y, metrics)

    return Hypergradient(
        "forward",
        estimate,
        "g = d F(x, y_K(x)) / dx, forward mode through all K steps",
        PHI_K,
        certified_with={"max_scalars": (10**6,)},
        exact_with={},
        check=check,
    )
