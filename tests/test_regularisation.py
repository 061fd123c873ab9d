"""Learned regularisation: f, F, y* and the hypergradient against numpy, scipy and differences."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from bilevel.mini_batches import rows
from src.data.labelled import Table
from src.problems import regularisation as module
from src.problems.newton import newton
from src.problems.regularisation import regularisation
from src.running.run import run
from tests.conftest import QUIET, config_of, read_metrics

ROWS = {"train": 24, "validation": 16, "test": 12}
FEATURES = 4
CLASSES = {"squared": 0, "logistic": 2, "softmax": 3}
CASES = [
    *[(loss, penalty) for loss in CLASSES for penalty in ("scalar", "per_feature")],
    ("softmax", "per_class"),
]
cases = pytest.mark.parametrize(("loss", "penalty"), CASES)


def table(num_classes, seed=0):
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((FEATURES, max(num_classes, 1)))
    inputs = {split: generator.standard_normal((n, FEATURES)) for split, n in ROWS.items()}
    noisy = {k: a @ weights + generator.standard_normal((len(a), 1)) for k, a in inputs.items()}
    if num_classes == 0:
        return Table(inputs, {split: u[:, 0] for split, u in noisy.items()}, 0)
    if num_classes == 2:
        return Table(inputs, {k: (u[:, 0] > 0).astype(np.int32) for k, u in noisy.items()}, 2)
    return Table(inputs, {k: u.argmax(1).astype(np.int32) for k, u in noisy.items()}, num_classes)


def one_task(source, split="test"):
    tasks = source.sample(source.data, jax.random.key(0), split, 1)
    return jax.tree.map(lambda leaf: leaf[0], tasks)


def made(loss, penalty, **options):
    data = table(CLASSES[loss])
    problem, source = regularisation(data, loss=loss, penalty=penalty, **options)
    shape = problem.init_upper(jax.random.key(0)).shape
    x = jnp.asarray(np.random.default_rng(1).uniform(-4, -1, shape))
    shape = problem.init_lower(jax.random.key(0), x).shape
    y = jnp.asarray(np.random.default_rng(2).standard_normal(shape))
    return problem, one_task(source), x, y, data


@cache
def compiled(loss, penalty):
    """x, y -> all that a case is asked for; compiled once, as that takes most of the time."""
    problem, task, _, _, _ = made(loss, penalty)

    def everything(x, y):
        solution = problem.exact.lower_solution(x, task)
        return {
            "f": problem.lower_objective(x, task, y),
            "F": problem.upper_objective(x, task, y)[0],
            "solution": solution,
            "slope": jax.grad(problem.lower_objective, argnums=2)(x, task, solution),
            "hypergradient": problem.exact.hypergradient(x, task),
            "scores": problem.evaluate(x, x, task, y),
        }

    return jax.jit(everything)


def mean_loss(loss, data, split, y):
    """By the formulas, in numpy."""
    inputs, targets = data.inputs[split], data.targets[split]
    u = inputs @ y
    if loss == "squared":
        return np.mean((u - targets) ** 2) / 2
    if loss == "logistic":
        return np.mean(np.log1p(np.exp(-np.where(targets == 1, 1, -1) * u)))
    return np.mean(logsumexp(u, axis=1) - u[np.arange(len(u)), targets])


def penalty_term(penalty, x, y):
    weights = {
        "scalar": lambda: np.exp(x),
        "per_feature": lambda: np.exp(x).reshape(-1, *[1] * (y.ndim - 1)),
        "per_class": lambda: np.exp(x)[None],
    }[penalty]()
    return 0.5 * np.sum(weights * y**2)


@cases
def test_the_objectives_follow_their_formulas(loss, penalty):
    _, _, x, y, data = made(loss, penalty)
    found = compiled(loss, penalty)(x, y)
    x, y = np.asarray(x), np.asarray(y)
    lower = mean_loss(loss, data, "train", y) + penalty_term(penalty, x, y)
    assert float(found["f"]) == pytest.approx(lower, rel=1e-12)
    upper = mean_loss(loss, data, "validation", y)
    assert float(found["F"]) == pytest.approx(upper, rel=1e-12)
    scores, held_out = found["scores"], mean_loss(loss, data, "test", y)
    assert float(scores["upper_loss"]) == pytest.approx(held_out, rel=1e-12)
    if loss == "squared":
        assert float(scores["mean_squared_error"]) == pytest.approx(2 * held_out, rel=1e-12)
        return
    u = data.inputs["test"] @ y
    classes = u.argmax(1) if loss == "softmax" else u > 0
    assert float(scores["accuracy"]) == pytest.approx(np.mean(classes == data.targets["test"]))


@cases
def test_the_lower_solution_is_scipys(loss, penalty):
    _, _, x, y, data = made(loss, penalty)
    found = compiled(loss, penalty)(x, y)

    def value(flat):
        y = flat.reshape(found["solution"].shape)
        return mean_loss(loss, data, "train", y) + penalty_term(penalty, np.asarray(x), y)

    best = minimize(value, np.zeros(y.size), method="BFGS", tol=1e-8)
    np.testing.assert_allclose(found["solution"].ravel(), best.x, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found["slope"], 0, rtol=0, atol=1e-14)


@cases
def test_the_hypergradient_is_the_slope_of_the_value_function(loss, penalty):
    _, _, x, y, data = made(loss, penalty)
    everything = compiled(loss, penalty)
    found = everything(x, y)
    assert found["hypergradient"].shape == x.shape

    def value(x):
        return mean_loss(loss, data, "validation", np.asarray(everything(x, y)["solution"]))

    h, slopes = 1e-5, []
    for entry in np.eye(x.size).reshape(-1, *x.shape):
        slopes.append((value(x + h * entry) - value(x - h * entry)) / (2 * h))
    np.testing.assert_allclose(found["hypergradient"].ravel(), slopes, rtol=0, atol=1e-9)
    for name, expected in (
        ("value_function", value(x)),
        ("value_function_gradient_norm", np.linalg.norm(slopes)),
        ("lower_variable_error", np.linalg.norm(y - found["solution"])),
    ):
        assert float(found["scores"][name]) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("loss", CLASSES)
def test_the_hypergradient_is_that_of_a_long_unrolled_solve(loss):
    problem, task, x, y, _ = made(loss, "per_feature")

    @jax.jit
    @jax.grad
    def slope(x):
        def body(_, y):
            return y - 0.4 * jax.grad(problem.lower_objective, argnums=2)(x, task, y)

        y = jax.lax.fori_loop(0, 4000, body, problem.init_lower(jax.random.key(0), x))
        return problem.upper_objective(x, task, y)[0]

    found = compiled(loss, "per_feature")(x, y)["hypergradient"]
    np.testing.assert_allclose(found, slope(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", CLASSES)
def test_batches_average_to_the_objectives(loss):
    problem, task, x, y, _ = made(loss, "per_feature")
    orders = [np.random.default_rng(3).permutation(ROWS[k]) for k in ("train", "validation")]
    smaller = [
        {"train": rows(task["train"], lower), "validation": rows(task["validation"], upper)}
        for lower, upper in zip(orders[0].reshape(4, -1), orders[1].reshape(4, -1), strict=True)
    ]

    @jax.jit
    def both(task):
        return problem.lower_objective(x, task, y), problem.upper_objective(x, task, y)[0]

    parts = np.array([both(task) for task in smaller])
    assert parts.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(parts.mean(axis=0), both(task), rtol=1e-12)


def test_newton_steps_that_would_diverge_are_halved():
    """sqrt(1 + y^2): a full step goes from y to -y^3."""

    def value(y):
        return jnp.sqrt(1 + y[0] ** 2)

    def derivatives(y):
        return jax.grad(value)(y), jax.hessian(value)(y)

    y = jnp.array([3.0])
    gradient, hessian = derivatives(y)
    assert float((y - gradient / hessian[0])[0]) == pytest.approx(-27)
    found = jax.jit(lambda y: newton(value, derivatives, y))(y)
    np.testing.assert_allclose(found, 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_float32_solves_end_near_those_of_float64(loss):
    """With a penalty of e^-8, down to which the classes are all but separated."""
    data = table(CLASSES[loss])
    found = {}
    for precise in (True, False):
        with jax.enable_x64(precise):
            problem, source = regularisation(data, penalty="scalar")
            y = jax.jit(problem.exact.lower_solution)(jnp.array(-8.0), one_task(source))
            assert y.dtype == (jnp.float64 if precise else jnp.float32)
            found[precise] = np.asarray(y, np.float64)
    scale = np.linalg.norm(found[True])
    assert np.linalg.norm(found[False] - found[True]) < 1e-3 * scale


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_solve_without_a_solution_ends(dtype):
    """Separable classes and no penalty to speak of: y grows until rounding hides the slope of f."""
    data = table(2)
    labels = {split: (a[:, 0] > 0).astype(np.int32) for split, a in data.inputs.items()}
    problem, source = regularisation(data._replace(targets=labels), penalty="scalar")
    task = jax.tree.map(lambda leaf: leaf.astype(dtype), one_task(source))
    y = jax.jit(problem.exact.lower_solution)(jnp.array(-60.0, dtype), task)
    assert np.isfinite(y).all()
    assert float(problem.upper_objective(None, task, y)[1]["accuracy"]) > 0.8


def test_where_a_dense_hessian_costs_too_much_nothing_is_exact(monkeypatch):
    products = FEATURES**2 * (ROWS["train"] + FEATURES)
    for limit, affordable in ((products, True), (products - 1, False)):
        monkeypatch.setattr(module, "MAX_PRODUCTS", limit)
        problem, task, x, y, _ = made("logistic", "scalar")
        assert (problem.exact.lower_solution is not None) == affordable
        assert (problem.exact.hypergradient is not None) == affordable
        scores = jax.eval_shape(problem.evaluate, x, x, task, y)
        assert ("value_function" in scores) == affordable
        assert "accuracy" in scores


def test_x_is_kept_below_its_bound():
    problem = made("logistic", "per_feature", max_log_penalty=-1.0)[0]
    assert problem.project_upper(jnp.array([-5.0, -1.0, 2.0])).tolist() == [-5.0, -1.0, -1.0]


def test_auto_follows_the_targets():
    for loss, num_classes in CLASSES.items():
        problem, _ = regularisation(table(num_classes))
        assert problem.formulas == made(loss, "scalar")[0].formulas
    regularisation(table(2), loss="softmax", penalty="per_class")  # two classes, two columns


# (classes, options, what the message must say)
REFUSED = [
    (3, {"loss": "logistic"}, "loss=logistic needs targets that are two classes, .* 3 classes"),
    (0, {"loss": "logistic"}, "loss=logistic needs targets that are two classes, .* real numbers"),
    (0, {"loss": "softmax"}, "loss=softmax needs targets that are classes, .* real numbers"),
    (2, {"loss": "squared"}, "loss=squared needs targets that are real numbers, .* 2 classes"),
    (2, {"penalty": "per_class"}, "penalty=per_class needs a column .* loss=logistic"),
    (0, {"penalty": "per_class"}, "penalty=per_class needs a column .* loss=squared"),
    (2, {"initial_log_penalty": 0.5}, "initial_log_penalty=0.5 is above max_log_penalty=0.0"),
    (2, {"initial_log_penalty": float("nan")}, "initial_log_penalty=nan is above"),
]


@pytest.mark.parametrize(("classes", "options", "message"), REFUSED, ids=[c[2] for c in REFUSED])
def test_bad_options_are_refused(classes, options, message):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{message}.*choose .*{name}=") as refusal:
        regularisation(table(classes), **options)
    # What it says to type is accepted.
    example = re.search(rf"choose .*?{name}=([^\s,]+)", str(refusal.value))
    assert example
    regularisation(table(classes), **{name: type(options[name])(example.group(1))})


def test_hoag_finds_the_best_penalty_of_a_table(tmp_path):
    """h(x) falls from 0.1361 at x = -2 to 0.06202 at -4.97, its minimum over a grid."""
    overrides = ["problem=regularisation", "method=hoag", *QUIET, "num_iterations=200"]
    run(config_of(*overrides, "dtype=float64"), tmp_path)
    last = read_metrics(tmp_path)[-1]
    assert last["validation/value_function"] == pytest.approx(0.062023, abs=2e-5)
    assert last["validation/value_function_gradient_norm"] < 2e-3
    assert last["validation/lower_variable_error"] < 1e-2
