"""Sums of quadratics: what holds by construction, and the closed forms against numpy."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.mini_batches import rows
from src.problems.quadratic import quadratic
from src.running.run import run
from tests.conftest import QUIET, config_of, read_metrics

SHAPES = {
    "wide": {"dim_upper": 3, "dim_lower": 6, "data_seed": 1},
    "tall": {"dim_upper": 5, "dim_lower": 2, "L_cross_lower": 2.0},
    "one of each": {"dim_upper": 1, "dim_lower": 1, "num_lower_rows": 1, "num_upper_rows": 1},
    "no noise": {"dim_upper": 4, "dim_lower": 4, "noise": 0.0},
    "nearly unbounded": {"dim_upper": 5, "dim_lower": 4, "L_cross_upper": 0.0999, "L": 0.1},
}
shapes = pytest.mark.parametrize("shape", SHAPES)


@cache
def made(shape):
    options = {"num_lower_rows": 12, "num_upper_rows": 8, **SHAPES[shape]}
    problem, source = quadratic(**options)
    tasks = source.sample(source.data, jax.random.key(0), "test", 1)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    draws = np.random.default_rng(5)
    x, y = (draws.standard_normal(options[name]) for name in ("dim_upper", "dim_lower"))
    return problem, task, jnp.asarray(x), jnp.asarray(y)


def means(task, part):
    return {name: np.asarray(rows).mean(0) for name, rows in task[part].items()}


@shapes
def test_spectra_are_as_declared(shape):
    _, task, _, _ = made(shape)
    options = {"mu": 0.1, "L": 1.0, "L_cross_lower": 0.3, "L_cross_upper": 0.05, **SHAPES[shape]}
    for part, cross in (("train", "L_cross_lower"), ("validation", "L_cross_upper")):
        for name in ("A", "B"):
            matrices = np.asarray(task[part][name])
            np.testing.assert_allclose(matrices, matrices.transpose(0, 2, 1), atol=1e-12)
            assert np.linalg.eigvalsh(matrices).min() > -1e-12
            spectrum = np.geomspace(options["mu"], options["L"], matrices.shape[1])
            np.testing.assert_allclose(np.linalg.eigvalsh(matrices.mean(0)), spectrum, rtol=1e-9)
        largest = np.linalg.norm(np.asarray(task[part]["C"]).mean(0), 2)
        assert largest == pytest.approx(options[cross])
        spread = max(np.ptp(np.asarray(rows), axis=0).max() for rows in task[part].values())
        assert (spread < 1e-12) == (shape in ("no noise", "one of each"))


@shapes
def test_the_objectives_are_means_over_rows(shape):
    problem, task, *point = made(shape)
    x, y = map(np.asarray, point)

    def mean(rows):
        A, B, C, a, b = (np.asarray(rows[name]) for name in "ABCab")
        values = [
            0.5 * (y @ A[i] @ y + x @ B[i] @ x) + x @ C[i] @ y + a[i] @ y + b[i] @ x
            for i in range(len(a))
        ]
        return np.mean(values)

    @jax.jit
    def both(task):
        return problem.lower_objective(x, task, y), problem.upper_objective(x, task, y)[0]

    whole = [mean(task["train"]), mean(task["validation"])]
    np.testing.assert_allclose(both(task), whole, rtol=1e-10)
    order = np.random.default_rng(3).permutation
    counts = [len(task[part]["a"]) for part in ("train", "validation")]
    lower_rows, upper_rows = (order(n).reshape(min(n, 4), -1) for n in counts)
    smaller = [
        {"train": rows(task["train"], i), "validation": rows(task["validation"], j)}
        for i, j in zip(lower_rows, upper_rows, strict=True)
    ]
    parts = np.array([both(task) for task in smaller])
    np.testing.assert_allclose(parts.mean(axis=0), whole, rtol=1e-10)
    assert (parts.std(axis=0).min() > 1e-3) == (shape not in ("no noise", "one of each"))


@shapes
def test_the_closed_forms_are_numpys(shape):
    problem, task, x, y = made(shape)
    f, upper = means(task, "train"), means(task, "validation")

    def solution(x):
        return np.linalg.lstsq(f["A"], -(f["C"].T @ x + f["a"]), rcond=None)[0]

    def value(x):
        y = solution(x)
        squares = 0.5 * (y @ upper["A"] @ y + x @ upper["B"] @ x)
        return squares + x @ upper["C"] @ y + upper["a"] @ y + upper["b"] @ x

    @jax.jit
    def everything(x, y):
        exact = problem.exact
        found = exact.lower_solution(x, task), exact.hypergradient(x, task)
        return *found, exact.upper_solution(task), problem.evaluate(x, x, task, y)

    lower, hypergradient, best, scores = everything(x, y)
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(lower, solution(x), atol=1e-10)

    # Central differences of a quadratic are exact but for rounding, of first and second order.
    unit = np.eye(x.size)
    slopes = [(value(x + e) - value(x - e)) / 2 for e in unit]
    np.testing.assert_allclose(hypergradient, slopes, rtol=0, atol=1e-8)
    curvature = [
        [(value(d + e) - value(d - e) - value(e - d) + value(-d - e)) / 4 for e in unit]
        for d in unit
    ]
    options = {"mu": 0.1, "L_cross_upper": 0.05, **SHAPES[shape]}
    bound = options["mu"] - options["L_cross_upper"]
    assert np.linalg.eigvalsh(curvature).min() >= bound - 1e-8

    # The stationary point of F where y is eliminated through its optimality condition: one linear
    # system in (x, y, multipliers), with none of the formulas under test.
    p, q = f["C"].shape
    blocks = [
        [upper["B"], upper["C"], f["C"]],
        [upper["C"].T, upper["A"], f["A"]],
        [f["C"].T, f["A"], np.zeros((q, q))],
    ]
    right = -np.concatenate([upper["b"], upper["a"], f["a"]])
    target = np.linalg.solve(np.block(blocks), right)
    np.testing.assert_allclose(best, target[:p], rtol=1e-8, atol=1e-8)

    for name, expected in (
        ("lower_variable_error", np.linalg.norm(y - solution(x))),
        ("upper_variable_error", np.linalg.norm(x - target[:p])),
        ("value_function_gradient_norm", np.linalg.norm(slopes)),
    ):
        assert float(scores[name]) == pytest.approx(expected, abs=1e-8)
        assert float(everything(best, target[p : p + q])[3][name]) < 1e-7


def test_the_hypergradient_is_that_of_a_long_unrolled_solve():
    problem, task, x, _ = made("wide")

    @jax.jit
    @jax.grad
    def slope(x):
        def body(_, y):
            return y - jax.grad(problem.lower_objective, argnums=2)(x, task, y)

        y = jax.lax.fori_loop(0, 300, body, problem.init_lower(jax.random.key(0), x))
        return problem.upper_objective(x, task, y)[0]

    found = jax.jit(problem.exact.hypergradient)(x, task)
    np.testing.assert_allclose(found, slope(x), rtol=1e-9, atol=1e-9)


def test_the_seed_alone_decides_the_rows():
    first, again, other = (
        quadratic(dim_upper=2, dim_lower=2, data_seed=seed)[1].data for seed in (3, 3, 4)
    )
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        assert (a == b).all()
        assert (a != c).any()


# (options, what the message must say)
REFUSED = [
    ({"num_lower_rows": 0}, "num_lower_rows=0 must be at least 1"),
    ({"num_upper_rows": 0}, "num_upper_rows=0 must be at least 1"),
    ({"dim_upper": 0}, "dim_upper=0 must be at least 1"),
    ({"dim_lower": 0}, "dim_lower=0 must be at least 1"),
    ({"mu": 0.0}, "mu=0.0 must be in (0, L], L=1.0"),
    ({"mu": 2.0}, "mu=2.0 must be in (0, L], L=1.0"),
    ({"mu": float("nan")}, "mu=nan must be in (0, L], L=1.0"),
    ({"L_cross_lower": -1.0}, "L_cross_lower=-1.0 must not be negative"),
    ({"L_cross_upper": 0.1}, "L_cross_upper=0.1 is outside [0, mu), mu=0.1"),
    ({"L_cross_upper": -0.1}, "L_cross_upper=-0.1 is outside [0, mu), mu=0.1"),
    ({"noise": 1.5}, "noise=1.5 is outside [0, 1]"),
    ({"data_seed": -1}, "data_seed=-1 must not be negative"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[c[1] for c in REFUSED])
def test_bad_options_are_refused(options, message):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*choose .*{name}=") as refusal:
        quadratic(**options)
    # What it says to type is accepted.
    example = re.search(rf"choose .*{name}=(\S+)$", str(refusal.value))
    assert example
    small = {"num_lower_rows": 2, "num_upper_rows": 2, "dim_upper": 2, "dim_lower": 2}
    quadratic(**{**small, name: type(options[name])(example.group(1))})


def test_hoag_reaches_the_solution(tmp_path):
    run(config_of("problem=quadratic", "method=hoag", *QUIET, "dtype=float64"), tmp_path)
    last = read_metrics(tmp_path)[-1]
    assert last["validation/upper_variable_error"] < 1e-3
    assert last["validation/lower_variable_error"] < 1e-3
    assert last["validation/value_function_gradient_norm"] < 1e-3
