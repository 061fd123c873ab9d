"""The power method: towards the eigenvector whose eigenvalue has the largest magnitude."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from bilevel.types import Array, Tree


def first_vector(like: Tree) -> Tree:
    """A random vector of the form of `like`, the same one each time."""
    leaves, form = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return form.unflatten(
        [jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)]
    )


def power_step(times_matrix: Callable[[Tree], Tree], vector: Tree) -> tuple[Tree, Tree]:
    """(v, A v), v the vector at unit length; 0 stays 0."""
    scale = length(vector)
    unit = jax.tree.map(lambda leaf: leaf / jnp.where(scale > 0, scale, 1.0), vector)
    return unit, times_matrix(unit)


def length(vector: Tree) -> Array:
    """The norm, with a derivative of 0 at 0."""
    square = jnp.asarray(optax.tree.vdot(vector, vector))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
