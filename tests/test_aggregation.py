"""Aggregation laws against their formulas, bounds and refusals."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import laws
from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import for_testing

K = 6
# law -> (options, a_k, b_k) as plain arithmetic with alpha = 0.6.
TABLE = {
    "constant": ({}, lambda k: 0.6, lambda k: 0.4),
    "harmonic": ({}, lambda k: 0.6 / k, lambda k: 1 - 0.6 / k),
    "geometric": (
        {"ratio": 0.8},
        lambda k: 0.6 * 0.8 ** (k - 1),
        lambda k: 1 - 0.6 * 0.8 ** (k - 1),
    ),
    "upper_geometric": ({"ratio": 0.8}, lambda k: 0.6 * 0.8 ** (k - 1), lambda k: 0.4),
    "per_step": ({}, lambda k: 0.6, lambda k: 0.4),
    "tpami": ({"beta": 0.5}, lambda k: 0.6 / (k + 1), lambda k: 0.4 * (1 - 0.5 / (k + 1))),
}


def square(alpha, k):
    """a_k = alpha / k^2, b_k = 1 - alpha / k^2.

    A law of one's own.
    """
    return alpha / k**2, 1 - alpha / k**2


def test_every_law_is_in_the_table():
    found = {
        name
        for name, value in vars(laws).items()
        if inspect.isfunction(value) and value.__module__ == laws.__name__
    }
    assert found == set(TABLE)


@pytest.mark.parametrize("law", TABLE)
def test_weights_follow_the_formula(law):
    options, upper, lower = TABLE[law]
    aggregation = descent(law=law, alpha=0.6, s=2.0, t=3.0, **options)
    for k in range(1, K + 1):
        found = [float(w) for w in aggregation.weights({}, jnp.int32(k))]
        assert found == pytest.approx([2 * upper(k), 3 * lower(k)], rel=1e-12)
        assert aggregation.test_weights({}, jnp.int32(k)) == (None, 3.0)


@pytest.mark.parametrize("law", TABLE)
def test_learned_parameters_replace_the_fixed_ones(law):
    options, _, _ = TABLE[law]
    aggregation = descent(law=law, alpha=0.1, learn=("alpha", "s", "t"), **options)
    params = aggregation.init(K)
    assert params["alpha"].shape == ((K,) if law == "per_step" else ())
    moved = {"alpha": params["alpha"] + 0.5, "s": jnp.array(2.0), "t": jnp.array(3.0)}
    for k in range(1, K + 1):
        _, upper, lower = TABLE[law]
        found = [float(w) for w in aggregation.weights(moved, jnp.int32(k))]
        assert found == pytest.approx([2 * upper(k), 3 * lower(k)], rel=1e-12)
        assert float(aggregation.test_weights(moved, jnp.int32(k))[1]) == 3.0


def test_a_learned_alpha_per_step_is_read_at_its_own_step():
    aggregation = descent(law="per_step", alpha=0.0, learn=("alpha",))
    params = {"alpha": jnp.linspace(0.1, 0.6, K)}
    for k in range(1, K + 1):
        upper, lower = aggregation.weights(params, jnp.int32(k))
        assert (float(upper), float(lower)) == pytest.approx((0.1 * k, 1 - 0.1 * k))


def test_only_what_is_learned_is_a_parameter():
    assert descent(law="harmonic", alpha=0.4).init(K) == {}
    assert set(descent(law="harmonic", alpha=0.4, learn=("s",)).init(K)) == {"s"}
    assert lower_only().init(K) == {}


def test_projection_keeps_alpha_in_the_unit_interval_and_s_t_positive():
    project = descent(law="per_step", alpha=0.4, learn=("alpha", "s", "t")).project
    found = project(
        {"alpha": jnp.array([-0.5, 0.3, 1.5]), "s": jnp.array(-1.0), "t": jnp.array(7.0)}
    )
    assert found["alpha"].tolist() == [0.0, 0.3, 1.0]
    assert (float(found["s"]), float(found["t"])) == (0.0, 7.0)


def test_testing_leaves_the_upper_objective_out():
    for aggregation in (lower_only(), descent(law="constant", alpha=0.9, t=2.0)):
        testing = for_testing(aggregation)
        assert testing.weights({}, jnp.int32(1))[0] is None
        assert not testing.sees_upper


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "harmonc", "alpha": 0.5}, "law=harmonc is not a law.*did you mean harmonic"),
        ({"law": "descent", "alpha": 0.5}, "law=descent is not a law"),
        ({"law": "constant", "alpha": 1.5}, r"alpha=1.5 is outside \[0, 1\]"),
        ({"law": "constant", "alpha": -0.1}, r"alpha=-0.1 is outside \[0, 1\]"),
        ({"law": "constant", "alpha": float("nan")}, "alpha=nan"),
        ({"law": "constant", "alpha": 0.5, "s": -1.0}, "s=-1.0 must be finite"),
        ({"law": "constant", "alpha": 0.5, "t": -1.0}, "t=-1.0 must be finite"),
        ({"law": "constant", "alpha": 0.5, "s": float("inf")}, "s=inf must be finite"),
        ({"law": "constant", "alpha": 0.0, "t": 0.0}, "no weight in the first step"),
        ({"law": "harmonic", "alpha": 0.5, "ratio": 0.9}, "ratio=0.9 does nothing"),
        ({"law": "geometric", "alpha": 0.5, "ratio": 0.0}, "ratio=0.0 is outside"),
        ({"law": "tpami", "alpha": 0.5, "beta": 1.5}, "beta=1.5 is outside"),
        ({"law": 3, "alpha": 0.5}, r"law=3 must be a name, or a function \(alpha, k\)"),
        ({"law": square, "alpha": 0.5, "ratio": 0.9}, "ratio=0.9 does nothing with law=square"),
        ({"law": lambda alpha, k: (0.0, 0 * k), "alpha": 0.5}, "no weight in .*or another law"),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(ValueError, match=message):
        descent(**options)


def test_a_law_of_ones_own():
    aggregation = descent(law=square, alpha=0.5, s=2.0, t=3.0, learn=("alpha",))
    assert "a_k = alpha / k^2, b_k = 1 - alpha / k^2;" in aggregation.formula
    assert jax.tree.map(jnp.shape, aggregation.init(K)) == {"alpha": ()}
    for k in range(1, K + 1):
        found = [float(w) for w in aggregation.weights({"alpha": jnp.array(0.6)}, jnp.int32(k))]
        assert found == pytest.approx([2 * 0.6 / k**2, 3 * (1 - 0.6 / k**2)], rel=1e-12)


@pytest.mark.parametrize("law", [partial(square), lambda alpha, k: square(alpha, k)])
def test_a_law_without_words(law):
    assert "(a_k, b_k) by the function" in descent(law=law, alpha=0.5).formula


@pytest.mark.parametrize("name", ["constant", "harmonic", "tpami"])
def test_a_function_has_the_gradients_of_the_law_that_it_is(name):
    def found(law):
        problem = bilevel.problem(
            lambda x, y: jnp.sum(jnp.cosh(y - x)) + 0.1 * y[0] * y[1],
            lambda x, y: jnp.sum((y - 1) ** 2) + jnp.sum(x**2),
            upper_start=jnp.array([0.3, -0.4]),
            lower_start=jnp.zeros(2),
        )
        method = bilevel.methods.bda(law=law, learn=("alpha", "t"), num_lower_steps=5)
        return bilevel.hypergradient(problem, method, jnp.array([0.3, -0.4])).gradient

    own = getattr(laws, name)
    found_by = found(name), found(lambda alpha, k: own(alpha, k))
    np.testing.assert_allclose(*found_by, rtol=1e-12)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda k: (1.0, 1.0), "must take alpha and k, in this order: too many positional"),
        (lambda alpha, k: alpha, r"must return two numbers \(a_k, b_k\), but returned"),
        (lambda alpha, k: (alpha, jnp.ones(2)), "must return two numbers"),
        (lambda alpha, k: (alpha if k < 3 else 0.0, 1.0), r"traced; write jnp.where\(k < 3"),
        (lambda alpha, k, *, power: (alpha, power), "missing a required argument: 'power'"),
    ],
)
def test_functions_that_are_no_law(law, message):
    with pytest.raises(TypeError, match=message):
        descent(law=law, alpha=0.5)
