"""Layers in fewer bits: what is computed in them, and what is not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.models.conv4 import conv4
from src.models.precision import in_precision
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, SHORT, config_of, small_few_shot

DTYPES = ["bfloat16", "float16"]


def products(jaxpr):
    """The types of what the matrix products of a program multiply, within calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield from (str(variable.aval.dtype) for variable in equation.invars)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from products(value.jaxpr)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_alone_compute_in_it(dtype):
    model = conv4(filters=4)
    low = in_precision(model, dtype)
    images = jax.random.normal(jax.random.key(0), (5, 28, 28, 1), jnp.float32)
    weights = low.init(jax.random.key(1), images)

    def score(model):
        return lambda weights: jnp.mean(model.apply(weights, images) ** 2)

    both = jax.make_jaxpr(jax.value_and_grad(score(low)))(weights)
    assert set(products(both.jaxpr)) == {dtype}
    for tree in (weights, low.apply(weights, images), jax.grad(score(low))(weights)):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    epsilon = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(score(low)(weights), score(model)(weights), rtol=10 * epsilon)
    features, statistics = low.measure(weights, images)
    np.testing.assert_array_equal(features, low.apply(weights, images))
    # What was measured on the same images, and rounded once, gives the same to its precision.
    again = low.apply(weights, images, statistics)
    np.testing.assert_allclose(again, features, atol=20 * epsilon)


def test_a_run_with_it_is_another_run_of_about_the_same_numbers(tmp_path, omniglot_folder):
    few_shot = [*small_few_shot(omniglot_folder), *SHORT]
    results = {
        name: run(config_of(*few_shot, f"feature_dtype={name}"), tmp_path / name)
        for name in ("null", "bfloat16")
    }
    full, low = (results[name]["validation/upper_loss"] for name in ("null", "bfloat16"))
    assert low != full
    assert low == pytest.approx(full, rel=0.1)
    with pytest.raises(UserError, match="feature_dtype was 'bfloat16', now None"):
        run(config_of(*few_shot), tmp_path / "bfloat16")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["problem=ridge"], "feature_dtype=bfloat16: problem=ridge has no network"),
        (
            ["problem=hyper_cleaning", "data=digits", "model=flat"],
            "feature_dtype=bfloat16: the model has no layers that could compute in it",
        ),
        (["feature_dtype=float8"], "feature_dtype='float8'"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(config_of("feature_dtype=bfloat16", *overrides, *QUIET))
