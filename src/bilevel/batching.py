"""One function for several tasks or seeds along a leading axis."""

from collections.abc import Callable, Sequence

import jax

from src.bilevel.types import Tree


def over(function: Callable[..., Tree], number: int, axes: Sequence[int | None]) -> Callable:
    """`function` for each of `number`: arguments of axis 0 have such an axis, those of None none.

    A single one is taken out of its axis and put back: its program is that of one, which compiles
    to plainer matrix products than a vmap over one.
    """
    if number > 1:
        return jax.vmap(function, tuple(axes), axis_size=number)

    def alone(*arguments: Tree) -> Tree:
        own = (
            argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
            for argument, axis in zip(arguments, axes, strict=True)
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*own))

    return alone
