"""Networks: parameter counts, the two convolutions, and batch norm against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.bilevel.types import Roles
from src.models.conv4 import conv4
from src.models.layers import convolve_by_patches, convolve_natively
from src.problems.few_shot import accuracy, cross_entropy, few_shot
from tests.conftest import tiny_images

IMAGES = np.random.default_rng(0).random((6, 28, 28, 1))


def test_v1_has_boml_s_shape_and_size():
    """4 blocks: 3x3x1x64 + 3 of 3x3x64x64 weights without bias, and 64 offsets each."""
    model = conv4()
    weights = model.init(jax.random.key(0), jnp.asarray(IMAGES))
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == 9 * 64 + 3 * 9 * 64**2 + 4 * 64
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == 111_424
    assert model.apply(weights, jnp.asarray(IMAGES)).shape == (6, 256)


@pytest.mark.parametrize("size", [1, 4, 7, 28])
@pytest.mark.parametrize("stride", [1, 2])
def test_both_convolutions_agree_with_their_gradients(size, stride):
    generator = np.random.default_rng(1)
    inputs = jnp.asarray(generator.standard_normal((2, size, size, 3)))
    weights = jnp.asarray(generator.standard_normal((3, 3, 3, 5)))
    probe = jnp.asarray(generator.standard_normal(convolve_natively(inputs, weights, stride).shape))

    def value_and_slopes(convolve):
        def scored(inputs, weights):
            output = convolve(inputs, weights, stride)
            return jnp.sum(probe * output), output

        return jax.value_and_grad(scored, argnums=(0, 1), has_aux=True)(inputs, weights)

    for a, b in zip(
        *map(
            jax.tree.leaves,
            (value_and_slopes(convolve_by_patches), value_and_slopes(convolve_natively)),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_network_agrees_with_itself_in_both_convolutions():
    small = {"filters": 5, "num_blocks": 3}
    patches, native = (conv4(convolution=c, **small) for c in ("patches", "native"))
    weights = patches.init(jax.random.key(0), jnp.asarray(IMAGES))
    np.testing.assert_allclose(
        patches.apply(weights, jnp.asarray(IMAGES)),
        native.apply(weights, jnp.asarray(IMAGES)),
        rtol=1e-10,
        atol=1e-10,
    )


def test_a_block_is_conv_batch_norm_relu():
    model = conv4(filters=4, num_blocks=1)
    images = jnp.asarray(IMAGES)
    weights = model.init(jax.random.key(0), images)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, weights)
    kernel = next(leaf for leaf in jax.tree.leaves(moved) if leaf.ndim == 4)
    offset = next(leaf for leaf in jax.tree.leaves(moved) if leaf.ndim == 1)
    hidden = np.asarray(convolve_natively(images, kernel, 2))
    normal = (hidden - hidden.mean((0, 1, 2))) / np.sqrt(hidden.var((0, 1, 2)) + 1e-3)
    expected = np.maximum(normal + np.asarray(offset), 0).reshape(len(images), -1)
    np.testing.assert_allclose(model.apply(moved, images), expected, rtol=1e-9, atol=1e-9)


def test_statistics_of_support_and_query_never_mix():
    problem, source = few_shot(
        tiny_images(),
        conv4(filters=3, num_blocks=2),
        Roles("head", False),
        ways=3,
        shots=1,
        queries=2,
    )
    key = jax.random.key(0)
    x = problem.init_upper(key)
    task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, key, "train", 1))
    other = {**task, "query": {**task["query"], "images": task["query"]["images"] * 0.2}}
    before, after = problem.prepare(x, task), problem.prepare(x, other)
    np.testing.assert_array_equal(before["support"], after["support"])
    assert not np.allclose(before["query"], after["query"])


def test_cross_entropy_and_accuracy_against_numpy():
    generator = np.random.default_rng(2)
    logits, labels = generator.standard_normal((7, 4)), generator.integers(0, 4, 7)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(7), labels]).mean()
    assert float(cross_entropy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(expected)
    share = (logits.argmax(1) == labels).mean()
    assert float(accuracy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(share)


@pytest.mark.parametrize("options", [{"filters": 0}, {"num_blocks": 0}])
def test_sizes_below_one_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=0 must be at least 1"):
        conv4(**options)
