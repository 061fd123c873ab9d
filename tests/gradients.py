"""Finite differences of pytree functions, in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

STEP = 1e-5


def directional_error(function: Callable, point, gradient, directions: int = 6) -> float:
    """Largest |<gradient, v> - (f(p + h v) - f(p - h v)) / 2h| over random unit v, relative.

    Central differences of fourth order, so that their own error stays below 1e-10 or so.
    """
    flat, unravel = ravel_pytree(point)
    slope, _ = ravel_pytree(gradient)
    assert flat.dtype == jnp.float64
    generator = np.random.default_rng(0)
    compiled = jax.jit(lambda vector: function(unravel(vector)))
    worst = 0.0
    for _ in range(directions):
        direction = generator.standard_normal(flat.size)
        direction /= np.linalg.norm(direction)

        def at(scale, direction=direction):
            return float(compiled(flat + scale * STEP * direction))

        measured = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
        scale = max(1.0, float(jnp.linalg.norm(slope)))
        worst = max(worst, abs(float(slope @ direction) - measured) / scale)
    return worst
