"""Multipliers of constraints c(x) <= 0 on the upper variable, from one gradient and no memory.

A penalty weight/2 sum max(0, c)^2 adds A^T max(0, weight c) to the gradient s of the objective, A
the gradients of c as rows: where a multiplier lambda is not 0 it comes to rest at c = lambda /
weight. Here A^T mu is added, with mu >= 0 from

    min over mu >= 0 of |s + A^T mu|^2 / 2 - weight sum |a_i|^2 mu_i c_i

With one constraint this is mu = max(0, weight c - a s / |a|^2): the penalty, around the multiplier
by least squares. It is zero inside, and s + A^T mu = 0 only where c = 0 or mu = 0: no bias, at the
same weight. The direction -(s + A^T mu) is the nearest one to -s along which c_i falls at least at
the rate weight |a_i|^2 c_i (Muehlebach, Jordan: On constraints in first-order optimization, Journal
of Machine Learning Research 23, 2022). Bounds of x that are projections are not seen: where such a
bound counts too, a bias of the order of 1 / weight is left.
"""

import jax.numpy as jnp
from jax import lax

from bilevel.types import Array

SWEEPS = 50


def upper_multipliers(
    rows: Array, values: Array, counted: Array, slope: Array, weight: float
) -> Array:
    """mu of shape (m,), by coordinate descent; rows (m, n), values and counted (m,), slope (n,).

    What is not counted, and what has no gradient, gets 0. Hildreth, Naval Research Logistics
    Quarterly 4, 1957.
    """
    if not len(values):
        return values
    matrix = rows @ rows.T
    sizes = jnp.diagonal(matrix)
    counted = counted & (sizes > 0)
    linear = rows @ slope - weight * sizes * values

    def coordinate(i: Array, mu: Array) -> Array:
        change = (matrix[i] @ mu + linear[i]) / jnp.where(counted[i], sizes[i], 1)
        return mu.at[i].set(jnp.where(counted[i], jnp.maximum(0, mu[i] - change), 0))

    count = len(values)
    start = jnp.zeros_like(values)
    return lax.fori_loop(0, SWEEPS * count, lambda n, mu: coordinate(n % count, mu), start)
