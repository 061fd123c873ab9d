"""Pooling, residual networks, T-layers and warp layers: counts, shapes, and second derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from src.models.conv4 import conv4
from src.models.layers import max_pool
from src.models.mlp import linear, mlp
from src.models.residual import residual
from src.models.resnet12 import resnet12

OMNIGLOT, MINI = (1, 28, 28, 1), (1, 84, 84, 3)
MAX_POOL = {"filters": 32, "downsample": "max_pool"}
IMAGES = np.random.default_rng(0).random((4, 9, 11, 2))


def shapes(model, images):
    """The weights and features of a model, without computing any."""
    images = jax.ShapeDtypeStruct(images, "float32")
    weights = jax.eval_shape(model.init, jax.random.key(0), images)
    return weights, jax.eval_shape(model.apply, weights, images)


# residual, a block of c channels in and d out: skip c d, convolutions 9 c d + 18 d^2, offsets 3 d.
#   28x28: (64 + 576 + 73,728 + 192) + (6,144 + 55,296 + 165,888 + 288) = 302,176,
#   then 96 * 2048 + 2048 and 2048 * 512 + 512: 1,247,744 more.
#   84x84: c d = 192, 6,144, 12,288, 32,768, in all 51,392, ten times; 18 d^2 = 73,728, 165,888,
#   294,912, 1,179,648, in all 1,714,176; offsets 3 * 544; then 256 * 2048 + 2048 and the last.
# ResNet-12, the same and 8 d of batch norm (scale and offset, three convolutions and the skip):
#   c d = 192, 10,240, 51,200, 204,800, in all 266,432, ten times; 18 d^2 = 73,728, 460,800,
#   1,843,200, 7,372,800, in all 9,750,528; 8 * (64 + 160 + 320 + 640) = 9,472.
NETWORKS = {
    "V1": (conv4(), OMNIGLOT, 111_424, 256),
    "V1, mean": (conv4(features="mean"), OMNIGLOT, 111_424, 64),
    "V1, no offset": (conv4(offset="zero"), OMNIGLOT, 111_424 - 4 * 64, 256),
    "V1, scale": (conv4(scale="learned"), OMNIGLOT, 111_424 + 4 * 64, 256),
    "V1, T-layers": (conv4(extra="t_layers"), OMNIGLOT, 111_424 + 4 * 64**2, 256),
    "V1, warp": (conv4(extra="warp_layers"), OMNIGLOT, 111_424 + 4 * (36_864 + 64), 256),
    "V1, mini": (conv4(**MAX_POOL), MINI, 28_512 + 128, 800),
    "V2": (residual(), OMNIGLOT, 302_176 + 1_247_744, 512),
    "V2, mini": (
        residual(block_filters=(64, 96, 128, 256)),
        MINI,
        513_920 + 1_714_176 + 1_632 + 526_336 + 1_049_088,
        512,
    ),
    "V2, no offset": (residual(offset="zero"), OMNIGLOT, 1_549_920 - 3 * 160, 512),
    "ResNet-12": (resnet12(), MINI, 2_664_320 + 9_750_528 + 9_472, 640),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts_and_features(name):
    model, images, count, num_features = NETWORKS[name]
    weights, features = shapes(model, images)
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == count
    assert features.shape == (1, num_features)


def test_the_counts_that_docstrings_name():
    counts = {name: count for name, (_, _, count, _) in NETWORKS.items()}
    assert counts["V1, mini"] == 28_640
    assert counts["V2"] == 1_549_920
    assert counts["ResNet-12"] == 12_424_320


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (7, 2)])
def test_max_pool_is_that_of_xla(padding, size):
    """Values and gradients; the values below zero show what pads the last row."""
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, *size, 3)) - 3)

    def by_xla(images):
        window = (1, 2, 2, 1)
        return lax.reduce_window(images, -jnp.inf, lax.max, window, window, padding)

    def slope(pool):
        return jax.value_and_grad(lambda images: jnp.sum(jnp.sin(pool(images))))(images)

    np.testing.assert_array_equal(max_pool(images, padding), by_xla(images))
    for a, b in zip(slope(lambda x: max_pool(x, padding)), slope(by_xla), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


TINY = {"filters": 3, "num_blocks": 2}
TINY_V2 = {"block_filters": (2,), "pooled_filters": 4, "num_features": 3}
SMALL = {
    "max_pool": partial(conv4, downsample="max_pool", offset="zero", **TINY),
    "t_layers": partial(conv4, extra="t_layers", features="mean", filters=3, num_blocks=1),
    "warp_layers": partial(conv4, extra="warp_layers", filters=3, num_blocks=1),
    "residual": partial(residual, **TINY_V2),
    "resnet12": partial(resnet12, block_filters=(2,)),
}


def random_weights(model, seed=2):
    """Weights off the special point where they start."""
    generator = np.random.default_rng(seed)
    draw = partial(jax.tree.map, lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape)))
    return draw(shapes(model, IMAGES.shape)[0])


@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_by_either_convolution(name):
    """F(w - grad f(w)), as in MAML: its slopes against finite differences along a direction, and
    the same numbers by patches and natively."""
    images = jnp.asarray(IMAGES)
    start, direction = (random_weights(SMALL[name](), seed) for seed in (2, 3))

    def after_a_step(apply, radius, weights):
        def f(weights):
            return jnp.mean(jnp.sin(apply(weights, images)))

        weights = jax.tree.map(lambda w, d: w + radius * d, weights, direction)
        adapted = jax.tree.map(lambda w, slope: w - 0.5 * slope, weights, jax.grad(f)(weights))
        return jnp.mean(apply(adapted, images) ** 2)

    # At this radius no ReLU and no maximum changes sides between the points.
    radius, slopes = 1e-6, {}
    for convolution in ("patches", "native"):
        model = SMALL[name](convolution=convolution)
        program = jax.jit(jax.value_and_grad(partial(after_a_step, model.apply), argnums=1))
        values, slopes[convolution] = zip(
            *(program(r, start) for r in (-radius, radius)), strict=True
        )
        pairs = zip(
            jax.tree.leaves(slopes[convolution][0]), jax.tree.leaves(direction), strict=True
        )
        along = sum(float(jnp.vdot(a, b)) for a, b in pairs)
        assert along == pytest.approx(float(values[1] - values[0]) / (2 * radius), rel=1e-4)
    for a, b in zip(*map(jax.tree.leaves, slopes.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_t_layers_change_nothing_at_first():
    images, key = jnp.asarray(IMAGES), jax.random.key(3)
    plain, with_layers = conv4(**TINY), conv4(extra="t_layers", **TINY)
    features = [model.apply(model.init(key, images), images) for model in (plain, with_layers)]
    np.testing.assert_allclose(*features, rtol=1e-12, atol=1e-12)


def convolved(images, weights):
    """SAME, stride 1; a matrix is a window of 1x1."""
    window = weights if weights.ndim == 4 else weights[None, None]
    return lax.conv_general_dilated(
        images, window, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normal(hidden, weights, epsilon=1e-3):
    """Batch norm by numpy, then what scale and offset there are."""
    hidden = np.asarray(hidden)
    axes = tuple(range(hidden.ndim - 1))
    hidden = (hidden - hidden.mean(axes)) / np.sqrt(hidden.var(axes) + epsilon)
    scale = np.asarray(weights.get("batch_norm_scale", 1))
    return hidden * scale + np.asarray(weights["batch_norm_offset"])


def leaky(hidden):
    return np.where(hidden > 0, hidden, 0.1 * hidden)


def pooled(hidden):
    """2x2, a last odd row or column kept."""
    rows, columns = (range(0, size, 2) for size in hidden.shape[1:3])
    return np.stack(
        [
            np.stack([hidden[:, i : i + 2, j : j + 2].max((1, 2)) for j in columns], axis=1)
            for i in rows
        ],
        axis=1,
    )


def test_a_block_with_an_extra_layer_is_conv_extra_batch_norm_relu_pool():
    images = jnp.asarray(IMAGES[:, :8, :10])
    for extra in ("t_layers", "warp_layers"):
        scale = "learned" if extra == "t_layers" else "one"
        model = conv4(filters=3, num_blocks=1, downsample="max_pool", extra=extra, scale=scale)
        weights = random_weights(model)
        block = weights["block_0"]
        hidden = convolved(images, block["conv_weights"])
        hidden = convolved(hidden, block[f"{extra.split('_')[0]}_weights"])
        hidden = np.asarray(hidden) + np.asarray(block.get("warp_bias", 0))
        assert ("batch_norm_scale" in block) == (scale == "learned")
        expected = pooled(np.maximum(normal(hidden, block), 0)).reshape(4, -1)
        np.testing.assert_allclose(model.apply(weights, images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last_activation", ["relu", "none"])
def test_the_residual_network_step_by_step(last_activation):
    model = residual(last_activation=last_activation, **TINY_V2)
    weights = random_weights(model)
    hidden = images = jnp.asarray(IMAGES)
    for layer in range(3):
        part = weights[f"block_0/conv_{layer}"]
        hidden = leaky(normal(convolved(hidden, part["conv_weights"]), part))
    hidden = pooled(hidden + convolved(images, weights["block_0/skip"]["conv_weights"]))
    for name in ("pooled", "features"):
        matrix, bias = (np.asarray(weights[name][f"conv_{w}"]) for w in ("weights", "bias"))
        hidden = np.asarray(hidden) @ matrix + bias
        hidden = np.maximum(hidden, 0) if last_activation == "relu" else hidden
        hidden = hidden.mean((1, 2)) if name == "pooled" else hidden
    np.testing.assert_allclose(model.apply(weights, images), hidden, rtol=1e-9, atol=1e-9)


def test_resnet12_step_by_step():
    model = resnet12(block_filters=(2,))
    weights = random_weights(model)
    hidden = images = jnp.asarray(IMAGES[:, :8, :10])
    for layer in range(3):
        part = weights[f"block_0/conv_{layer}"]
        hidden = normal(convolved(hidden, part["conv_weights"]), part, 1e-5)
        hidden = leaky(hidden) if layer < 2 else hidden
    part = weights["block_0/skip"]
    skip = normal(convolved(images, part["conv_weights"]), part, 1e-5)
    expected = pooled(leaky(hidden + skip)).mean((1, 2))
    np.testing.assert_allclose(model.apply(weights, images), expected, rtol=1e-9, atol=1e-9)


ADDED = {
    "none": set(),
    "t_layers": {"t_weights"},
    "warp_layers": {"warp_weights", "warp_bias"},
}


@pytest.mark.parametrize("extra", ADDED)
def test_fixed_holds_the_names_of_what_the_upper_level_keeps(extra):
    def names(model):
        paths = jax.tree_util.tree_flatten_with_path(shapes(model, OMNIGLOT)[0])[0]
        return [path[-1].key for path, _ in paths]

    plain, model = conv4(), conv4(extra=extra)
    assert model.fixed == set(names(model)) - set(names(plain)) == ADDED[extra]
    assert [name for name in names(model) if name not in model.fixed] == names(plain)
    assert model.transforms_head == (extra == "t_layers")


@pytest.mark.parametrize("network", [conv4, residual])
def test_a_shared_offset_is_kept_above(network):
    assert network(offset="shared").fixed == {"batch_norm_offset"}
    assert network(offset="learned").fixed == network(offset="zero").fixed == set()


def test_other_networks_keep_nothing_above():
    for model in (mlp(), linear(), residual(), resnet12()):
        assert (model.fixed, model.transforms_head) == (frozenset(), False)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (residual, {"block_filters": (64, 0)}, r"block_filters=\[64, 0\] must be one or more"),
        (residual, {"pooled_filters": 0}, "pooled_filters=0 must be at least 1"),
        (residual, {"num_features": -1}, "num_features=-1 must be at least 1"),
        (resnet12, {"block_filters": ()}, r"block_filters=\[\] must be one or more"),
        (mlp, {"hidden_sizes": (0,)}, r"hidden_sizes=\[0\] must be one or more"),
        (linear, {"num_features": 0}, "num_features=0 must be at least 1"),
    ],
)
def test_bad_sizes_are_refused(factory, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        factory(**options)


@pytest.mark.parametrize(
    "model", [conv4(num_blocks=5, **MAX_POOL), resnet12(block_filters=(1,) * 5)]
)
def test_images_too_small_to_pool_are_refused(model):
    with pytest.raises(ValueError, match="shrunk to 1 x 1; choose larger images, fewer blocks"):
        shapes(model, OMNIGLOT)
