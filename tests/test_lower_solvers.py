"""Lower solvers: where they end, and that they stay there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import (
    implicit,
)
from bilevel.linear_solvers import cg
from bilevel.lower_level import LowerProblem, Point, trajectory
from bilevel.lower_solvers import gradient_descent, lbfgs, projected_gradient
from src.certification.cases import CASES, place_of
from src.problems.regularisation import regularisation
from tests.test_regularisation import table

KEY = jax.random.key(0)
TOLERANCE = 1e-10
SOLVERS = {
    "lbfgs": lbfgs(tolerance=TOLERANCE),
    "gradient_descent": gradient_descent(tolerance=TOLERANCE),
    "accelerated": gradient_descent(tolerance=TOLERANCE, acceleration=True),
    # Large enough for all solutions to lie inside.
    "projected": projected_gradient(tolerance=TOLERANCE, set="ball", radius=100.0),
}
solvers = pytest.mark.parametrize("name", SOLVERS)
IMPLICIT = implicit(solver=cg(tolerance=1e-13), damping=0.0)


def lower_of(problem, task, optimizer, num_steps=500, aggregation=None):
    dynamics = compose(aggregation or lower_only(), optimizer)
    return LowerProblem(problem, dynamics, num_steps, persistent=True, task=task)


def point_at(lower, context, y0):
    return Point(context, lower.dynamics.init_params(lower.num_steps, y0), y0)


def implicit_at(lower, point):
    carry = IMPLICIT.init(lower, point.y0)
    return jax.jit(lambda point: IMPLICIT.estimate(lower, point, carry, KEY))(point)


def assert_close(found, expected, bound):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


# ---- where they end ----


def with_closed_forms(name):
    """(problem, task, x, y0), x off any special point."""
    if name == "regularisation":
        problem, source = regularisation(table(2), loss="logistic", penalty="per_feature")
        tasks = source.sample(source.data, KEY, "test", 1)
        x = jnp.array([-1.0, -2.5, -4.0, -0.3])
        return problem, jax.tree.map(lambda leaf: leaf[0], tasks), x, problem.init_lower(KEY, x)
    case = CASES[name]()
    place = place_of(case)
    return case.problem, place.task, place.context, place.y0


@pytest.mark.parametrize("case", ["ridge", "regularisation"])
@solvers
def test_solutions_and_hypergradients_are_the_closed_forms(case, name):
    problem, task, x, y0 = with_closed_forms(case)
    lower = lower_of(problem, task, SOLVERS[name])
    output = implicit_at(lower, point_at(lower, x, y0))
    assert_close(output.y, problem.exact.lower_solution(x, task), 1e-8)
    assert_close(output.gradient.context, problem.exact.hypergradient(x, task), 1e-6)
    assert 0 < float(output.diagnostics["lower_steps"]) < lower.num_steps
    assert float(output.diagnostics["lower_residual"]) <= TOLERANCE


_root = np.random.default_rng(2).standard_normal((4, 4))
HESSIAN, X = _root @ _root.T + np.eye(4), np.array([2.0, -1.0, 1.5, 0.2])
WANTED = np.array([0.4, 0.1, -0.3, 0.2])
CONSTRAINED = problem_from_objectives(
    lower=lambda x, y, task: 0.5 * y @ task["hessian"] @ y - x @ y,
    upper=lambda x, y, task: 0.5 * jnp.sum((y - WANTED) ** 2),
    init_upper=lambda key: jnp.asarray(X),
    init_lower=lambda key: jnp.full(4, 0.1),
)


def boxed():
    """y* by active sets (BVLS), and H^-1 (y* - wanted) on the free entries."""
    factor = np.linalg.cholesky(HESSIAN)
    bounds = (-0.2, 0.3)
    y = lsq_linear(factor.T, np.linalg.solve(factor, X), bounds, "bvls", tol=1e-15).x
    free = (y > -0.2 + 1e-9) & (y < 0.3 - 1e-9)
    assert 0 < free.sum() < 4
    gradient = np.zeros(4)
    gradient[free] = np.linalg.solve(HESSIAN[np.ix_(free, free)], (y - WANTED)[free])
    return HESSIAN, y, gradient


def in_ball():
    """f = 1/2 |y|^2 - x.y: y* is the projection of x, and so is its derivative."""
    unit = X / np.linalg.norm(X)
    y = 0.5 * unit
    slope = 0.5 / np.linalg.norm(X) * (np.eye(4) - np.outer(unit, unit))
    return np.eye(4), y, slope @ (y - WANTED)


def in_simplex():
    """The same: x = (2, -1, 1.5, .2) has its projection onto sum 2 at (1.25, 0, .75, 0)."""
    y = np.array([1.25, 0.0, 0.75, 0.0])
    kept = (y > 0).astype(float)
    return np.eye(4), y, (np.diag(kept) - np.outer(kept, kept) / 2) @ (y - WANTED)


@pytest.mark.parametrize("acceleration", [False, True])
@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (boxed, {"set": "box", "lower": -0.2, "upper": 0.3}),
        (in_ball, {"set": "ball", "radius": 0.5}),
        (in_simplex, {"set": "simplex", "radius": 2.0}),
    ],
    ids=["box", "ball", "simplex"],
)
def test_solutions_under_constraints(expected, options, acceleration):
    hessian, y, gradient = expected()
    optimizer = projected_gradient(**options, tolerance=TOLERANCE, acceleration=acceleration)
    lower = lower_of(CONSTRAINED, {"hessian": hessian}, optimizer)
    output = implicit_at(lower, point_at(lower, jnp.asarray(X), jnp.full(4, 0.1)))
    assert_close(output.y, y, 1e-8)
    assert_close(output.gradient.context, gradient, 1e-6)
    # Rounding must not leave the set.
    np.testing.assert_array_equal(output.y, optimizer.projection(output.y))


def test_bda_with_constant_weights_ends_where_the_mix_is_stationary():
    """psi = a F + (1 - a) f, and the hypergradient is that of its solution."""
    share, task = 0.3, {"hessian": HESSIAN}
    lower = lower_of(
        CONSTRAINED, task, SOLVERS["lbfgs"], aggregation=descent(law="constant", alpha=share)
    )

    def solution(x):
        mixed = (1 - share) * HESSIAN + share * np.eye(4)
        return jnp.linalg.solve(mixed, (1 - share) * x + share * WANTED)

    def value(x):
        return 0.5 * jnp.sum((solution(x) - WANTED) ** 2)

    output = implicit_at(lower, point_at(lower, jnp.asarray(X), jnp.full(4, 0.1)))
    assert_close(output.y, solution(X), 1e-8)
    assert_close(output.gradient.context, jax.grad(value)(jnp.asarray(X)), 1e-6)


# ---- that they stop ----


@solvers
def test_steps_beyond_the_solution_change_nothing(name):
    problem, task, x, y0 = with_closed_forms("quadratic")
    lower = lower_of(problem, task, SOLVERS[name], num_steps=200)
    point = point_at(lower, x, y0)

    @jax.jit
    def everything(point):
        return (
            lower.solve_until(point, TOLERANCE),
            lower.solve(point),
            trajectory(lower.at(point), y0, lower.num_steps, lambda y: y),
        )

    (y, done), all_steps, path = everything(point)
    assert 0 < int(done) < 100
    assert_close(all_steps, y, 0)
    for leaf, end in zip(*map(jax.tree.leaves, (path, y)), strict=True):
        assert (leaf[int(done) :] == end).all()
        assert not (leaf[int(done) - 1] == end).all()


@pytest.mark.parametrize("name", ["lbfgs", "projected"])
def test_every_task_of_a_batch_ends_as_it_does_alone(name):
    hessians = np.stack([HESSIAN, np.eye(4), 30 * HESSIAN, HESSIAN + 5 * np.eye(4)])
    xs = np.stack([X, 0.1 * X, 100 * X[::-1], 0 * X])
    tolerances = np.array([1e-3, 1e-6, 1e-8, 1e-9])

    def one(hessian, x, tolerance):
        lower = lower_of(CONSTRAINED, {"hessian": hessian}, SOLVERS[name])
        return lower.solve_until(point_at(lower, x, jnp.zeros(4)), tolerance)

    ys, counts = jax.jit(jax.vmap(one))(hessians, xs, tolerances)
    alone = jax.jit(one)
    for i in range(4):
        y, count = alone(hessians[i], xs[i], tolerances[i])
        assert int(counts[i]) == int(count)
        assert_close(ys[i], y, 1e-12)
    assert len(set(counts.tolist())) > 2
    assert int(counts[3]) == 0


@pytest.mark.parametrize("name", ["lbfgs", "gradient_descent"])
def test_a_warm_start_takes_fewer_iterations(name):
    problem, task, x, y0 = with_closed_forms("regularisation")
    lower = lower_of(problem, task, SOLVERS[name])
    solve = jax.jit(lambda x, y: lower.solve_until(point_at(lower, x, y), 1e-8))
    y, cold = solve(x, y0)
    assert int(solve(x + 0.01, y)[1]) < int(cold)
    assert int(solve(x, y)[1]) == 0


@solvers
def test_float32_ends_near_the_solution_whatever_the_tolerance(name):
    options = {"set": "ball", "radius": 100.0} if name == "projected" else {}
    factory = {"lbfgs": lbfgs, "projected": projected_gradient}.get(name, gradient_descent)
    options |= {"acceleration": True} if name == "accelerated" else {}
    with jax.enable_x64(False):
        problem, task, x, y0 = with_closed_forms("regularisation")
        lower = lower_of(problem, task, factory(tolerance=1e-30, **options), num_steps=300)
        y, done = jax.jit(lambda p: lower.solve_until(p, 1e-30))(point_at(lower, x, y0))
        assert y.dtype == jnp.float32
        assert int(done) == 300
        slope = jax.grad(problem.lower_objective, argnums=2)(x, task, y)
        assert float(jnp.linalg.norm(slope)) < 1e-6


# ---- hard objectives: a step is taken or not, but y stays finite ----


HARD = {
    # name: (f, y0, where it ends or None)
    "no number outside": (lambda y: jnp.sum(y - jnp.log(y)), [1e-3, 3.0], [1.0, 1.0]),
    "a kink": (lambda y: jnp.sum(jnp.abs(y)), [0.3, 0.7], [0.0, 0.0]),
    "not convex": (lambda y: jnp.sum((y**2 - 1) ** 2), [0.01, -0.02], [1.0, -1.0]),
    "stiff": (lambda y: 1e8 * jnp.sum((y - 0.3) ** 2), [0.0, 9.0], [0.3, 0.3]),
    "no slope at its end": (lambda y: jnp.sum(jnp.sqrt(y)), [0.3, 0.7], None),
    "unbounded": (lambda y: jnp.sum(y), [0.0, 0.0], None),
    "never a number": (lambda y: jnp.nan * jnp.sum(y), [0.3, 0.7], [0.3, 0.7]),
}


@pytest.mark.parametrize(
    "optimizer",
    [lbfgs(), gradient_descent(), gradient_descent(acceleration=True)],
    ids=["lbfgs", "gradient_descent", "accelerated"],
)
def test_no_objective_makes_y_no_number(optimizer):
    """In float32, which leaves less room than float64."""

    def end(f, y0):
        def body(state, k):
            y, opt_state = state
            return optimizer.update({}, jax.grad(f)(y), opt_state, y, k, f), None

        start = (y0, optimizer.init({}, y0, f))
        return jax.lax.scan(body, start, jnp.arange(1, 61))[0][0]

    with jax.enable_x64(False):
        starts = {name: jnp.asarray(y0, dtype=float) for name, (_, y0, _) in HARD.items()}
        ends = jax.jit(lambda ys: {name: end(HARD[name][0], y) for name, y in ys.items()})(starts)
    for name, (_, _, expected) in HARD.items():
        assert jnp.isfinite(ends[name]).all(), name
        if expected is not None:
            np.testing.assert_allclose(ends[name], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["lbfgs", "accelerated"])
def test_an_objective_that_changes_with_k_is_followed(name):
    """No solution then; but each step descends the objective of that step, not of the last."""
    targets = jnp.asarray(np.random.default_rng(4).standard_normal((6, 3)))
    optimizer = SOLVERS[name]

    def body(state, target):
        def objective(y):
            return 0.5 * jnp.sum((y - target) ** 2)

        y, opt_state = state
        state = optimizer.update({}, y - target, opt_state, y, 1, objective)
        return state, (objective(y), objective(state[0]))

    @jax.jit
    def losses(y):
        start = (y, optimizer.init({}, y, lambda y: 0.5 * jnp.sum(y**2)))
        return jax.lax.scan(body, start, targets)[1]

    before, after = losses(jnp.zeros(3))
    assert (after < 0.5 * before).all()


def test_leaves_of_two_types_keep_them():
    def f(y):
        return jnp.sum((y["a"] - 0.3) ** 2) + jnp.sum((y["b"]["c"] + 1) ** 2)

    y = {"a": jnp.zeros(3, jnp.float32), "b": {"c": jnp.zeros((2, 1))}}
    for optimizer in SOLVERS.values():

        def step(y, optimizer=optimizer):
            return optimizer.update({}, jax.grad(f)(y), optimizer.init({}, y, f), y, 1, f)[0]

        assert jax.eval_shape(step, y) == jax.eval_shape(lambda y: y, y)
