"""One function for several tasks or seeds along a leading axis."""

from collections.abc import Callable, Sequence

import jax

from bilevel.types import Tree


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
