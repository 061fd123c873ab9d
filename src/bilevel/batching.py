"""One function for several tasks or seeds along a leading axis, on one device or shared out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.types import Tree


class Shares(NamedTuple):
    """The devices along an axis of a mesh, each of which takes its share of a leading axis.

    What uses it runs inside `jax.shard_map` over that mesh, where every device has all arguments.
    """

    axis: str
    number: int

    def own(self, tree: Tree) -> Tree:
        """This device's share: (n, ...) becomes (n / number, ...)."""

        def cut(leaf: jax.Array) -> jax.Array:
            size = leaf.shape[0] // self.number
            return lax.dynamic_slice_in_dim(leaf, lax.axis_index(self.axis) * size, size)

        return jax.tree.map(cut, tree)

    def together(self, tree: Tree) -> Tree:
        """The shares of all devices side by side, on every device."""
        return lax.all_gather(tree, self.axis, tiled=True)

    def of_each(self, function: Callable[[jax.Array], Tree], rows: jax.Array) -> Tree:
        """function(rows), row by row its own; where the devices do not divide them, some twice."""
        number = -(-len(rows) // self.number) * self.number
        results = self.together(function(self.own(rows[jnp.arange(number) % len(rows)])))
        return jax.tree.map(lambda leaf: leaf[: len(rows)], results)

    def total(self, tree: Tree) -> Tree:
        """The sum over the devices, on every device."""
        return lax.psum(tree, self.axis)


def batched(function: Callable[..., Tree], size: int, axes: Sequence[int | None]) -> Callable:
    """`function` along a leading axis of `size`: arguments of axis 0 have it, those of None do not.

    An axis of one is taken off and put back: its program is that of one, which compiles to plainer
    matrix products than a vmap over one.
    """
    if size > 1:
        return jax.vmap(function, tuple(axes), axis_size=size)

    def alone(*arguments: Tree) -> Tree:
        own = (
            argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
            for argument, axis in zip(arguments, axes, strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    return alone
