"""BOML's residual feature network (V2), every weight of it learned."""

from typing import Literal

import jax
from haiku.experimental import name_scope

from bilevel.types import Array
from src.models import layers
from src.models.convolution import ConvolutionName, Convolve, choose_convolution
from src.models.layers import (
    Offset,
    WeightsInit,
    conv1x1,
    conv3x3,
    leaky_relu,
    max_pool,
    refuse_sizes_below_one,
)
from src.models.model import BatchNorm, Model, as_model

Activation = Literal["relu", "none"]


def residual(
    *,
    block_filters: tuple[int, ...] = (64, 96),
    pooled_filters: int = 2048,
    num_features: int = 512,
    last_activation: Activation = "relu",
    offset: Offset = "learned",
    batch_norm: BatchNorm = "batch",
    convolution: ConvolutionName = "auto",
    weights_init: WeightsInit = "xavier_uniform",
) -> Model:
    """Images (n, height, width, channels) -> features (n, num_features).

    A block is max_pool(skip + main), 2x2 of stride 2, rounded up (84, 42, 21, 11, 6): skip a 1x1
    convolution, main 3 times [3x3 convolution, batch norm, leaky ReLU 0.1], all without bias. Then
    a 1x1 convolution to `pooled_filters`, the mean over pixels, and one to `num_features`, both
    with a bias and `last_activation` (relu: BOML's MetaFeat; none: its MetaInit). `batch_norm`: on
    whose statistics.

    A shared offset adapts in no task. BOML leaves out of x the skips and offsets (MetaFeat) or the
    offsets (MetaInit, `offset=zero` here), and its 6x6 average pool drops a row and a column of the
    7x7 image of Omniglot. 28x28x1 images: 1,549,920 weights. Raises ValueError where a size is
    below 1.
    """
    refuse_sizes_below_one(
        block_filters=block_filters, pooled_filters=pooled_filters, num_features=num_features
    )
    convolve = choose_convolution(convolution)

    def project(hidden: Array, filters: int, name: str) -> Array:
        with name_scope(name):
            hidden = conv1x1(hidden, filters, weights_init, bias=True)
        return jax.nn.relu(hidden) if last_activation == "relu" else hidden

    def forward(images: Array) -> Array:
        hidden = images
        for block, filters in enumerate(block_filters):
            with name_scope(f"block_{block}"):
                hidden = _block(hidden, filters, convolve, offset, weights_init)
        pooled = project(hidden, pooled_filters, "pooled").mean((1, 2))
        return project(pooled, num_features, "features")

    return as_model(forward, batch_norm, layers.FIXED[offset])


def _block(
    inputs: Array, filters: int, convolve: Convolve, offset: Offset, weights_init: WeightsInit
) -> Array:
    """(n, height, width, channels) -> (n, ceil(height / 2), ceil(width / 2), filters)."""
    with name_scope("skip"):
        skip = conv1x1(inputs, filters, weights_init)
    hidden = inputs
    for layer in range(3):
        with name_scope(f"conv_{layer}"):
            hidden = conv3x3(hidden, filters, 1, convolve, weights_init)
            hidden = leaky_relu(layers.batch_norm(hidden, offset=offset))
    return max_pool(skip + hidden, "SAME")
