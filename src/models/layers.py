"""Layers shared by the networks, as haiku functions."""

from collections.abc import Callable
from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from src.bilevel.types import Array

WINDOW = 3
Convolve = Callable[[Array, Array, int], Array]
ConvolutionName = Literal["auto", "patches", "native"]
WeightsInit = Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal"]


def initializer(name: WeightsInit) -> hk.initializers.Initializer:
    """Weights of variance scale / fan: Xavier (Glorot) 1 / mean of the fans, He 2 / fan in,
    LeCun 1 / fan in; the normal ones are truncated at two standard deviations."""
    kind, _, shape = name.partition("_")
    scale, mode = {"xavier": (1.0, "fan_avg"), "he": (2.0, "fan_in"), "lecun": (1.0, "fan_in")}[
        kind
    ]
    distribution = "uniform" if shape == "uniform" else "truncated_normal"
    return hk.initializers.VarianceScaling(scale, mode, distribution)


def conv3x3(
    inputs: Array,
    filters: int,
    stride: int,
    convolve: Convolve,
    weights_init: WeightsInit = "xavier_uniform",
) -> Array:
    """3x3 convolution, SAME padding, no bias, weights (3, 3, channels, filters).

    (n, height, width, channels) -> (n, ceil(height / stride), ceil(width / stride), filters).
    """
    weights = hk.get_parameter(
        "conv_weights",
        (WINDOW, WINDOW, inputs.shape[-1], filters),
        inputs.dtype,
        initializer(weights_init),
    )
    return convolve(inputs, weights, stride)


def choose_convolution(name: ConvolutionName) -> Convolve:
    """auto: patches on a CPU, where XLA's own backward pass of a strided convolution is slow;
    native on accelerators, which have convolutions in hardware."""
    if name == "auto":
        name = "patches" if jax.default_backend() == "cpu" else "native"
    return {"patches": convolve_by_patches, "native": convolve_natively}[name]


def convolve_natively(inputs: Array, weights: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        inputs, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_by_patches(inputs: Array, weights: Array, stride: int) -> Array:
    """The same numbers as `convolve_natively`: gather 3x3 patches, then one matrix product."""
    number, height, width, channels = inputs.shape
    (rows, top, bottom), (columns, left, right) = _same(height, stride), _same(width, stride)
    padded = jnp.pad(inputs, ((0, 0), (top, bottom), (left, right), (0, 0)))
    shifts = [
        lax.slice(
            padded,
            (0, i, j, 0),
            (number, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(WINDOW)
        for j in range(WINDOW)
    ]
    patches = jnp.concatenate(shifts, axis=-1).reshape(-1, WINDOW * WINDOW * channels)
    return (patches @ weights.reshape(patches.shape[1], -1)).reshape(number, rows, columns, -1)


def _same(size: int, stride: int) -> tuple[int, int, int]:
    """Output size and the padding before and after, as SAME defines them."""
    output = -(-size // stride)
    total = max((output - 1) * stride + WINDOW - size, 0)
    return output, total // 2, total - total // 2


def batch_norm(inputs: Array, epsilon: float = 1e-3) -> Array:
    """(inputs - mean) / sqrt(variance + epsilon) + offset per channel, over this batch alone.

    inputs: (n, ..., channels). There are no running statistics to leak or to forget.
    """
    offset = hk.get_parameter("batch_norm_offset", inputs.shape[-1:], inputs.dtype, jnp.zeros)
    axes = tuple(range(inputs.ndim - 1))
    mean = inputs.mean(axes)
    variance = jnp.square(inputs - mean).mean(axes)
    return (inputs - mean) * jax.lax.rsqrt(variance + epsilon) + offset
