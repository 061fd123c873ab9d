"""Lower constraints exactly: against the KKT conditions solved apart, by numpy and scipy."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq, linprog

import bilevel
from bilevel import hypergradients, lower_solvers, methods
from bilevel.hypergradients.implicit_kkt import Conditions, polished
from src.certification.finite_differences import directional_error

BELOW = {"num_lower_steps": 2000, "lower_optimizer": lower_solvers.lbfgs(tolerance=1e-9)}
KKT = methods.kkt(**BELOW)
RNG = np.random.default_rng(1)
WANTED = RNG.normal(size=3)


class Quadratic(NamedTuple):
    """min 1/2 y'Hy - (Bx)'y where Ay <= Cx + d;  F = 1/2 |y - WANTED|^2 + 1/2 |x|^2."""

    H: np.ndarray
    B: np.ndarray
    A: np.ndarray
    C: np.ndarray
    d: np.ndarray

    def problem(self, weight=1000.0, x=(0.7, -0.4)):
        return bilevel.problem(
            lambda x, y: 0.5 * y @ self.H @ y - (self.B @ x) @ y,
            lambda x, y: 0.5 * jnp.sum((y - WANTED) ** 2) + 0.5 * jnp.sum(x**2),
            upper_start=jnp.asarray(x),
            lower_start=jnp.zeros(3),
            lower_constraints=lambda x, y: self.A @ y - self.C @ x - self.d,
            constraint_weight=weight,
        )

    def by_active_sets(self, x):
        """y, lambda and dF/dx: of all sets of active rows the one that satisfies all conditions."""
        limit = self.C @ x + self.d
        for size in range(len(self.d) + 1):
            for rows in map(list, itertools.combinations(range(len(self.d)), size)):
                a, zero = self.A[rows], np.zeros((size, size))
                matrix = np.block([[self.H, a.T], [a, zero]])
                if abs(np.linalg.det(matrix)) < 1e-9:
                    continue
                y, active = np.split(np.linalg.solve(matrix, np.r_[self.B @ x, limit[rows]]), [3])
                if (active >= 0).all() and (self.A @ y <= limit + 1e-9).all():
                    multipliers = np.zeros(len(self.d))
                    multipliers[rows] = active
                    moved = np.linalg.solve(matrix, np.r_[self.B, self.C[rows]])[:3]
                    return y, multipliers, moved.T @ (y - WANTED) + x
        raise AssertionError("no y is feasible")


X = np.array([0.7, -0.4])


def quadratic(seed):
    """Random, with a y that is feasible at X."""
    rng = np.random.default_rng(seed)
    root, B, A, C = (rng.normal(size=shape) for shape in ((3, 3), (3, 2), (5, 3), (5, 2)))
    d = A @ rng.normal(size=3) - C @ X + 0.3 * rng.random(5)
    return Quadratic(root @ root.T + np.eye(3), B, A, C, d)


QUADRATICS = {seed: quadratic(seed) for seed in (0, 1, 4)}


def test_the_tables_have_active_constraints_of_several_numbers():
    found = {seed: int((q.by_active_sets(X)[1] > 0).sum()) for seed, q in QUADRATICS.items()}
    assert len(set(found.values())) >= 3, found


@pytest.mark.parametrize(("seed", "weight"), [(0, 1e2), (0, 1e3), (0, 1e4), (1, 1e3), (4, 1e3)])
def test_a_quadratic_program_is_exact_whatever_the_weight(seed, weight):
    program = QUADRATICS[seed]
    y, multipliers, gradient = program.by_active_sets(X)
    found = bilevel.hypergradient(program.problem(weight), KKT, jnp.asarray(X))
    np.testing.assert_allclose(found.y, y, atol=1e-8)
    np.testing.assert_allclose(found.gradient, gradient, atol=1e-8)
    assert found.diagnostics["active_constraints"] == (multipliers > 0).sum()
    assert found.diagnostics["kkt_residual"] < 1e-8
    value = 0.5 * np.sum((y - WANTED) ** 2) + 0.5 * np.sum(X**2)
    np.testing.assert_allclose(found.value, value, atol=1e-8)


@pytest.mark.parametrize("seed", QUADRATICS)
def test_multipliers(seed):
    program = QUADRATICS[seed]
    y, multipliers, _ = program.by_active_sets(X)
    rows = multipliers > 0
    a, limit = program.A[rows], (program.C @ X + program.d)[rows]
    softened = np.linalg.solve(
        program.H + 1000 * a.T @ a, program.B @ X + 1000 * a.T @ limit
    )  # what the lower steps end at
    conditions = Conditions(program.problem().problem.penalised, (), lambda y: y)
    found = polished(conditions, jnp.asarray(X), jnp.asarray(softened), 10)
    np.testing.assert_allclose(found.y, y, atol=1e-8)
    np.testing.assert_allclose(found.multipliers, multipliers, atol=1e-8)


# ---- a curved constraint ----


def on_ellipse(x):
    """The point of y'Qy <= 1 + x^2 nearest to t(x), by a root of the multiplier."""
    q, target = np.array([1.0, 3.0]), np.array([2.0 + x, 1.5 - x])

    def excess(multiplier):
        return np.sum(q * (target / (1 + 2 * multiplier * q)) ** 2) - 1 - x**2

    return target / (1 + 2 * brentq(excess, 0, 100, xtol=1e-15) * q)


def ellipse(weight=1000.0):
    return bilevel.problem(
        lambda x, y: 0.5 * (y["a"] - 2 - x) ** 2 + 0.5 * (y["b"] - 1.5 + x) ** 2,
        lambda x, y: jnp.sin(y["a"]) + y["b"] ** 2 * x,
        upper_start=jnp.asarray(0.3),
        lower_start={"a": jnp.zeros(()), "b": jnp.zeros(())},
        lower_constraints=lambda x, y: {
            "in": y["a"] ** 2 + 3 * y["b"] ** 2 - 1 - x**2,
            "far": [-5 - y["a"] * jnp.ones(2)],
        },
        constraint_weight=weight,
    )


@pytest.mark.parametrize("weight", [1e2, 1e4])
def test_a_curved_constraint_against_finite_differences(weight):
    def upper(x):
        a, b = on_ellipse(x)
        return np.sin(a) + b**2 * x

    found = bilevel.hypergradient(ellipse(weight), KKT, jnp.asarray(0.3))
    np.testing.assert_allclose([found.y["a"], found.y["b"]], on_ellipse(0.3), atol=1e-8)
    slope = (upper(0.3 + 1e-5) - upper(0.3 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found.gradient, slope, atol=1e-8)


# ---- a linear program ----

COSTS = np.array([-1.0, -2.0])
ROWS = np.array([[1.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def limits(x):
    return jnp.stack([3 + x, 2 - x, 0.0 * x, 0.0 * x])


def linear_program(repeated, weight=1000.0):
    """Two rows at the vertex; with `repeated` their sum too, so that three depend on each other."""

    def constraints(x, y):
        values = ROWS @ y - limits(x)
        return jnp.append(values, values[0] + values[1]) if repeated else values

    return bilevel.problem(
        lambda x, y: COSTS @ y,
        lambda x, y: jnp.sum(y**3) + x,
        upper_start=jnp.asarray(0.5),
        lower_start=jnp.zeros(2),
        lower_constraints=constraints,
        constraint_weight=weight,
    )


@pytest.mark.parametrize(("weight", "repeated"), [(1e2, False), (1e4, False), (1e3, True)])
def test_a_vertex_of_a_linear_program(weight, repeated):
    def solution(x):
        return linprog(COSTS, ROWS, np.asarray(limits(jnp.asarray(x)))).x

    found = bilevel.hypergradient(linear_program(repeated, weight), KKT, jnp.asarray(0.5))
    np.testing.assert_allclose(found.y, solution(0.5), atol=1e-8)
    moved = (solution(0.6) - solution(0.4)) / 0.2
    np.testing.assert_allclose(found.gradient, 3 * solution(0.5) ** 2 @ moved + 1, atol=1e-8)


def test_along_several_solutions_y_does_not_move():
    """f = y1 where y1 >= x: y2 is free, and neither y nor the hypergradient grows."""
    problem = bilevel.problem(
        lambda x, y: y[0],
        lambda x, y: jnp.sum(y**2),
        upper_start=jnp.asarray(0.5),
        lower_start=jnp.asarray([1.0, 0.25]),
        lower_constraints=lambda x, y: x - y[0],
    )
    found = bilevel.hypergradient(problem, KKT, jnp.asarray(0.5))
    np.testing.assert_allclose(found.y, [0.5, 0.25], atol=1e-8)
    np.testing.assert_allclose(found.gradient, 1.0, atol=1e-8)


# ---- where nothing is to be made exact ----


def test_without_active_constraints_it_is_the_implicit_gradient():
    far = QUADRATICS[0]._replace(d=np.full(5, 100.0))
    plain = bilevel.problem(
        lambda x, y: 0.5 * y @ far.H @ y - (far.B @ x) @ y,
        lambda x, y: 0.5 * jnp.sum((y - WANTED) ** 2) + 0.5 * jnp.sum(x**2),
        upper_start=jnp.asarray(X),
        lower_start=jnp.zeros(3),
    )
    exact = bilevel.hypergradient(plain, methods.hoag(**BELOW, tolerance=1e-13), jnp.asarray(X))
    found = bilevel.hypergradient(far.problem(), KKT, jnp.asarray(X))
    assert found.diagnostics["active_constraints"] == 0
    np.testing.assert_allclose(found.gradient, exact.gradient, atol=1e-8)


def test_without_newton_steps_it_is_the_penalised_solution():
    """min 1/2 (y - 2)^2 where 1 <= y <= x, at x = 1/2, where no y is feasible: as `hoag` has it."""
    method = methods.kkt(**BELOW, newton_steps=0)
    found = bilevel.hypergradient(between(), method, jnp.asarray(0.5))
    hoag = methods.hoag(**BELOW, tolerance=1e-13)
    expected = bilevel.hypergradient(between(), hoag, jnp.asarray(0.5))
    np.testing.assert_allclose(found.y, expected.y, rtol=1e-8)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-6)


def between():
    return bilevel.problem(
        lambda x, y: 0.5 * (y - 2) ** 2,
        lambda x, y: 0.5 * (x - y) ** 2 + x,
        upper_start=jnp.asarray(0.5),
        lower_start=jnp.zeros(()),
        lower_constraints=lambda x, y: jnp.stack([1 - y, y - x]),
        constraint_weight=50.0,
    )


# ---- constraints on x ----


def test_x_stops_where_no_y_would_be_feasible():
    """As above: F falls with x, down to x = 1; the penalty alone ends at 1 - 2 / 50."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 300))
    found = bilevel.minimize(between(), KKT, optimizer=optimizer, num_iterations=300)
    assert float(found.x) == pytest.approx(1.0, abs=2e-3)


# ---- what people get ----


def test_the_exact_y_is_returned_and_scored():
    program = QUADRATICS[1]
    found = bilevel.minimize(
        program.problem(10.0), KKT, optimizer=optax.sgd(0.02), num_iterations=20
    )
    y, _, _ = program.by_active_sets(np.asarray(found.x))
    np.testing.assert_allclose(found.y, y, atol=1e-8)
    assert found.scores["validation/lower_violation"] < 1e-8
    assert found.history["stationarity_norm"].max() < 1e-8
    value = 0.5 * np.sum((y - WANTED) ** 2) + 0.5 * np.sum(np.square(found.x))
    assert found.upper_loss == pytest.approx(value, abs=1e-8)


def test_a_proximal_term_joins_the_f_without_penalties():
    program = QUADRATICS[1]
    estimator = hypergradients.implicit_kkt()
    method = bilevel.method("mine", estimator, proximal_weight=0.5, **BELOW)
    found = bilevel.hypergradient(program.problem(), method, jnp.asarray(X))
    with_term = program._replace(H=program.H + 0.5 * np.eye(3))  # y0 = 0
    y, _, gradient = with_term.by_active_sets(X)
    np.testing.assert_allclose(found.y, y, atol=1e-8)
    np.testing.assert_allclose(found.gradient, gradient, atol=1e-8)


@pytest.mark.parametrize("weight", [10.0, 1000.0])
def test_the_gradient_is_that_of_the_target(weight):
    lower = bilevel.estimate.suited_lower_problem(ellipse(weight), KKT)
    point = bilevel.lower_level.Point(
        jnp.asarray(0.3),
        lower.dynamics.init_params(1, {}),
        {"a": jnp.zeros(()), "b": jnp.zeros(())},
    )
    key = jax.random.key(0)
    record = KKT.hypergradient
    output = record.estimate(lower, point, (), key)
    phi = record.target.at(lower, point, key)
    assert float(phi(point)) == pytest.approx(float(output.value), abs=1e-12)
    assert float(directional_error(phi, point, output.gradient)) < 1e-8
