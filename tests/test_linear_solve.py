"""The contract with jaxopt and jax: linear solvers against numpy, and jaxopt's own gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxopt.implicit_diff
import jaxopt.linear_solve
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.hypergradients import implicit
from bilevel.linear_solve import (
    conjugate_gradient,
    gmres,
    neumann,
    normal_conjugate_gradient,
    nystrom,
    spectral_norm,
)
from bilevel.linear_solvers import cg
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from src.data.synthetic_regression import synthetic_regression
from src.problems.ridge import ridge

N = 8
KRYLOV = {
    "cg": conjugate_gradient,
    "normal_cg": normal_conjugate_gradient,
    "gmres": partial(gmres, restart=5),
}


def symmetric(spectrum, seed=0):
    """A symmetric matrix of this spectrum, and a right-hand side."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((len(spectrum), len(spectrum))))[0]
    return (basis * np.asarray(spectrum)) @ basis.T, generator.standard_normal(len(spectrum))


POSITIVE = np.linspace(1, 20, N)
INDEFINITE = POSITIVE * np.where(np.arange(N) % 3, 1, -1)
# name of the solver, spectrum
SYSTEMS = [
    ("cg", POSITIVE),
    ("normal_cg", POSITIVE),
    ("gmres", POSITIVE),
    ("normal_cg", INDEFINITE),
    ("gmres", INDEFINITE),
]


def product(matrix):
    return lambda vector: jnp.asarray(matrix) @ vector


@partial(jax.jit, static_argnames=("name", "max_steps"))
def solved(name, matrix, b, start, tolerance, max_steps=2000):
    return KRYLOV[name](product(matrix), b, start, tolerance, max_steps)


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


# ---- Krylov ----


@pytest.mark.parametrize(("name", "spectrum"), SYSTEMS)
def test_solutions_under_jit_and_vmap_to_a_traced_tolerance(name, spectrum):
    systems = [symmetric(spectrum, seed) for seed in range(3)]
    matrices, right = map(np.stack, zip(*systems, strict=True))
    all_solved = jax.vmap(partial(solved, name), in_axes=(0, 0, None, None))

    def errors(tolerance):
        """Of the equations that the solver's tolerance is about."""
        found = all_solved(matrices, right, np.zeros(N), tolerance)
        for matrix, b, q in zip(matrices, right, found, strict=True):
            if name == "normal_cg":
                matrix, b = matrix.T @ matrix, matrix.T @ b
            yield relative(matrix @ q, b)

    for tolerance in (1e-1, 1e-3, 1e-6):
        assert max(errors(tolerance)) <= tolerance * (1 + 1e-6)
    assert min(errors(1e-1)) > 1e-6, "a loose tolerance saves steps"
    found = all_solved(matrices, right, np.zeros(N), 1e-13)
    for matrix, b, q in zip(matrices, right, found, strict=True):
        np.testing.assert_allclose(q, np.linalg.solve(matrix, b), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", KRYLOV)
def test_nested_pytrees(name):
    matrix, b = symmetric(POSITIVE)
    flat, unravel = ravel_pytree({"inner": (b[:3], b[3:4]), "b": b[4:].reshape(2, 2)})

    def matvec(vector):
        return unravel(jnp.asarray(matrix) @ ravel_pytree(vector)[0])

    @jax.jit
    def found(flat, tolerance):
        return KRYLOV[name](matvec, unravel(flat), unravel(0 * flat), tolerance, 400)

    q = found(flat, 1e-13)
    assert jax.tree.structure(q) == jax.tree.structure(unravel(flat))
    np.testing.assert_allclose(ravel_pytree(q)[0], np.linalg.solve(matrix, flat), atol=1e-11)


@pytest.mark.parametrize(("name", "spectrum"), SYSTEMS)
def test_a_start_at_the_solution_is_returned(name, spectrum):
    matrix, b = symmetric(spectrum)
    solution = np.linalg.solve(matrix, b)
    np.testing.assert_array_equal(solved(name, matrix, b, solution, 1e-10), solution)


@pytest.mark.parametrize("name", KRYLOV)
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_nothing_on_the_right_gives_nothing(name, start):
    """Also from a warm start, where no residual is small relative to |b| = 0."""
    matrix, b = symmetric(POSITIVE)
    q = solved(name, matrix, np.zeros(N), start * b, 1e-6)
    np.testing.assert_allclose(q, 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KRYLOV)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-18, 1e-8, 1e8])
def test_the_scale_of_the_problem_does_not_matter_in_float32(name, size):
    """Also from a warm start, and where A has small eigenvalues."""
    with jax.enable_x64(False):
        matrix, b = np.diag([1e-2, 0.1, 1.0]).astype(np.float32), np.ones(3, np.float32)
        for start in (0.0, 1.0):
            given = jnp.asarray(size * b), jnp.full(3, start * (size or 1.0), jnp.float32)
            q = np.asarray(solved(name, matrix, *given, 1e-5), np.float64)
            np.testing.assert_allclose(q, size * b / np.diag(matrix), rtol=1e-2)


@jax.jit
def cg_steps(matrix, b, start, steps):
    """All the steps: no residual is small enough to stop."""
    return conjugate_gradient(product(matrix), b, start, 1e-300, steps)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_cg_is_exact_after_n_steps_and_not_before(n):
    """A new direction that uses the old residual, as in two known toolkits, is caught here."""
    matrix, b = symmetric(np.linspace(1, 4, n), seed=n)
    start = np.random.default_rng(n).standard_normal(n)
    solution = np.linalg.solve(matrix, b)

    def after(steps):
        return np.abs(cg_steps(matrix, b, start, steps) - solution).max()

    assert after(n) < 1e-12
    assert after(n - 1) > 1e-4


def test_cg_minimises_over_the_krylov_space_at_each_step():
    matrix, b = symmetric(POSITIVE)
    space = np.stack([np.linalg.matrix_power(matrix, j) @ b for j in range(4)], axis=1)
    for steps in range(1, 5):
        basis = np.linalg.qr(space[:, :steps])[0]
        expected = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
        found = cg_steps(matrix, b, np.zeros(N), steps)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KRYLOV)
def test_consistent_singular_systems_from_zero_give_the_smallest_solution(name):
    matrix, b = symmetric([0, 0, 0, 1, 2, 3, 4, 5])
    b = matrix @ b
    q = solved(name, matrix, b, np.zeros(N), 1e-12)
    np.testing.assert_allclose(q, np.linalg.pinv(matrix) @ b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("restart", "steps"), [(4, 11), (20, 20)])
def test_gmres_minimises_the_residual_over_each_restart(restart, steps):
    matrix, b = symmetric(INDEFINITE)
    q = np.zeros(N)
    for _ in range(steps // restart):
        residual = b - matrix @ q
        size = min(restart, N)
        space = np.stack(
            [np.linalg.matrix_power(matrix / 20, j) @ residual for j in range(size)], axis=1
        )
        basis = np.linalg.qr(space)[0]
        q = q + basis @ np.linalg.lstsq(matrix @ basis, residual, rcond=None)[0]
    found = jax.jit(
        lambda matrix, b: gmres(product(matrix), b, jnp.zeros(N), 1e-12, steps, restart)
    )(matrix, b)
    np.testing.assert_allclose(found, q, rtol=0, atol=1e-9)


# ---- Neumann, Nystrom ----


@pytest.mark.parametrize("num_terms", [1, 2, 7, 400])
def test_neumann_is_its_finite_sum(num_terms):
    matrix, b = symmetric(POSITIVE)
    step = 0.09
    powers = [np.linalg.matrix_power(np.eye(N) - step * matrix, j) for j in range(num_terms)]
    flat, unravel = ravel_pytree({"a": b[:3], "b": b[3:].reshape(5, 1)})

    def matvec(vector):
        return unravel(jnp.asarray(matrix) @ ravel_pytree(vector)[0])

    found = jax.jit(lambda flat: neumann(matvec, unravel(flat), step, num_terms))(flat)
    q = ravel_pytree(found)[0]
    np.testing.assert_allclose(q, step * sum(powers) @ b, rtol=0, atol=1e-13)
    if num_terms == 400:
        np.testing.assert_allclose(q, np.linalg.solve(matrix, b), rtol=0, atol=1e-12)


def test_the_spectral_norm_is_found_from_below():
    matrix, b = symmetric(POSITIVE)
    for key in jax.random.split(jax.random.key(0), 20):
        found = float(spectral_norm(product(matrix), b, key, 10))
        assert 0.5 * max(POSITIVE) < found < (1 + 1e-12) * max(POSITIVE)
    assert float(spectral_norm(product(0 * matrix), b, key, 10)) == 0
    assert float(spectral_norm(product(-matrix), b, key, 200)) == pytest.approx(max(POSITIVE))


@jax.jit
def by_nystrom(matrix, b, columns, damping):
    return nystrom(product(matrix), b, columns, damping)


def nystrom_by_hand(matrix, b, columns, damping):
    """Of the inverse of A_cc its positive part."""
    tall, (values, vectors) = matrix[:, columns], np.linalg.eigh(matrix[np.ix_(columns, columns)])
    kept = values > 1e-12 * np.abs(values).max()
    low_rank = tall @ (vectors[:, kept] / values[kept]) @ (tall @ vectors[:, kept]).T
    return np.linalg.solve(low_rank + damping * np.eye(len(b)), b)


LOW_RANK = np.array([0, 0, 0, 0, 0, 2, 5, 9])


@pytest.mark.parametrize(
    ("spectrum", "columns"),
    [
        (POSITIVE, [1, 4, 6]),
        (POSITIVE, range(N)),
        (LOW_RANK, [2, 0, 7]),
        (LOW_RANK, range(N)),
        (INDEFINITE, [0, 1, 2]),
        (np.zeros(N), [0, 1, 2]),
    ],
    ids=["few", "all", "rank", "more than rank", "indefinite", "nothing"],
)
@pytest.mark.parametrize("damping", [1.0, 1e-3])
def test_nystrom_is_the_inverse_of_its_approximation(spectrum, columns, damping):
    matrix, b = symmetric(spectrum)
    columns = np.array(columns)
    q = by_nystrom(matrix, b, columns, damping)
    np.testing.assert_allclose(q, nystrom_by_hand(matrix, b, columns, damping), rtol=1e-8)
    if len(columns) >= np.count_nonzero(spectrum):  # then nothing is missed
        exact = np.linalg.solve(matrix + damping * np.eye(N), b)
        np.testing.assert_allclose(q, exact, rtol=1e-8)


def test_nystrom_on_pytrees_under_vmap():
    matrix, b = symmetric(POSITIVE)
    chosen = np.array([[0, 3, 5], [7, 2, 1]])
    _, unravel = ravel_pytree({"a": b[:3], "b": b[3:].reshape(5, 1)})

    def matvec(vector):
        return unravel(jnp.asarray(matrix) @ ravel_pytree(vector)[0])

    found = jax.jit(jax.vmap(lambda columns: nystrom(matvec, unravel(b), columns, 0.1)))(chosen)
    for i, columns in enumerate(chosen):
        q = ravel_pytree(jax.tree.map(lambda leaf, i=i: leaf[i], found))[0]
        np.testing.assert_allclose(q, nystrom_by_hand(matrix, b, columns, 0.1), rtol=1e-10)


@pytest.mark.parametrize(
    ("spectrum", "columns", "damping", "bound"),
    [
        (POSITIVE, [1, 4, 6], 1e-6, 1e-5),
        (LOW_RANK, [2, 0, 7], 1e-6, 1e-5),
        (POSITIVE, range(N), 1e-6, 1e-5),
    ],
    ids=["few", "rank", "all"],
)
def test_nystrom_survives_float32(spectrum, columns, damping, bound):
    matrix, b = symmetric(spectrum)
    columns = np.array(columns)
    wide = np.asarray(by_nystrom(matrix, b, columns, damping))
    with jax.enable_x64(False):
        narrow = by_nystrom(matrix, b, columns, damping)
        assert narrow.dtype == jnp.float32
        assert relative(np.asarray(narrow), wide) < bound


# ---- jaxopt's own implicit differentiation ----


def test_jaxopt_differentiates_ridge_as_implicit_does():
    data = synthetic_regression(num_rows=(12, 9, 5), num_features=4, num_relevant=3, data_seed=3)
    problem, source = ridge(data)
    key = jax.random.key(0)
    task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, key, "train", 1))
    x = jnp.linspace(-2.0, 0.5, 4)
    y0 = problem.init_lower(key, x)
    dynamics, steps = compose(lower_only(), sgd(step_size=0.3)), 2000
    lower = LowerProblem(problem, dynamics, steps, persistent=True, task=task)

    def optimality(y, x):
        return jax.grad(lambda y: problem.lower_objective(x, task, y))(y)

    def upper(y):
        return problem.upper_objective(x, task, y)[0]

    solve = partial(jaxopt.linear_solve.solve_cg, tol=1e-14)
    estimator = implicit(solver=cg(tolerance=1e-14), damping=0.0)

    @jax.jit
    def gradients(x):
        point = Point(x, dynamics.init_params(steps, y0), y0)
        output = estimator.estimate(lower, point, estimator.init(lower, y0), key)
        by_vjp = jaxopt.implicit_diff.root_vjp(
            optimality, output.y, (x,), jax.grad(upper)(output.y), solve=solve
        )[0]
        root = jaxopt.implicit_diff.custom_root(optimality, solve=solve)(
            lambda y0, x: jax.lax.stop_gradient(output.y)
        )
        return output.gradient.context, by_vjp, jax.grad(lambda x: upper(root(y0, x)))(x)

    ours, *theirs = gradients(x)
    for expected in (*theirs, problem.exact.hypergradient(x, task)):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-8)
    assert float(jnp.linalg.norm(ours)) > 1e-2
