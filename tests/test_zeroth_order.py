"""PZOBO beside plain numpy and beside its expectation, and what it refuses.

f = sum(cosh(y - Bx)) + y'Ay/2,     F = |y - c|^2/2 + r|x|^2/2 + x'Dy
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import aggregation, hypergradients, lower_optimizers, lower_solvers, methods
from bilevel.estimate import suited_lower_problem
from bilevel.lower_level import Point
from bilevel.masked_sgd import masked_sgd
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

RNG = np.random.default_rng(5)
A, B, D = np.diag([0.5, 1.0, 2.0]), RNG.normal(size=(3, 2)), RNG.normal(size=(2, 3))
C, X, Y = RNG.normal(size=3), RNG.normal(size=2), RNG.normal(size=3)
R, ETA, K = 0.3, 0.05, 4


def F(x, y):
    return ((y - C) ** 2).sum() / 2 + R * (x**2).sum() / 2 + x @ D @ y


def curved(x, y):
    return jnp.sum(jnp.cosh(y - B @ x)) + y @ A @ y / 2


def quadratic(x, y):
    return ((y - B @ x) ** 2).sum() / 2 + y @ A @ y / 2


def problem(f, start=lambda key, x: jnp.asarray(Y)):
    return bilevel.problem(f, F, upper_start=jnp.asarray(X), lower_start=start)


def estimate(of, method, key):
    """(y0's gradient included, which bilevel.hypergradient would pull back)."""
    lower = suited_lower_problem(of, method)
    params = lower.dynamics.init_params(lower.num_steps, Y)
    point = Point(jnp.asarray(X), params, jnp.asarray(Y))
    return method.hypergradient.estimate(lower._replace(task={}), point, (), key)


def solved(x, y, gradient):
    for _ in range(K):
        y = y - ETA * gradient(x, y)
    return y


def curved_slope(x, y):
    return np.sinh(y - B @ x) + A @ y


def test_it_is_the_rule_in_numpy(monkeypatch):
    directions = np.random.default_rng(8).normal(size=(3, 2))
    keys = jax.random.split(jax.random.key(4), 3)

    def drawn(key, shape, dtype):
        """The direction that belongs to the key: what is drawn is told, not found again."""
        if shape != (2,):
            return jnp.zeros(shape)
        data = [jax.random.key_data(jax.random.split(k, 2)[0]) for k in keys]
        match = jnp.stack([(jax.random.key_data(key) == d).all() for d in data])
        return jnp.asarray(directions)[jnp.argmax(match)]

    monkeypatch.setattr(jax.random, "normal", drawn)
    method = methods.pzobo(radius=0.3, num_directions=3, num_lower_steps=K, step_size=ETA)
    output = estimate(problem(curved), method, jax.random.key(4))
    y = solved(X, Y, curved_slope)
    slope = y - C + D.T @ X
    each = [(solved(X + 0.3 * u, Y, curved_slope) - y) / 0.3 @ slope * u for u in directions]
    np.testing.assert_allclose(output.y, y, rtol=1e-12)
    np.testing.assert_allclose(
        output.gradient.context, R * X + D @ y + np.mean(each, axis=0), rtol=1e-10
    )


def over_keys(of, method, number=4000):
    """Means and their standard errors."""
    keys = jax.random.split(jax.random.key(1), number)
    each = jax.lax.map(lambda key: estimate(of, method, key).gradient, keys, batch_size=500)
    return (
        jax.tree.map(lambda leaf: leaf.mean(axis=0), each),
        jax.tree.map(lambda leaf: leaf.std(axis=0) / number**0.5, each),
    )


@pytest.mark.parametrize("learned", [False, True], ids=["fixed start", "learned start"])
def test_its_mean_is_the_unrolled_gradient(learned):
    """y_K is linear in x here, so that the radius does not count."""
    of = problem(quadratic, lambda key, x: jnp.concatenate([x, x[:1]])) if learned else (
        problem(quadratic)
    )  # fmt: skip
    weights = aggregation.descent(law="constant", alpha=0.3, learn=("alpha", "s", "t"))
    options = {"num_lower_steps": K, "step_size": ETA, "aggregation": weights}
    # Of learned weights y_K is no linear function, so that the radius must be small.
    mean, error = over_keys(of, methods.pzobo(**options, radius=1e-5))
    truth = estimate(of, methods.rhg(**options), jax.random.key(0)).gradient
    if not learned:
        truth = truth._replace(y0=jnp.zeros(3))
    for a, b, c in zip(*map(jax.tree.leaves, (mean, truth, error)), strict=True):
        assert (jnp.abs(a - b) <= 4 * c + 1e-8).all(), (a, b, c)
    assert float(error.context.max()) > 1e-3


def test_noise_falls_with_the_number_of_directions():
    errors = [
        over_keys(problem(quadratic), methods.pzobo(num_directions=n, step_size=ETA), 500)[1]
        for n in (1, 16)
    ]
    ratio = np.linalg.norm(errors[0].context) / np.linalg.norm(errors[1].context)
    assert 3 < ratio < 5.3


def test_lower_steps_need_no_derivative():
    """L-BFGS, through which no other estimator but an implicit one can look."""
    lbfgs = lower_solvers.lbfgs(tolerance=1e-9)
    options = {"num_lower_steps": 30, "lower_optimizer": lbfgs}
    mean, error = over_keys(problem(quadratic), methods.pzobo(**options), 500)
    exact = methods.hoag(**options, tolerance=1e-10, tolerance_decay=1.0)
    truth = bilevel.hypergradient(problem(quadratic), exact, jnp.asarray(X)).gradient
    assert (jnp.abs(mean.context - truth) <= 4 * error.context).all()
    with pytest.raises(ValueError, match="unrolled differentiates through"):
        suited_lower_problem(problem(quadratic), methods.rhg(**options))


@pytest.mark.parametrize(
    "step",
    [lower_optimizers.sgd(step_size=1e-3, learn="scalar"), masked_sgd(step_size=ETA)],
    ids=["a step size shorter than the radius", "masks"],
)
def test_what_differences_would_get_wrong_is_refused(step):
    with pytest.raises(ValueError, match="zeroth_order gives no gradient of it"):
        suited_lower_problem(problem(quadratic), methods.pzobo(lower_optimizer=step))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius=0.0 must be positive and finite; choose radius=0.01"),
        ({"radius": float("nan")}, "radius=nan must be positive"),
        ({"num_directions": 0}, "num_directions=0 must be at least 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hypergradients.zeroth_order(**options)


def test_on_the_command_line_a_bad_value_names_its_key():
    with pytest.raises(UserError, match=re.escape("hypergradient.radius=-1")):
        build(config_of("problem=ridge", "method=pzobo", "hypergradient.radius=-1", *QUIET))
