"""Convex sets that a lower variable is kept in, and the Euclidean projection onto each.

box       lower <= y <= upper in every entry
ball      |y| <= radius, all entries of y together
simplex   y >= 0 with sum radius, all entries of y together
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax import projections

from bilevel import option_checks as check
from bilevel.types import Projection, Tree

ConvexSet = Literal["box", "ball", "simplex"]


def projection_onto(
    kind: ConvexSet, lower: float | None, upper: float | None, radius: float | None
) -> tuple[Projection, str]:
    """The projection, and the same in words.

    Raises ValueError for an unknown or empty set, and for an option that the set does not have.
    """
    check.choice("set", kind, get_args(ConvexSet))
    check.numbers(lower=lower, upper=upper, radius=radius)
    for name, value in {"lower": lower, "upper": upper, "radius": radius}.items():
        if (value is None) != ((name == "radius") == (kind == "box")):
            needs = "lower and upper" if kind == "box" else "radius"
            raise ValueError(f"{name}={value} does not go with set={kind}, which has {needs}")
    if kind == "box":
        assert lower is not None
        assert upper is not None
        if not lower < upper:
            raise ValueError(f"lower={lower} must be below upper={upper}; choose lower=-1 upper=1")
        return (
            lambda y: jax.tree.map(lambda leaf: jnp.clip(leaf, lower, upper), y),
            f"P onto {lower:g} <= y <= {upper:g}",
        )
    assert radius is not None
    if not 0 < radius < math.inf:
        raise ValueError(f"radius={radius} must be positive and finite; choose radius=1")
    if kind == "ball":
        return (
            lambda y: projections.projection_l2_ball(y, radius),
            f"P onto |y| <= {radius:g}",
        )
    return (
        lambda y: _onto_simplex(y, radius),
        f"P onto y >= 0, sum(y) = {radius:g}",
    )


def _onto_simplex(y: Tree, radius: float) -> Tree:
    # optax computes in jax's own width of floats, and its derivative is right for such a y alone.
    own = optax.tree.cast(y, jnp.zeros(()).dtype)
    return optax.tree.cast_like(projections.projection_simplex(own, radius), y)
