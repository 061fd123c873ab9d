"""The four-block convolutional feature network of the few-shot literature (BOML's V1, Omniglot)."""

import haiku as hk
import jax
from haiku.experimental import name_scope

from src.bilevel.types import Array, Model
from src.models.layers import (
    ConvolutionName,
    WeightsInit,
    batch_norm,
    choose_convolution,
    conv3x3,
)


def conv4(
    *,
    filters: int = 64,
    num_blocks: int = 4,
    convolution: ConvolutionName = "auto",
    weights_init: WeightsInit = "xavier_uniform",
) -> Model:
    """Images (n, height, width, channels) -> features (n, d).

    A block is a 3x3 convolution of stride 2 (SAME, no bias), batch norm with an
    offset and no scale on the statistics of the batch at hand, in training and in testing alike,
    then ReLU. 28x28 images and 4 blocks of 64 filters give d = 256 and 111,424 weights.

    Raises ValueError where filters or num_blocks is below 1.
    """
    for name, value in (("filters", filters), ("num_blocks", num_blocks)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1; choose the default")

    convolve = choose_convolution(convolution)

    def forward(images: Array) -> Array:
        hidden = images
        for block in range(num_blocks):
            with name_scope(f"block_{block}"):
                hidden = conv3x3(hidden, filters, 2, convolve, weights_init)
                hidden = jax.nn.relu(batch_norm(hidden))
        return hidden.reshape(hidden.shape[0], -1)

    network = hk.without_apply_rng(hk.transform(forward))
    return Model(init=network.init, apply=network.apply)
