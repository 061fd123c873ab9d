"""3x3 convolutions, (inputs, weights, stride) -> outputs: two programs for the same numbers."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.types import Array

WINDOW = 3
Convolve = Callable[[Array, Array, int], Array]
ConvolutionName = Literal["auto", "patches", "native"]


def choose_convolution(name: ConvolutionName) -> Convolve:
    """auto: patches on a CPU, where XLA's own backward pass of a strided convolution is slow;
    native on accelerators. Where the weights differ from task to task, choose patches there too:
    vmapped, a native convolution is a grouped one (src/settings/build.py does so)."""
    if name == "auto":
        name = "patches" if jax.default_backend() == "cpu" else "native"
    return {"patches": convolve_by_patches, "native": convolve_natively}[name]


def convolve_natively(inputs: Array, weights: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        inputs, weights, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def convolve_by_patches(inputs: Array, weights: Array, stride: int) -> Array:
    """The same numbers as `convolve_natively`: gather 3x3 patches, then one matrix product."""
    if inputs.ndim != 4:
        raise ValueError("it takes images (height, width, channels)")
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
