"""Reptile: the start moves towards where the lower level ends; no derivative of F at all.

Nichol, Achiam, Schulman: On first-order meta-learning algorithms, 2018 (arXiv 1803.02999), Alg. 2:

    g = y_0 - y_K,   so that an upper step of SGD of size eps is  y_0 <- y_0 + eps (y_K - y_0)

It is no derivative, hence it has no target; F is evaluated for the report alone. Time: one lower
solve. Memory: one lower iterate. Valid where the start is all there is to learn and f of a task is
its whole loss: the paper trains on more shots than it tests with.
"""

import jax
import jax.numpy as jnp

from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.hypergradients.unrolled import solve_and_score
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Tree


def reptile() -> Hypergradient:
    """g = y_0 - y_K for the start, zero for everything else."""

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        value, (y, metrics) = solve_and_score(lower, point)
        nothing = jax.tree.map(jnp.zeros_like, point)
        gradient = nothing._replace(y0=jax.tree.map(jnp.subtract, point.y0, y))
        return HypergradientOutput(value, gradient, y, metrics)

    return Hypergradient(
        "reptile",
        estimate,
        "g = y_0 - y_K for the start (no derivative of anything)",
        None,
        differentiates=frozenset({"start"}),
        through_steps=False,
    )
