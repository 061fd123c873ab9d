"""LV-HBA beside plain numpy, its fixed point found by hand, a quadratic program, and refusals.

f = y'Ay/2 - y'Bx + sum(y^4)/4,  F = |y - c|^2/2 + r|x|^2/2 + x'Dy,  g = Ey + y^2/5 - sin(Ex) - s
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import methods
from bilevel.constraints import with_constraints
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import lv_hba, moreau_envelope
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from src.certification.certify import sgd_of
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

RNG = np.random.default_rng(8)
A, B, D = np.diag([0.7, 1.0, 1.6]) + 0.2, RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
E = RNG.normal(size=(3, 3))
C, X, Y = 3 * RNG.normal(size=3), RNG.normal(size=3), RNG.normal(size=3)
S = E @ Y + Y**2 / 5 - np.sin(E @ X) - [0.6, 3.0, -9.0]  # g(X, Y) is these three
R, ETA, K, RHO = 0.3, 0.02, 2, 5.0
KEY = jax.random.key(0)
OPTIONS = {
    "weight": 4.0,
    "power": 0.5,
    "gamma": 0.5,
    "gamma_of_multipliers": 2.0,
    "step_size_of_multipliers": 0.3,
    "step_size_of_centre": 0.8,
    "bound": 0.5,
}


def g(x, y, sin=jnp.sin):
    """(3,); the last one is far from active."""
    return E @ y + y**2 / 5 - sin(E @ x) - S


PROBLEM = with_constraints(
    problem_from_objectives(
        lambda x, y, task: y @ A @ y / 2 - y @ B @ x + (y**4).sum() / 4,
        lambda x, y, task: ((y - C) ** 2).sum() / 2 + R * (x**2).sum() / 2 + x @ D @ y,
        init_upper=lambda key: jnp.asarray(X),
        init_lower=lambda key: jnp.asarray(Y),
    ),
    lambda x, task, y: {"rows": g(x, y)},
    None,
    RHO,
)


def at(x, y):
    """g, dg/dx and dg/dy."""
    of_y = E + 2 / 5 * np.diag(y)
    return g(x, y, np.sin), -np.cos(E @ x)[:, None] * E, of_y


def in_numpy(x, y, theta, multipliers, centre, mu, n):
    """One iteration: (gradient in x, y, theta, multipliers, centre, mu)."""
    c, gamma, gamma2 = 4.0 * (n + 1) ** 0.5, 0.5, 2.0
    for _ in range(K):
        values, _, jacobian = at(x, theta)
        of_f = A @ theta - B @ x + theta**3
        d_theta = of_f + jacobian.T @ multipliers + (theta - y) / gamma
        d_multipliers = values - (multipliers - centre) / gamma2
        theta = theta - ETA * d_theta
        multipliers = np.clip(multipliers + 0.3 * d_multipliers, 0, 0.5)
        values, _, jacobian = at(x, y)
        of_f = A @ y - B @ x + y**3
        of_upper = y - C + D.T @ x + RHO * jacobian.T @ np.maximum(values, 0)
        pushed = np.clip(mu + RHO * values, 0, 0.5)
        d_y = of_upper / c + of_f + jacobian.T @ pushed - (y - theta) / gamma
        y = y - ETA * d_y
        mu = np.clip(mu + RHO * at(x, y)[0], 0, 0.5)
        centre = np.clip(centre + 0.8 * (multipliers - centre) / gamma2, 0, 0.5)
    values, of_x, _ = at(x, y)
    gradient = R * x + D @ y + RHO * of_x.T @ np.maximum(values, 0)
    of_y = -B.T @ y + of_x.T @ mu
    of_theta = -B.T @ theta + at(x, theta)[1].T @ multipliers
    return gradient + c * (of_y - of_theta), y, theta, multipliers, centre, mu


def lower_of(problem=PROBLEM, persistent=True, steps=K):
    return LowerProblem(problem, sgd_of(ETA), steps, persistent=persistent)


def point_at(x, y):
    params = {"aggregation": {}, "lower_optimizer": {}}
    return Point(jnp.asarray(x), params, jnp.asarray(y))


def test_three_iterations_are_those_of_plain_numpy():
    estimator, lower = lv_hba(**OPTIONS), lower_of()
    x, y, theta = X, Y + 0.5, Y
    multipliers, centre, mu = np.zeros((3, 3))
    carry = estimator.init(lower, jnp.asarray(Y))
    step = jax.jit(lambda point, carry: estimator.estimate(lower, point, carry, KEY))
    reached, moved = [], jnp.asarray(y)
    for n in range(3):
        output = step(point_at(x, moved), carry)
        gradient, y, *saddle = in_numpy(x, y, theta, multipliers, centre, mu, n)
        theta, multipliers, centre, mu = saddle
        np.testing.assert_allclose(output.gradient.context, gradient, rtol=1e-10)
        np.testing.assert_allclose(output.y, y, rtol=1e-10)
        for found, expected in zip(output.carry.other, saddle, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10)
        reached += [multipliers, mu]
        moved, carry, x = output.y, output.carry, x - 0.01 * gradient
    assert np.min(reached) == 0, "or the lower bound was not met"
    assert np.max(reached) == 0.5, "or the upper bound was not met"
    assert ((np.array(reached) > 0) & (np.array(reached) < 0.5)).any(), "or nothing lay between"


def test_the_directions_are_the_slopes_of_what_is_minimised():
    """v by many steps of theta and lambda, its gradients by differences: the envelope theorem."""
    gamma, gamma2 = 0.5, 2.0

    def value(x, y, z):
        theta, multipliers = y, np.zeros(3)
        for _ in range(2000):
            values, _, jacobian = at(x, theta)
            d_theta = A @ theta - B @ x + theta**3 + jacobian.T @ multipliers
            theta = theta - 0.02 * (d_theta + (theta - y) / gamma)
            ascent = values - (multipliers - z) / gamma2
            multipliers = np.maximum(multipliers + 0.02 * ascent, 0)
        f = theta @ A @ theta / 2 - theta @ B @ x + (theta**4).sum() / 4
        v = f + multipliers @ at(x, theta)[0] + ((theta - y) ** 2).sum() / (2 * gamma)
        return v - ((multipliers - z) ** 2).sum() / (2 * gamma2), theta, multipliers

    z = np.array([0.4, 0.1, 0.2])
    _, theta, multipliers = value(X, Y, z)
    assert (multipliers > 0).any()
    slopes = {
        0: -B.T @ theta + at(X, theta)[1].T @ multipliers,  # in x
        1: (Y - theta) / gamma,  # in y
        2: (multipliers - z) / gamma2,  # in z
    }
    for place, slope in slopes.items():
        for i, expected in enumerate(slope):
            ends = []
            for sign in (1, -1):
                where = [X.copy(), Y.copy(), z.copy()]
                where[place][i] += sign * 1e-5
                ends.append(value(*where)[0])
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, abs=1e-6), (place, i)


def test_tasks_that_change_begin_anew():
    estimator, lower = lv_hba(**OPTIONS), lower_of(persistent=False)
    point = point_at(X, Y)
    carry = estimator.init(lower, point.y0)
    once = estimator.estimate(lower, point, carry, KEY)
    assert jax.tree.leaves(once.carry.other) == []
    first = in_numpy(X, Y, Y, *np.zeros((3, 3)), 0)
    np.testing.assert_allclose(once.gradient.context, first[0], rtol=1e-10)


def test_without_constraints_it_is_the_moreau_envelope():
    free = lower_of(PROBLEM._replace(penalised=None))
    same = {name: OPTIONS[name] for name in ("weight", "power", "gamma")}
    found = []
    for estimator in (lv_hba(**OPTIONS), moreau_envelope(**same)):
        carry = estimator.init(free, jnp.asarray(Y))
        found.append(estimator.estimate(free, point_at(X, Y + 0.5), carry, KEY))
    np.testing.assert_allclose(found[0].gradient.context, found[1].gradient.context, rtol=1e-10)
    np.testing.assert_allclose(found[0].y, found[1].y, rtol=1e-12)


@pytest.mark.parametrize("weight", [2.0, 20.0])
def test_the_fixed_point_is_the_one_found_by_hand(weight):
    """min (y - 1)^2/2 + x^2/2 where y minimises (y - 2)^2/2 with y <= x.

    At rest theta = y = x, lambda = 2 - x, mu = 2 - x - (x - 1) / c, and so x = c (mu - lambda) =
    1 - x: x = 1/2, the solution, whatever c and rho are.
    """
    problem = bilevel.problem(
        lambda x, y: 0.5 * (y - 2) ** 2,
        lambda x, y: 0.5 * (y - 1) ** 2 + 0.5 * x**2,
        upper_start=jnp.asarray(0.0),
        lower_start=jnp.asarray(0.0),
        lower_constraints=lambda x, y: y - x,
        constraint_weight=10.0,
    )
    method = methods.lv_hba(
        weight=weight, power=0.0, step_size_of_centre=0.5, num_lower_steps=20, step_size=0.05
    )
    found = bilevel.minimize(problem, method, optimizer=optax.sgd(0.02), num_iterations=4000)
    assert float(found.x) == pytest.approx(1 / 2, abs=1e-8)
    assert float(found.y) == pytest.approx(1 / 2, abs=1e-8), "the penalties' bias of y has gone"


# A quadratic program below: f = |y - Mx|^2/2 where a'y <= e'x - 1/2.
M, NORMAL, SHIFT = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.ones(2), np.array([0.4, -0.2])
WANTED_Y, WANTED_X = np.array([0.2, -1.0]), np.ones(2)


def by_hand():
    """x of the solution: y(x) = Mx - a lambda is linear where the constraint is active."""
    size = NORMAL @ NORMAL
    slope = M - np.outer(NORMAL, NORMAL @ M - SHIFT) / size
    shift = -0.5 * NORMAL / size
    x = np.linalg.solve(slope.T @ slope + np.eye(2), slope.T @ (WANTED_Y - shift) + WANTED_X)
    multiplier = (NORMAL @ M @ x - SHIFT @ x + 0.5) / size
    return x, multiplier


def error_of(weight):
    """|x - x*| with c = weight."""
    problem = bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - M @ x) ** 2),
        lambda x, y: 0.5 * jnp.sum((y - WANTED_Y) ** 2) + 0.5 * jnp.sum((x - WANTED_X) ** 2),
        upper_start=jnp.zeros(2),
        lower_start=jnp.zeros(2),
        lower_constraints=lambda x, y: NORMAL @ y - SHIFT @ x + 0.5,
        constraint_weight=10.0,
    )
    method = methods.lv_hba(
        weight=weight, power=0.0, step_size_of_centre=0.5, num_lower_steps=40, step_size=1 / 22
    )
    found = bilevel.minimize(problem, method, optimizer=optax.sgd(0.01), num_iterations=5000)
    return np.linalg.norm(found.x - by_hand()[0])


def test_a_quadratic_program_is_solved_up_to_the_inverse_weight():
    assert by_hand()[1] > 1, "the constraint is active"
    errors = [error_of(10.0), error_of(100.0)]
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.15)


# ---- refusals ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight=0.0 is outside (0, 1e+06]; choose weight=10"),
        ({"power": 2.0}, "power=2.0 is outside [0, 1]"),
        ({"gamma": 0.0}, "gamma=0.0 must be positive and finite; choose gamma=1"),
        ({"gamma_of_multipliers": float("inf")}, "gamma_of_multipliers=inf must be positive"),
        ({"step_size_of_multipliers": -1.0}, "step_size_of_multipliers=-1.0 must be positive"),
        ({"step_size_of_centre": 0.0}, "step_size_of_centre=0.0 must be positive and finite"),
        ({"steps_of_solution": -1}, "steps_of_solution=-1 must not be negative; choose"),
        ({"bound": float("nan")}, "bound=nan must be positive and finite; choose bound=1000"),
        (
            {"step_size_of_centre": 3.0, "gamma_of_multipliers": 2.0},
            "step_size_of_centre=3.0 is above gamma_of_multipliers=2.0: z would step past lambda; "
            "choose step_size_of_centre=0.2",
        ),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lv_hba(**options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["problem=ridge"],
            "this problem has none; choose hypergradient=moreau_envelope (method=meha), or give",
        ),
        (
            ["problem=bolib", "problem.instance=Bard1984b", "lower_start=fixed"],
            "hypergradient=lv_hba goes on from the y of the iteration before; choose "
            "lower_start=warm",
        ),
        (
            ["problem=bolib", "problem.instance=Bard1984b", "aggregation=descent"],
            "lv_hba mixes F into the lower steps by a weight of its own",
        ),
    ],
)
def test_runs_that_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(config_of("method=lv_hba", *overrides, *QUIET))


def test_mini_batches_are_refused():
    lower = lower_of(PROBLEM._replace(mini_batch=lambda context, task, k: (context, task)))
    with pytest.raises(ValueError, match=r"see mini-batches; choose problem\.batch_size=null, or"):
        lv_hba().check(lower, point_at(X, Y))


def test_y_stays_inside_its_bounds():
    """Both lower variables end in the projection of the problem."""
    bounded = PROBLEM._replace(project_lower=lambda y: jnp.clip(y, -0.05, 0.05))
    method = methods.method("mine", lv_hba(**OPTIONS), lower_optimizer=sgd(step_size=ETA))
    lower = lower_of(bounded)._replace(dynamics=method.dynamics(bounded))
    estimator = method.hypergradient
    start = np.clip(Y, -0.05, 0.05)
    output = estimator.estimate(lower, point_at(X, start), estimator.init(lower, start), KEY)
    for y in (output.y, output.carry.other.theta):
        assert np.abs(y).max() == pytest.approx(0.05)
