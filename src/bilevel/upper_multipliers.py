"""Multipliers of constraints c(x) <= 0 on the upper variable, from one gradient and no memory.

A penalty weight/2 sum max(0, c)^2 adds A^T max(0, weight c) to the gradient s of the objective, A
the gradients of c as rows: where a multiplier lambda is not 0 it comes to rest at c = lambda /
weight. Here A^T mu is added, with mu >= 0 from

    min over mu >= 0 of |s + A^T mu|^2 / 2 - rate sum |a_i|^2 mu_i c_i

With one constraint this is mu = max(0, rate c - a s / |a|^2): a penalty of this weight, around the
multiplier by least squares. The direction -(s + A^T mu) is the nearest one to -s along which c_i
falls at least at the rate |a_i|^2 c_i times `rate` (Muehlebach, Jordan: On constraints in
first-order optimization, Journal of Machine Learning Research 23, 2022): each violation dies out
along the flow as exp(-rate |a_i|^2 t). Where it rests, s + A^T mu = 0, c <= 0, and c_i = 0 or
mu_i = 0: no bias, at any rate.

So the rate need not be large, as the weight of a penalty must. A step of size eta takes c_i to
(1 - eta rate |a_i|^2) c_i, so that eta rate |a_i|^2 must stay below 1, or x overshoots; and an
optimizer that scales by past gradients, as Adam does, is slow for long after a stiff one. Bounds of
x that are projections are not seen: where such a bound counts too, a bias of the order of 1 / rate
is left.
"""

import jax.numpy as jnp
from jax import lax

from bilevel.types import Array

SWEEPS = 50


def upper_multipliers(
    rows: Array, values: Array, counted: Array, slope: Array, rate: float
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
    linear = rows @ slope - rate * sizes * values

    def coordinate(i: Array, mu: Array) -> Array:
        change = (matrix[i] @ mu + linear[i]) / jnp.where(counted[i], sizes[i], 1)
        return mu.at[i].set(jnp.where(counted[i], jnp.maximum(0, mu[i] - change), 0))

    count = len(values)
    start = jnp.zeros_like(values)
    return lax.fori_loop(0, SWEEPS * count, lambda n, mu: coordinate(n % count, mu), start)
