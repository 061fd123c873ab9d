"""ResNet-12, the residual feature network of the few-shot literature."""

from haiku.experimental import name_scope

from bilevel.types import Array
from src.models import layers
from src.models.convolution import ConvolutionName, Convolve, choose_convolution
from src.models.layers import (
    WeightsInit,
    conv1x1,
    conv3x3,
    leaky_relu,
    max_pool,
    refuse_sizes_below_one,
)
from src.models.model import BatchNorm, Model, as_model

# That of the PyTorch code in which the published results were made.
EPSILON = 1e-5


def resnet12(
    *,
    block_filters: tuple[int, ...] = (64, 160, 320, 640),
    batch_norm: BatchNorm = "batch",
    convolution: ConvolutionName = "auto",
    weights_init: WeightsInit = "he_normal",
) -> Model:
    """Images (n, height, width, channels) -> features (n, block_filters[-1]), a mean over pixels.

    A block is max_pool(leaky(skip + main)), 2x2 of stride 2, rounded down (84, 42, 21, 10, 5): skip
    a 1x1 convolution and batch norm; main three 3x3 convolutions, each with batch norm and all but
    the last with leaky ReLU 0.1. No convolution has a bias; batch norm has scale and offset
    (`batch_norm`: on whose statistics). There is no DropBlock: a network here is a function of
    weights and images. 84x84x3 images and four blocks: 12,424,320 weights.

    Oreshkin et al., NeurIPS 2018 (arXiv 1805.10123); in this width Lee et al., CVPR 2019 (arXiv
    1904.03758). Raises ValueError where a size is below 1; `init` and `apply` raise it where
    pooling leaves nothing of the image.
    """
    refuse_sizes_below_one(block_filters=block_filters)
    convolve = choose_convolution(convolution)

    def forward(images: Array) -> Array:
        hidden = images
        for block, filters in enumerate(block_filters):
            with name_scope(f"block_{block}"):
                hidden = _block(hidden, filters, convolve, weights_init)
        return hidden.mean((1, 2))

    return as_model(forward, batch_norm)


def _block(inputs: Array, filters: int, convolve: Convolve, weights_init: WeightsInit) -> Array:
    """(n, height, width, channels) -> (n, height // 2, width // 2, filters)."""
    with name_scope("skip"):
        skip = _normalise(conv1x1(inputs, filters, weights_init))
    hidden = inputs
    for layer in range(3):
        with name_scope(f"conv_{layer}"):
            hidden = _normalise(conv3x3(hidden, filters, 1, convolve, weights_init))
        # The last one is added to the skip first.
        hidden = leaky_relu(hidden + skip if layer == 2 else hidden)
    return max_pool(hidden, "VALID")


def _normalise(inputs: Array) -> Array:
    return layers.batch_norm(inputs, scale=True, epsilon=EPSILON)
