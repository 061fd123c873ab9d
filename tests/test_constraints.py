"""Constraints as penalties: against the KKT conditions, solved by numpy, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import constraints, lower_solvers, methods

# min 1/2 |y - B x|^2 where A y <= C x + d;  F = 1/2 |y - t|^2
RNG = np.random.default_rng(0)
B, A, C = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 3)), RNG.normal(size=(2, 2))
X, TARGET = np.array([0.7, -0.4]), np.array([0.3, -1.0, 0.5])
# At X the first constraint would be violated by 1 and binds; the second one is far.
D = A @ B @ X - C @ X + np.array([-1.0, 5.0])
TIGHT = {
    "num_lower_steps": 2000,
    "lower_optimizer": lower_solvers.lbfgs(tolerance=1e-12),
    "tolerance": 1e-13,
    "max_steps": 500,
}


def projection_problem(weight, **options):
    return bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - B @ x) ** 2),
        lambda x, y: 0.5 * jnp.sum((y - TARGET) ** 2),
        upper_start=jnp.asarray(X),
        lower_start=jnp.zeros(3),
        lower_constraints=lambda x, y: {"rows": A @ y - C @ x - D},
        constraint_weight=weight,
        **options,
    )


def by_kkt():
    """y*, lambda and d F(x, y*(x)) / d x of the problem with the first constraint active.

    y - B x + a lambda = 0 and a y = c x + d, differentiated in x.
    """
    a, c = A[:1], C[:1]
    matrix = np.block([[np.eye(3), a.T], [a, np.zeros((1, 1))]])
    y, multiplier = np.split(np.linalg.solve(matrix, np.r_[B @ X, c @ X + D[:1]]), [3])
    jacobian = np.linalg.solve(matrix, np.r_[B, c])[:3]
    return y, multiplier, jacobian.T @ (y - TARGET)


def test_the_active_set_is_as_meant():
    y, multiplier, _ = by_kkt()
    assert multiplier > 0
    assert (A @ y - C @ X - D)[1] < -1


@pytest.mark.parametrize("weight", [1e2, 1e3, 1e4])
def test_solution_and_hypergradient_are_off_by_one_over_the_weight(weight):
    """g ends at lambda / (weight + 1 / |a|^2), and y and the hypergradient fall like 1 / weight."""
    y, multiplier, gradient = by_kkt()
    method = methods.hoag(**TIGHT)
    found = bilevel.hypergradient(projection_problem(weight), method, jnp.asarray(X))
    violation = (A @ np.asarray(found.y) - C @ X - D)[0]
    factor = 1 / (1 + 1 / (weight * (A[0] @ A[0])))
    np.testing.assert_allclose(violation * weight, multiplier * factor, rtol=1e-5)
    np.testing.assert_allclose(found.y, y, atol=2 * float(multiplier[0]) / weight)
    # F has the squares of g too: their slope along x is of the same order.
    errors = [
        np.linalg.norm(
            bilevel.hypergradient(projection_problem(w), method, jnp.asarray(X)).gradient - gradient
        )
        for w in (weight, 10 * weight)
    ]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


def test_the_upper_constraint_is_met_up_to_its_multiplier():
    """min (y - 3)^2 / 2 + x^2 / 2 with y = x, x + y <= 1: x = y = 1/2, multiplier 1."""
    problem = bilevel.problem(
        lambda x, y: 0.5 * (y - x) ** 2,
        lambda x, y: 0.5 * (y - 3) ** 2 + 0.5 * x**2,
        upper_start=jnp.asarray(0.6),
        lower_start=jnp.zeros(()),
        upper_constraints=lambda x, y: x + y - 1,
        constraint_weight=1e4,
    )
    method = methods.rhg(num_lower_steps=60, step_size=0.5)
    found = bilevel.minimize(problem, method, optimizer=optax.sgd(2e-5), num_iterations=2000)
    # 2 x - 3 + 2 w (2 x - 1) = 0
    expected = (3 + 2e4) / (2 + 4e4)
    np.testing.assert_allclose(found.x, expected, rtol=1e-6)
    np.testing.assert_allclose(
        found.scores["validation/upper_violation"], 2 * expected - 1, rtol=1e-3
    )
    value = 0.5 * (expected - 3) ** 2 + 0.5 * expected**2
    assert found.scores["validation/upper_loss"] == pytest.approx(value, rel=1e-5)
    assert found.scores["validation/penalised_upper_loss"] == pytest.approx(
        value + 5e3 * (2 * expected - 1) ** 2, rel=1e-5
    )


def test_x_leaves_where_no_y_is_feasible():
    """1 <= y <= x: the lower level is empty below x = 1, and F alone would go to 0."""
    problem = bilevel.problem(
        lambda x, y: 0.5 * y**2,
        lambda x, y: 0.5 * x**2 + 0.0 * y,
        upper_start=jnp.zeros(()),
        lower_start=jnp.zeros(()),
        lower_constraints=lambda x, y: jnp.stack([1 - y, y - x]),
        constraint_weight=1000.0,
    )
    method = methods.hoag(**TIGHT)
    found = bilevel.minimize(problem, method, optimizer=optax.sgd(1e-3), num_iterations=100)
    assert float(found.x) == pytest.approx(1.0, abs=0.01)


def test_rows_reach_the_constraints():
    rows = {"bound": np.array([1.0, 2.0])}
    problem = bilevel.problem(
        lambda x, y, rows: (y - x) ** 2,
        lambda x, y, rows: y**2,
        upper_start=jnp.asarray(5.0),
        lower_start=jnp.zeros(()),
        train=rows,
        validation={"bound": np.array([7.0, 9.0])},
        lower_constraints=lambda x, y, rows: y - rows["bound"].min(),
        upper_constraints=lambda x, y, rows: y - rows["bound"].min(),
    )
    found = bilevel.hypergradient(problem, methods.hoag(**TIGHT), jnp.asarray(5.0))
    assert float(found.y) == pytest.approx(1.0, abs=0.01)


def test_violations_are_the_largest_of_all_leaves():
    values = {"a": jnp.asarray([-1.0, 0.5]), "b": jnp.asarray(2.0), "none": jnp.zeros((0,))}
    assert float(constraints.violation(values)) == 2.0
    assert float(constraints.violation({"a": jnp.asarray(-3.0)})) == 0.0
    assert float(constraints.half_squares(values)) == pytest.approx(0.5 * (0.25 + 4))


def test_formulas_say_the_penalties():
    formulas = projection_problem(50.0).problem.formulas
    assert formulas["f"].endswith("+ 50/2 sum max(0, g)^2")
    assert formulas["F"].endswith("+ 50/2 sum max(0, g)^2")


@pytest.mark.parametrize(
    ("violation", "weight", "warns"),
    [(0.09, 1000.0, False), (0.11, 1000.0, True), (0.11, 10.0, False), (float("nan"), 10.0, True)],
)
def test_when_constraints_count_as_not_met(violation, weight, warns):
    """Up to a multiplier of 100 it may be the bias of the penalties."""
    assert bool(constraints.unmet(violation, weight)) == warns


def test_steps_that_are_too_long_for_the_penalties_are_warned_of():
    method = methods.hoag(num_lower_steps=1, step_size=0.1)
    with (
        pytest.warns(UserWarning, match=r"lower_violation=.* above 0\.1: .* or a line search"),
        pytest.warns(UserWarning, match=r"constraint_weight=1000 curves f by 3\.09e\+03"),
    ):
        bilevel.minimize(
            projection_problem(1000.0), method, optimizer=optax.sgd(0.0), num_iterations=1
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lower_constraints": 3}, TypeError, "lower_constraints=3 must be a function whose"),
        (
            {"lower_constraints": lambda x: x},
            TypeError,
            "lower_constraints cannot be called as lower_constraints(x, y), as there are no data",
        ),
        (
            {"upper_constraints": lambda x, y: y <= 1},
            TypeError,
            "upper_constraints returns bool; return numbers that are at most 0",
        ),
        ({"upper_constraints": lambda x, y: {}}, TypeError, "upper_constraints returns nothing;"),
        (
            {"lower_constraints": lambda x, y: y[:, 3]},
            TypeError,
            "lower_constraints fails on (array(2,), array(2,)): ",
        ),
        ({"constraint_weight": 0.0}, ValueError, "constraint_weight=0.0 must be positive"),
        ({"constraint_weight": "10"}, TypeError, "constraint_weight='10' must be a number"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        bilevel.problem(
            lambda x, y: jnp.sum((y - x) ** 2),
            lambda x, y: jnp.sum(y**2),
            upper_start=jnp.zeros(2),
            lower_start=jnp.zeros(2),
            **options,
        )


def test_a_violation_has_no_slope_where_all_is_feasible():
    slope = jax.grad(lambda y: constraints.half_squares({"a": y - 1}))(jnp.asarray([0.5, 1.5]))
    np.testing.assert_array_equal(slope, [0.0, 0.5])
