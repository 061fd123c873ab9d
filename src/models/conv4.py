"""The four-block convolutional feature network of the few-shot literature (BOML's V1)."""

from typing import Literal

import jax
from haiku.experimental import name_scope

from bilevel.types import Array
from src.models import layers
from src.models.convolution import ConvolutionName, choose_convolution
from src.models.layers import (
    Offset,
    WeightsInit,
    conv3x3,
    max_pool,
    refuse_sizes_below_one,
)
from src.models.model import BatchNorm, Model, as_model
from src.models.upper_layers import FIXED, Extra, add_upper_layer

Downsample = Literal["stride", "max_pool"]
Features = Literal["flatten", "mean"]
LastActivation = Literal["relu", "none"]
FeatureNorm = Literal["free", "fixed"]
Scale = Literal["one", "learned"]


def conv4(
    *,
    filters: int = 64,
    num_blocks: int = 4,
    downsample: Downsample = "stride",
    offset: Offset = "learned",
    scale: Scale = "one",
    features: Features = "flatten",
    last_activation: LastActivation = "relu",
    centre: bool = False,
    feature_norm: FeatureNorm = "free",
    batch_norm: BatchNorm = "batch",
    extra: Extra = "none",
    convolution: ConvolutionName = "auto",
    weights_init: WeightsInit = "xavier_uniform",
) -> Model:
    """Images (n, height, width, channels) -> features (n, d).

    A block is a 3x3 convolution (SAME, no bias), the `extra` layer, batch norm with an offset and,
    if `scale` is learned, a scale from 1 (`batch_norm`: on whose statistics, in training and in
    testing alike), then ReLU. A shared offset adapts in no task. The image is halved by the
    convolution's stride of 2 (rounded up: 28, 14, 7, 4, 2) or by a 2x2 max-pool after the ReLU
    (rounded down: 84, 42, 21, 10, 5). `features`: all pixels of the last block, or their mean.
    `last_activation`: whether the last block has its ReLU. `centre`: features less their mean over
    the batch, whose statistics are chosen as those of batch norm. `feature_norm`: as it comes, or
    sqrt(d) for each image (after `centre`).

    28x28x1 images, 64 filters, stride: d = 256 (mean: 64), 111,424 weights. 84x84x3 images, 32
    filters, max-pool: d = 800, 28,640 weights. BOML's MetaInit has offset=zero and convolution
    biases, which batch norm cancels and which are left out here.

    Raises ValueError where filters or num_blocks is below 1; `init` and `apply` raise it where
    pooling leaves nothing of the image.
    """
    refuse_sizes_below_one(filters=filters, num_blocks=num_blocks)
    convolve = choose_convolution(convolution)
    stride = 2 if downsample == "stride" else 1

    def forward(images: Array) -> Array:
        hidden = images
        for block in range(num_blocks):
            is_last = block == num_blocks - 1
            with name_scope(f"block_{block}"):
                hidden = conv3x3(hidden, filters, stride, convolve, weights_init)
                hidden = add_upper_layer(extra, hidden, convolve, weights_init)
                hidden = layers.batch_norm(hidden, offset=offset, scale=scale == "learned")
                if not is_last or last_activation == "relu":
                    hidden = jax.nn.relu(hidden)
            if downsample == "max_pool":
                hidden = max_pool(hidden, "VALID")
        flat = hidden.mean((1, 2)) if features == "mean" else hidden.reshape(len(hidden), -1)
        shifted = layers.centred(flat) if centre else flat
        return layers.with_fixed_norm(shifted) if feature_norm == "fixed" else shifted

    fixed = FIXED[extra] | layers.FIXED[offset]
    return as_model(forward, batch_norm, fixed, transforms_head=extra == "t_layers")
