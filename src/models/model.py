"""What a network is: two pure functions, and what of its weights never adapts."""

from collections.abc import Callable
from typing import NamedTuple

from bilevel.types import Array, Tree


class Model(NamedTuple):
    """A network as pure functions.

    init(key, images)        weights, a dict of dicts of arrays
    apply(weights, images)   features (n, d)
    fixed                    the names of the leaves of `weights` that belong to the upper level
                             alone: they do not adapt even where the network does
    transforms_head          whether the problem is to add such a leaf behind the head, a matrix
                             (ways, ways) from the identity on the logits
    """

    init: Callable[[Array, Array], Tree]
    apply: Callable[[Tree, Array], Array]
    fixed: frozenset[str] = frozenset()
    transforms_head: bool = False
