"""Constraints on the upper variable: met without a bias, at the rate that is asked for."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import lower_solvers, methods
from bilevel.upper_multipliers import upper_multipliers

BELOW = {"num_lower_steps": 2000, "lower_optimizer": lower_solvers.lbfgs(tolerance=1e-9)}


def with_upper_constraint(**options):
    """min (y - 3)^2 / 2 + |x|^2 / 2 with y = x0 and x0 + y <= 1: x = (1/2, 0), multiplier 1."""
    return bilevel.problem(
        lambda x, y: 0.5 * (y - x[0]) ** 2,
        lambda x, y: 0.5 * (y - 3) ** 2 + 0.5 * jnp.sum(x**2),
        upper_start=jnp.asarray([0.6, 0.3]),
        lower_start=jnp.zeros(()),
        lower_constraints=lambda x, y: y - 10,
        upper_constraints=lambda x, y: x[0] + y - 1,
        **options,
    )


@pytest.mark.parametrize(("rate", "weight"), [(10.0, 10.0), (10.0, 1e3), (1e3, 10.0)])
def test_an_upper_constraint_is_met_at_any_rate(rate, weight):
    """No bias in x0; x1, which the constraint does not contain, takes its steps of 0.2 / rate."""
    method = methods.kkt(**BELOW, lower_start="warm", upper_rate=rate)
    found = bilevel.minimize(
        with_upper_constraint(constraint_weight=weight),
        method,
        optimizer=optax.sgd(0.2 / rate),
        num_iterations=40,
    )
    np.testing.assert_allclose(found.x, [0.5, 0.3 * (1 - 0.2 / rate) ** 40], atol=1e-8)


@pytest.mark.parametrize("rate", [10.0, 1000.0])
def test_a_violation_falls_at_the_rate(rate):
    """dG/dt = -rate |a|^2 G along the flow, a = (2, 0)."""
    x = jnp.asarray([0.6, 0.3])
    method = methods.kkt(**BELOW, upper_rate=rate)
    gradient = bilevel.hypergradient(with_upper_constraint(), method, x).gradient
    np.testing.assert_allclose(gradient, [2 * rate * 0.2, 0.3], rtol=1e-8)


def test_upper_multipliers_satisfy_their_conditions():
    rng = np.random.default_rng(3)
    rows, values, slope = rng.normal(size=(4, 6)), rng.normal(size=4) / 10, rng.normal(size=6)
    rows[2] = 0
    counted = np.array([True, True, True, False])
    mu = np.asarray(upper_multipliers(*map(jnp.asarray, (rows, values, counted, slope)), 3.0))
    assert (mu >= 0).all()
    assert mu[2] == mu[3] == 0
    falls = rows @ (slope + rows.T @ mu) - 3.0 * np.sum(rows**2, axis=1) * values
    for i in (0, 1):
        assert abs(falls[i]) < 1e-8 if mu[i] > 0 else falls[i] >= 0
    assert (
        upper_multipliers(jnp.zeros((0, 6)), jnp.zeros(0), jnp.zeros(0, bool), slope, 1.0).size == 0
    )
