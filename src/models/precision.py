"""A network whose layers compute in fewer bits than the rest (mixed precision).

Micikevicius et al., Mixed precision training, ICLR 2018 (arXiv 1710.03740): weights are kept in
full precision, and cast where they are used.
"""

import jax
import jax.numpy as jnp

from bilevel.types import Array, Tree
from src.models.model import Model


def in_precision(model: Model, dtype: str) -> Model:
    """The same network with weights, images and layers in `dtype`; features come back as before.

    So x, y, head, losses, and all gradients once they leave the network stay in full precision. No
    loss is scaled: in float16 gradients below 6e-8 become 0. Its `init` raises ValueError where the
    network has no weights.
    """

    def init(key: Array, images: Array) -> Tree:
        weights = model.init(key, images)
        if not jax.tree.leaves(weights):
            raise ValueError(
                f"feature_dtype={dtype}: the model has no layers that could compute in it; choose "
                "feature_dtype=null"
            )
        return weights

    def low(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

    def back(tree: Tree, images: Array) -> Tree:
        full = jnp.promote_types(images.dtype, jnp.float32)
        return jax.tree.map(lambda leaf: leaf.astype(full), tree)

    def apply(weights: Tree, images: Array, statistics: Tree = None, /) -> Array:
        return back(model.apply(low(weights), low(images), low(statistics)), images)

    def measure(weights: Tree, images: Array) -> tuple[Array, Tree]:
        return back(model.measure(low(weights), low(images)), images)

    return model._replace(init=init, apply=apply, measure=measure)
