"""Networks: parameter counts, the two convolutions, and batch norm against numpy."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.certification.cases import tiny_few_shot, tiny_images
from src.models import convolution
from src.models.conv4 import conv4
from src.models.convolution import convolve_by_patches, convolve_natively
from src.models.layers import WeightsInit
from src.models.mlp import flat, linear, mlp
from src.problems.adapting_network import Roles, adapting_network
from src.problems.few_shot import accuracy, cross_entropy, few_shot
from src.settings.build import build
from tests.conftest import QUIET, config_of

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


def test_without_the_last_activation_features_are_what_the_relu_would_see():
    images = jnp.asarray(IMAGES)
    with_relu, without = (
        conv4(filters=4, num_blocks=2, last_activation=name) for name in ("relu", "none")
    )
    weights = with_relu.init(jax.random.key(0), images)
    features = np.asarray(without.apply(weights, images))
    assert features.min() < 0
    np.testing.assert_array_equal(np.maximum(features, 0), with_relu.apply(weights, images))


@pytest.mark.parametrize(
    ("method", "chosen", "expected"),
    [
        ("rhg", "auto", "auto"),
        ("maml", "auto", "patches"),
        ("maml", "native", "native"),
        ("rhg", "patches", "patches"),
    ],
)
def test_a_network_that_adapts_has_patches(method, chosen, expected, monkeypatch):
    """Vmapped over tasks, a native convolution of their own weights would be a grouped one."""
    seen = []
    real = convolution.choose_convolution
    monkeypatch.setattr(
        "src.models.conv4.choose_convolution", lambda name: (seen.append(name), real(name))[1]
    )
    build(config_of(f"method={method}", f"model.convolution={chosen}", *QUIET))
    assert seen == [expected]


def test_statistics_of_support_and_query_never_mix():
    problem, source, _ = tiny_few_shot()
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


def test_parameter_counts_of_the_other_networks():
    images = jnp.asarray(IMAGES)

    def count(model):
        return sum(leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0), images)))

    sizes = (784, 256, 128, 64, 64)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    assert count(mlp()) == weights + sum(sizes[1:]) == 246_272
    assert count(mlp(normalise=False)) == weights + sum(sizes[1:])
    assert count(mlp(hidden_sizes=(7,))) == 784 * 7 + 7
    assert count(linear()) == 784 * 64
    for model, features in ((mlp(), 64), (linear(num_features=9), 9)):
        weights = model.init(jax.random.key(0), images)
        assert model.apply(weights, images).shape == (6, features)


def test_linear_features_are_linear_and_mlp_layers_normalised():
    images = jnp.asarray(IMAGES)
    model = linear(num_features=5)
    weights = model.init(jax.random.key(1), images)
    matrix = jax.tree.leaves(weights)[0]
    np.testing.assert_allclose(model.apply(weights, images), images.reshape(6, -1) @ matrix)

    model = mlp(hidden_sizes=(5,))
    weights = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(1), images))
    matrix = next(leaf for leaf in jax.tree.leaves(weights) if leaf.ndim == 2)
    hidden = np.asarray(images.reshape(6, -1) @ matrix)
    normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-3) + 0.1
    np.testing.assert_allclose(model.apply(weights, images), np.maximum(normal, 0), atol=1e-9)


VARIANCES = {
    "xavier_uniform": 2 / (784 + 300),
    "xavier_normal": 2 / (784 + 300),
    "he_uniform": 2 / 784,
    "he_normal": 2 / 784,
    "lecun_normal": 1 / 784,
}


@pytest.mark.parametrize("name", get_args(WeightsInit))
def test_initial_weights_have_their_variance(name):
    model = linear(num_features=300, weights_init=name)
    matrix = np.asarray(jax.tree.leaves(model.init(jax.random.key(0), jnp.asarray(IMAGES)))[0])
    assert matrix.var() == pytest.approx(VARIANCES[name], rel=0.02)
    if name.endswith("uniform"):
        assert np.abs(matrix).max() <= np.sqrt(3 * VARIANCES[name])


@pytest.mark.parametrize(
    ("head_init", "variance"), [("zeros", 0), ("xavier", 2 / 512), ("normal", 1)]
)
def test_the_head_starts_as_asked(head_init, variance):
    options = {"ways": 3, "shots": 1, "queries": 2, "head_init": head_init}
    problem, _ = few_shot(tiny_images(), linear(num_features=509), Roles("head", False), **options)
    x = problem.init_upper(jax.random.key(0))
    y0 = problem.init_lower(jax.random.key(1), x)
    assert float(y0["weights"].var()) == pytest.approx(variance, rel=0.1)
    assert not y0["bias"].any()
    other = problem.init_lower(jax.random.key(2), x)
    assert np.array_equal(y0["weights"], other["weights"]) == (head_init == "zeros")


def test_the_l2_term_of_the_lower_objective():
    options = {"ways": 3, "shots": 1, "queries": 2}
    roles, model = Roles("head", False), linear(num_features=4)
    plain, source = few_shot(tiny_images(), model, roles, **options)
    ridge, _ = few_shot(tiny_images(), model, roles, lower_l2=0.3, **options)
    key = jax.random.key(0)
    x = plain.init_upper(key)
    task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, key, "train", 1))
    context = plain.prepare(x, task)
    y = {"weights": jax.random.normal(key, (4, 3)), "bias": jnp.ones(3)}
    square = float(jnp.sum(y["weights"] ** 2) + 3)
    with_term, without = (p.lower_objective(context, task, y) for p in (ridge, plain))
    assert float(with_term - without) == pytest.approx(0.15 * square)


def test_a_network_without_weights_learns_nothing_above_but_a_start():
    example = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"the model has no weights .* choose model=linear"):
        adapting_network(flat(), Roles("head", False), example, 3, "zeros")
    network = adapting_network(flat(), Roles("head", True), example, 3, "zeros")
    assert network.init_upper(jax.random.key(0))["head"]["weights"].shape == (4, 3)
