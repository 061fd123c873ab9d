"""Layers between convolution and batch norm that the upper level learns and no task adapts.

They shape what a lower step does: a step of size eta on the convolution W moves z = T W x by
-eta |x|^2 T T' grad_z f. Where the head alone adapts, they are weights like any other.
"""

from typing import Literal

import haiku as hk
import jax.numpy as jnp

from bilevel.types import Array
from src.models.convolution import Convolve
from src.models.layers import WeightsInit, conv3x3, per_channel

Extra = Literal["none", "t_layers", "warp_layers"]
# The parameters that each adds: `Model.fixed`.
FIXED: dict[Extra, frozenset[str]] = {
    "none": frozenset(),
    "t_layers": frozenset({"t_weights"}),
    "warp_layers": frozenset({"warp_weights", "warp_bias"}),
}


def add_upper_layer(
    extra: Extra, inputs: Array, convolve: Convolve, weights_init: WeightsInit
) -> Array:
    """The layer of this name, or none: (n, height, width, channels) -> the same shape."""
    if extra == "t_layers":
        return t_layer(inputs)
    if extra == "warp_layers":
        return warp_layer(inputs, convolve, weights_init)
    return inputs


def t_layer(inputs: Array) -> Array:
    """1x1 convolution, a matrix (channels, channels) from the identity: at first it does nothing.

    Lee, Choi: Gradient-based meta-learning with learned layerwise metric and subspace (MT-net),
    ICML 2018 (arXiv 1801.05558), the T-net.
    """
    shape = (inputs.shape[-1], inputs.shape[-1])
    identity = hk.initializers.Identity()
    return inputs @ hk.get_parameter("t_weights", shape, inputs.dtype, identity)


def warp_layer(
    inputs: Array, convolve: Convolve, weights_init: WeightsInit = "xavier_uniform"
) -> Array:
    """3x3 convolution of stride 1 with a bias from 0, channels -> channels.

    Before batch norm the bias changes nothing; it is kept for the original's parameter count.
    Flennerhag et al.: Meta-learning with warped gradient descent, ICLR 2020 (arXiv 1909.00025).
    """
    channels = inputs.shape[-1]
    warped = conv3x3(inputs, channels, 1, convolve, weights_init, name="warp")
    bias = hk.get_parameter("warp_bias", (channels,), inputs.dtype, jnp.zeros)
    return warped + per_channel(bias, warped)
