"""Layers shared by the networks, as haiku functions."""

from typing import Literal

import haiku as hk
import jax
import jax.numpy as jnp

from bilevel.types import Array
from src.models.convolution import WINDOW, Convolve

WeightsInit = Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal"]
Offset = Literal["learned", "shared", "zero"]
# What the upper level alone learns of batch norm: `Model.fixed`.
FIXED: dict[Offset, frozenset[str]] = {
    "learned": frozenset(),
    "shared": frozenset({"batch_norm_offset"}),
    "zero": frozenset(),
}
SLOPE = 0.1


def initializer(name: WeightsInit) -> hk.initializers.Initializer:
    """Weights of variance scale / fan: Xavier (Glorot) 1 / mean of the fans, He 2 / fan in,
    LeCun 1 / fan in; the normal ones are truncated at two standard deviations."""
    kind, _, shape = name.partition("_")
    scale, mode = {"xavier": (1.0, "fan_avg"), "he": (2.0, "fan_in"), "lecun": (1.0, "fan_in")}[
        kind
    ]
    distribution = "uniform" if shape == "uniform" else "truncated_normal"
    return hk.initializers.VarianceScaling(scale, mode, distribution)


def refuse_sizes_below_one(**sizes: int | tuple[int, ...]) -> None:
    """Raises ValueError for the first option that is, or that has an entry, below 1."""
    for name, value in sizes.items():
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{name}={value} must be at least 1, as in {name}=64")
        if not isinstance(value, int) and min(value, default=0) < 1:
            raise ValueError(
                f"{name}={list(value)} must be one or more sizes of at least 1, "
                f"as in {name}=[64,96]"
            )


def conv3x3(
    inputs: Array,
    filters: int,
    stride: int,
    convolve: Convolve,
    weights_init: WeightsInit = "xavier_uniform",
    name: str = "conv",
) -> Array:
    """3x3 convolution, SAME padding, no bias, weights `{name}_weights` (3, 3, channels, filters).

    (n, height, width, channels) -> (n, ceil(height / stride), ceil(width / stride), filters).
    """
    weights = hk.get_parameter(
        f"{name}_weights",
        (WINDOW, WINDOW, inputs.shape[-1], filters),
        inputs.dtype,
        initializer(weights_init),
    )
    return convolve(inputs, weights, stride)


def conv1x1(
    inputs: Array,
    filters: int,
    weights_init: WeightsInit = "xavier_uniform",
    *,
    bias: bool = False,
) -> Array:
    """1x1 convolution: one matrix (channels, filters) for every pixel; the bias starts from 0.

    (n, height, width, channels) -> (n, height, width, filters).
    """
    shape = (inputs.shape[-1], filters)
    weights = hk.get_parameter("conv_weights", shape, inputs.dtype, initializer(weights_init))
    if not bias:
        return inputs @ weights
    offset = hk.get_parameter("conv_bias", (filters,), inputs.dtype, jnp.zeros)
    return inputs @ weights + per_channel(offset, inputs)


def batch_norm(
    inputs: Array, *, offset: Offset = "learned", scale: bool = False, epsilon: float = 1e-3
) -> Array:
    """scale (inputs - mean) / sqrt(variance + epsilon) + offset per channel.

    inputs: (n, ..., channels). Mean and variance are haiku's state: those that are given are used,
    and where there are none they are measured on these inputs (and given to whoever asks). `scale`
    (from 1) and the offset (from 0) are parameters; without them they stay 1 and 0. A shared offset
    is learned above and adapts in no task.
    """
    axes = tuple(range(inputs.ndim - 1))
    shape, dtype = inputs.shape[-1:], inputs.dtype

    def measure_mean(*_: object) -> Array:
        return inputs.mean(axes)

    def measure_variance(*_: object) -> Array:
        return jnp.square(inputs - per_channel(mean, inputs)).mean(axes)

    mean = hk.get_state("batch_norm_mean", shape, dtype, measure_mean)
    variance = hk.get_state("batch_norm_variance", shape, dtype, measure_variance)
    factor = jax.lax.rsqrt(variance + epsilon)
    if scale:
        factor *= hk.get_parameter("batch_norm_scale", shape, dtype, jnp.ones)
    normal = (inputs - per_channel(mean, inputs)) * per_channel(factor, inputs)
    if offset == "zero":
        return normal
    shift = hk.get_parameter("batch_norm_offset", shape, dtype, jnp.zeros)
    return normal + per_channel(shift, inputs)


def centred(features: Array) -> Array:
    """Features (n, d) less their mean over a batch: the statistics of a batch norm, as above.

    After a ReLU all features of a network share a large mean. It makes one large eigenvalue of the
    lower Hessian, past which steps of gradient descent diverge, and tells no class from another.
    """
    mean = hk.get_state(
        "feature_mean", features.shape[-1:], features.dtype, lambda *_: features.mean(0)
    )
    return features - per_channel(mean, features)


def with_fixed_norm(features: Array, epsilon: float = 1e-6) -> Array:
    """Features (n, d), each row scaled to the norm sqrt(d): sqrt(d) h / sqrt(|h|^2 + d epsilon).

    The norm of batch-normalised features of unit variance, so the lower steps keep their meaning.
    """
    mean_square = jnp.square(features).mean(-1, keepdims=True)
    return features * jax.lax.rsqrt(mean_square + epsilon)


def per_channel(vector: Array, images: Array) -> Array:
    """(channels,) as (1, ..., 1, channels), of the rank of the images."""
    return jax.lax.broadcast_to_rank(vector, images.ndim)


def leaky_relu(inputs: Array) -> Array:
    """max(inputs, inputs / 10)."""
    return jax.nn.leaky_relu(inputs, SLOPE)


def max_pool(inputs: Array, padding: Literal["VALID", "SAME"]) -> Array:
    """2x2 max-pool of stride 2: an odd last row or column is dropped (VALID) or kept (SAME).

    (n, height, width, channels) -> (n, height / 2, width / 2, channels), rounded down or up.

    Maxima of slices: on a CPU the gradient of `lax.reduce_window` takes 30 times as long. Where two
    of the four are equal each gets half of the gradient.
    Raises ValueError where nothing would be left of the image.
    """
    _, height, width, _ = inputs.shape
    if padding == "SAME":
        ends = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        inputs = jnp.pad(inputs, ends, constant_values=-jnp.inf)
    elif min(height, width) < 2:
        raise ValueError(
            f"pooling leaves nothing of an image that has shrunk to {height} x {width}; choose "
            "larger images, fewer blocks, or for conv4 downsample=stride"
        )
    rows, columns = (size // 2 * 2 for size in inputs.shape[1:3])
    tall = jnp.maximum(inputs[:, 0:rows:2], inputs[:, 1:rows:2])
    return jnp.maximum(tall[:, :, 0:columns:2], tall[:, :, 1:columns:2])
