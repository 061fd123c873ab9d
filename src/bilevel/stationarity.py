"""The linear system of a lower solution, as products with a vector.

Where y = y(x) solves d(x, y) = 0, H = d d / d y is symmetric. Under a projection P the condition is
y = P(y - d(x, y)); S is the (symmetric) Jacobian of P at y - d, and A = S (I - S) + S H S.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.linear_solve import Matvec
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Tree


class System(NamedTuple):
    """A and S as products, at one point; without a projection S = I and A = H."""

    matvec: Matvec
    project: Matvec


def linear_system(lower: LowerProblem, point: Point, y: Tree, damping: float) -> System:
    """The system at y, with `damping` added to H."""
    level = lower.at(point)
    direction, hessian = jax.linearize(lambda y: level.direction(y, 1), y)

    def damped(vector: Tree) -> Tree:
        return jax.tree.map(lambda h, w: h + damping * w, hessian(vector), vector)

    if lower.dynamics.projection is None:
        return System(damped, lambda vector: vector)
    _, project = jax.linearize(lower.dynamics.projection, jax.tree.map(jnp.subtract, y, direction))

    def matvec(vector: Tree) -> Tree:
        inside = project(vector)
        curved = damped(inside)
        return project(jax.tree.map(lambda w, s, h: w - s + h, vector, inside, curved))

    return System(matvec, project)


def part_inside(system: System, vector: Tree) -> Tree:
    """S v, without the rounding of v that lies where A is singular.

    Along what S takes away A is zero. What rounding leaves there, of the order of eps |v|, counts
    once S v is small, near a solution: no q removes it, and conjugate gradients divide by zero. For
    boxes, simplices and balls S is a multiple c of a projector, so S (S v) / c is the same without.
    """
    inside = system.project(vector)
    cleaned = onto_range(system, inside)
    change = optax.tree.norm(jax.tree.map(jnp.subtract, cleaned, inside))
    size = optax.tree.norm(vector)
    by_rounding = change <= 100 * jnp.finfo(size.dtype).eps * size
    return jax.tree.map(lambda a, b: jnp.where(by_rounding, a, b), cleaned, inside)


def onto_range(system: System, vector: Tree) -> Tree:
    """S v, scaled to be the projection of v where S is a multiple of a projector.

    A solution q counts by S q alone. What else is in it, a warm start hands from solve to solve,
    and rounding multiplies it where A is singular.
    """
    image = system.project(vector)
    size = jnp.asarray(optax.tree.vdot(image, image))
    scale = jnp.where(size > 0, optax.tree.vdot(vector, image) / jnp.where(size > 0, size, 1), 0)
    return jax.tree.map(lambda leaf: scale * leaf, image)


def no_error(like: Tree) -> Array:
    """0, of the type of the relative error of such vectors."""
    of_norm = jax.eval_shape(relative_error, like, like)
    return jnp.zeros((), of_norm.dtype)


def relative_error(applied: Tree, b: Tree) -> Array:
    """|applied - b| / |b|, zero where b is."""
    size = optax.tree.norm(b)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, applied, b))
    return error / jnp.where(size > 0, size, 1)
