"""Finite differences of pytree functions, in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.types import Array, Tree

STEP = 1e-5


def directional_error(
    function: Callable[[Tree], Array], point: Tree, gradient: Tree, directions: int = 6
) -> Array:
    """Largest |<gradient, v> - (f(p + h v) - f(p - h v)) / 2h| over random unit v,
    relative to max(1, |gradient|).

    Central differences of fourth order, so that their own error stays below 1e-10 or so. A NaN
    anywhere is the answer. May be compiled together with what computes the gradient.

    Raises TypeError where the point is not float64.
    """
    flat, unravel = ravel_pytree(point)
    slope, _ = ravel_pytree(gradient)
    if flat.dtype != jnp.float64:
        raise TypeError(f"finite differences need float64, got {flat.dtype}: jax.enable_x64(True)")
    rows = np.random.default_rng(0).standard_normal((directions, flat.size))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shifts = STEP * np.array([-2, -1, 1, 2])[:, None, None] * rows
    values = jax.jit(jax.vmap(jax.vmap(lambda shift: function(unravel(flat + shift)))))(shifts)
    measured = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * STEP)
    size = jnp.maximum(1.0, jnp.linalg.norm(slope))
    return jnp.max(jnp.abs(rows @ slope - measured)) / size
