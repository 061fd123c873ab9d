"""What a network is: pure functions, what of its weights never adapts, and its batch norm."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import haiku as hk

from bilevel.types import Array, Tree

# Whose means and variances the layers of batch norm take: the batch at hand, the support set of
# the task, or a sample of training images (src/problems/adapting_network.py).
BatchNorm = Literal["batch", "support", "running"]


class Apply(Protocol):
    def __call__(self, weights: Tree, images: Array, statistics: Tree = ..., /) -> Array:
        """Features (n, d); every batch norm on `statistics`, or on those of these images."""
        ...


class Model(NamedTuple):
    """A network as pure functions.

    init(key, images)                 weights, a dict of dicts of arrays
    apply(weights, images)            features (n, d), batch norm on the statistics of these images
    apply(weights, images, of_others) the same on the statistics of others, as `measure` gives them
    measure(weights, images)          (features, mean and variance in every batch norm, per channel)
    fixed                             the names of the leaves of `weights` that belong to the upper
                                      level alone: they do not adapt even where the network does
    transforms_head                   whether the problem is to add such a leaf behind the head, a
                                      matrix (ways, ways) from the identity on the logits
    batch_norm                        whose statistics the problem is to give; None: the network has
                                      no batch norm
    """

    init: Callable[[Array, Array], Tree]
    apply: Apply
    measure: Callable[[Tree, Array], tuple[Array, Tree]]
    fixed: frozenset[str] = frozenset()
    transforms_head: bool = False
    batch_norm: BatchNorm | None = None


def as_model(
    forward: Callable[[Array], Array],
    batch_norm: BatchNorm | None,
    fixed: frozenset[str] = frozenset(),
    transforms_head: bool = False,
) -> Model:
    """The model of a haiku function, whose statistics are haiku's state (`layers.batch_norm`)."""
    network = hk.transform_with_state(forward)

    def init(key: Array, images: Array) -> Tree:
        return network.init(key, images)[0]

    def apply(weights: Tree, images: Array, statistics: Tree = None, /) -> Array:
        return network.apply(weights, statistics, None, images)[0]

    def measure(weights: Tree, images: Array) -> tuple[Array, Tree]:
        return network.apply(weights, None, None, images)

    return Model(init, apply, measure, fixed, transforms_head, batch_norm)
