"""SAMA beside plain numpy, for gradient descent and for Adam, and what it refuses.

f = sum(cosh(y - Bx)) + y'Ay/2,     F = |y - c|^2/2 + r|x|^2/2 + x'Dy
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import hypergradients, lower_optimizers
from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import sama
from bilevel.lower_level import LowerProblem, Point
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

RNG = np.random.default_rng(5)
A, B, D = np.diag([0.5, 1.0, 2.0]), RNG.normal(size=(3, 2)), RNG.normal(size=(2, 3))
C, X, Y = RNG.normal(size=3), RNG.normal(size=2), RNG.normal(size=3)
R, ETA, K = 0.3, 0.05, 4
B1, B2, EPS = 0.8, 0.9, 1e-3
ADAM = lower_optimizers.adam(step_size=ETA, b1=B1, b2=B2, eps=EPS)
SGD = lower_optimizers.sgd(step_size=ETA)
PROBLEM = problem_from_objectives(
    lambda x, y, task: jnp.sum(jnp.cosh(y - B @ x)) + y @ A @ y / 2,
    lambda x, y, task: ((y - C) ** 2).sum() / 2 + R * (x**2).sum() / 2 + x @ D @ y,
    init_upper=lambda key: jnp.asarray(X),
    init_lower=lambda key: jnp.asarray(Y),
)


def fx(x, y):
    return -B.T @ np.sinh(y - B @ x)


def fy(x, y):
    return np.sinh(y - B @ x) + A @ y


def by_gradient_descent(x, y):
    """y_K, and the derivative of -y_K in the last direction, entry by entry."""
    for _ in range(K):
        y = y - ETA * fy(x, y)
    return y, np.full(3, ETA)


def by_adam(x, y):
    m, v, scale = np.zeros(3), np.zeros(3), None
    for k in range(1, K + 1):
        d = fy(x, y)
        m, v = B1 * m + (1 - B1) * d, B2 * v + (1 - B2) * d**2
        mean, square = m / (1 - B1**k), v / (1 - B2**k) + EPS**2
        of_mean = (1 - B1) / (1 - B1**k) / np.sqrt(square)
        of_square = -mean / square**1.5 * (1 - B2) * d / (1 - B2**k)
        scale = ETA * (of_mean + of_square)
        y = y - ETA * mean / np.sqrt(square)
    return y, scale


def rule(x, y, steps, radius):
    """(g, y_K)."""
    y, scale = steps(x, y)
    v = scale * (y - C + D.T @ x)
    e = radius / np.linalg.norm(v)
    return R * x + D @ y - (fx(x, y + e * v) - fx(x, y - e * v)) / (2 * e), y


def estimated(optimizer, estimator, problem=PROBLEM, steps=K):
    dynamics = compose(lower_only(), optimizer)
    lower = LowerProblem(problem, dynamics, steps, persistent=True)
    point = Point(jnp.asarray(X), dynamics.init_params(steps, Y), jnp.asarray(Y))
    carry, key = estimator.init(lower, point.y0), jax.random.key(0)
    return jax.jit(lambda point: estimator.estimate(lower, point, carry, key))(point)


OPTIMIZERS = {"sgd": (SGD, by_gradient_descent), "adam": (ADAM, by_adam)}


@pytest.mark.parametrize("radius", [1.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_rule_in_numpy(name, radius):
    optimizer, steps = OPTIMIZERS[name]
    output = estimated(optimizer, sama(radius=radius))
    g, y = rule(X, Y, steps, radius)
    np.testing.assert_allclose(output.y, y, rtol=1e-10)
    np.testing.assert_allclose(output.gradient.context, g, rtol=1e-10)
    assert not np.any(output.gradient.y0)
    assert float(output.value) == pytest.approx(float(PROBLEM.upper_objective(X, (), y)[0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_quotient_tends_to_the_mixed_derivative(name):
    """With an error of order radius^2."""
    optimizer, steps = OPTIMIZERS[name]
    y, scale = steps(X, Y)
    v = scale * (y - C + D.T @ X)
    exact = R * X + D @ y + B.T @ (np.cosh(y - B @ X) * v)
    errors = [
        np.linalg.norm(estimated(optimizer, sama(radius=radius)).gradient.context - exact)
        for radius in (0.1, 0.01, 1e-5)
    ]
    assert errors[0] == pytest.approx(100 * errors[1], rel=0.05)
    assert errors[2] < 1e-8


def test_for_gradient_descent_it_is_the_identity_in_place_of_the_inverse():
    """implicit_identity, its second part times eta, at the same y_K."""
    part = estimated(SGD, sama(radius=1e-4)).gradient.context
    direct = estimated(SGD, hypergradients.first_order()).gradient.context
    system = hypergradients.implicit(solver=bilevel.linear_solvers.identity(), max_residual=None)
    whole = estimated(SGD, system).gradient.context
    np.testing.assert_allclose(part - direct, ETA * (whole - direct), rtol=1e-6)


def test_a_quadratic_lower_level_does_not_depend_on_the_radius():
    quadratic = PROBLEM._replace(
        lower_objective=lambda x, task, y: y @ A @ y / 2 - y @ B @ x + x[0] * y @ y
    )
    far, near = (
        estimated(SGD, sama(radius=radius), quadratic).gradient.context for radius in (30.0, 1.0)
    )
    np.testing.assert_allclose(far, near, rtol=1e-8)


def test_no_slope_of_the_upper_objective_in_y_leaves_the_direct_part():
    still = PROBLEM._replace(upper_objective=lambda x, task, y: (R * x @ x / 2 + 0 * y.sum(), {}))
    output = estimated(SGD, sama(), still)
    np.testing.assert_array_equal(output.gradient.context, R * X)


def test_mini_batches_are_those_of_the_last_step():
    """Row k of x scales f in step k; a quotient on other rows would see another one."""
    rows = np.linspace(0.5, 1.5, K + 1)

    def mini_batch(context, task, k):
        return context, jnp.asarray(rows)[k]

    problem = PROBLEM._replace(
        lower_objective=lambda x, row, y: row * jnp.sum(jnp.cosh(y - B @ x)) + y @ A @ y / 2,
        mini_batch=mini_batch,
    )
    y = Y
    for k in range(1, K + 1):
        y = y - ETA * (rows[k] * np.sinh(y - B @ X) + A @ y)
    v = ETA * (y - C + D.T @ X)
    expected = R * X + D @ y + rows[K] * (B.T @ (np.cosh(y - B @ X) * v))
    output = estimated(SGD, sama(radius=1e-4), problem)
    np.testing.assert_allclose(output.gradient.context, expected, rtol=1e-6)


# ---- refusals, and the method ----


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_is_none(radius):
    with pytest.raises(ValueError, match=rf"^radius={radius} must be positive and finite; choose"):
        sama(radius=radius)


BALL = ["lower_optimizer.set=ball", "lower_optimizer.radius=1"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["problem=ridge", "lower_optimizer=lbfgs"],
            "sama differentiates through the lower steps, but",
        ),
        (
            ["problem=ridge", "lower_optimizer=projected", *BALL],
            "the lower steps keep y inside bounds, outside of which f may have no meaning; choose "
            "hypergradient=implicit_identity, or lower_optimizer=sgd",
        ),
    ],
)
def test_runs_that_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(config_of("method=sama", *overrides, *QUIET))


def test_the_method_takes_the_lower_optimizer():
    problem = bilevel.problem(
        lambda x, y: jnp.sum(jnp.cosh(y - B @ x)) + y @ A @ y / 2,
        lambda x, y: ((y - C) ** 2).sum() / 2 + R * (x**2).sum() / 2 + x @ D @ y,
        upper_start=jnp.asarray(X),
        lower_start=jnp.asarray(Y),
    )
    method = bilevel.methods.sama(radius=0.5, num_lower_steps=K, lower_optimizer=ADAM)
    found = bilevel.hypergradient(problem, method, jnp.asarray(X))
    np.testing.assert_allclose(found.gradient, rule(X, Y, by_adam, 0.5)[0], rtol=1e-10)
