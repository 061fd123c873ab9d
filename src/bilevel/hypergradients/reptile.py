"""Reptile: the start moves towards where the lower level ends; no derivative of F at all.

Nichol, Achiam, Schulman: On first-order meta-learning algorithms, 2018 (arXiv 1803.02999), Alg. 2:

    g = y_0 - y_K,   so that an upper step of SGD of size eps is  y_0 <- y_0 + eps (y_K - y_0)

It is no derivative, hence no TARGET; F is evaluated for the report alone. Time: one lower solve.
Memory: one lower iterate. Valid where the start is all there is to learn and f of a task is its
whole loss: the paper trains on more shots than it tests with.
"""

import jax
import jax.numpy as jnp

from src.bilevel.hypergradients.unrolled import solve_and_score
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    Tree,
)

DIFFERENTIATES = ("start",)
TARGET = None


def reptile(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> Hypergradient:
    """g = y_0 - y_K for the start, zero for everything else."""

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key
        value, (y, metrics) = solve_and_score(
            problem, dynamics, num_lower_steps, context, task, params, y0
        )
        return HypergradientOutput(
            value,
            jax.tree.map(jnp.zeros_like, context),
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(jnp.subtract, y0, y),
            y=y,
            metrics=metrics,
            diagnostics={},
            carry=carry,
        )

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula="g = y_0 - y_K for the start (no derivative of anything)",
    )
