"""The gallery of kinds: its problems, what a method costs, and how it is judged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import bilevel
from bilevel import methods
from src.gallery import kinds, kinds_table
from src.gallery.counting import entries, gradients, marked
from src.gallery.judging import Ended, verdict
from src.gallery.kinds import MAKERS, kind, task_of, values
from tests.conftest import python

QUICK = [name for name in MAKERS if name not in ("network", "logistic regression")]


@pytest.mark.parametrize("name", QUICK)
def test_no_lower_value_is_below_the_least(name):
    """And plain steps of the stated size end there, but where f has other local minima."""
    one = kind(name)
    plain = one.problem.problem
    key = jax.random.key(0)
    x = plain.init_upper(key)
    y = plain.init_lower(key, x)
    flat, restored = ravel_pytree(y)
    confined = plain.project_lower or (lambda y: y)
    for seed in range(20):
        noise = jax.random.normal(jax.random.key(seed), flat.shape)
        at = confined(restored(flat + noise))
        _, lower, _ = values(one.problem, x, at)
        assert lower >= one.least(x, at) - 1e-9

    if name == "box toy":
        return
    task = task_of(one.problem)
    context = plain.prepare(x, task)

    def descended(y, _):
        slope = jax.grad(plain.lower_objective, argnums=2)(context, task, y)
        return confined(jax.tree.map(lambda a, b: a - one.lower_step * b, y, slope)), None

    y = jax.lax.scan(descended, y, length=3000)[0]
    _, lower, _ = values(one.problem, x, y)
    assert lower - one.least(x, y) == pytest.approx(0, abs=1e-6)


def test_the_constrained_solution_is_that_of_a_quadratic_program():
    """F over x and y together, where y's conditions of optimality are written out."""
    # y = x - m n with m = max(0, (n.x - 1 - x_1 / 2) / 2); active at the solution, so m > 0.
    normal, a = np.array([1.0, 1.0]), np.array([2.0, 1.0])
    of_x = np.array([0.5, 1.0])  # n.x - x_1 / 2
    matrix = np.eye(2) - np.outer(normal, of_x) / 2
    shift = normal / 2
    x = np.linalg.solve(matrix.T @ matrix + 0.1 * np.eye(2), matrix.T @ (a - shift))
    assert of_x @ x > 1
    y = matrix @ x + shift
    best = 0.5 * np.sum((y - a) ** 2) + 0.05 * np.sum(x**2)
    assert kind("constraint").best == pytest.approx(best, abs=1e-9)


def test_the_best_of_min_max_is_a_saddle():
    one = kind("min-max")
    found = bilevel.minimize(
        one.problem,
        methods.hoag(step_size=0.5, tolerance=1e-10, tolerance_decay=1.0),
        optimizer=optax.sgd(0.02),
        num_iterations=2000,
    )
    assert found.upper_loss == pytest.approx(one.best, abs=1e-8)


def test_the_network_is_searched_from_many_starts(monkeypatch):
    monkeypatch.setattr(kinds, "STARTS", 3)
    monkeypatch.setattr(kinds, "GRID", 2)
    one = MAKERS["network"]()
    x = jnp.array(kinds.LEAST_LOG_PENALTY)
    y = one.problem.problem.init_lower(jax.random.key(0), x)
    _, lower, _ = values(one.problem, x, y)
    assert 0 < one.least(x, y) < lower / 2
    assert 0 < one.best < 1


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # K gradients of f; F and its gradient in x; the value and the gradient of f for the log.
        (methods.alternating(num_lower_steps=7), 7 + 2),
        # What the log adds is the same; K products with what was kept from the way there.
        (methods.rhg(num_lower_steps=7), 7 + 7 + 2),
        (methods.trhg(num_lower_steps=7, keep_last=3), 7 + 3 + 2),
        # F joins each lower step.
        (methods.bda(num_lower_steps=7), 14 + 14 + 2),
        # Five more lower solves, side by side.
        (methods.pzobo(num_lower_steps=7, num_directions=5), 7 + 5 * 7 + 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_gradients_are_counted(method, expected):
    problem = marked(
        bilevel.problem(
            lambda x, y: jnp.sum((y - x) ** 4 + y**2),
            lambda x, y: jnp.sum((y - 1) ** 4 + x**2),
            upper_start=jnp.zeros(3),
            lower_start=jnp.ones(3),
        )
    )
    descent = bilevel.minimizer(problem, method, optax.sgd(0.1))
    key = jax.random.key(0)
    state = jax.eval_shape(descent.init, key)
    assert gradients(descent.step, state, key, rounds=3, each=6) == expected


def test_loops_that_end_by_a_tolerance_count_as_told():
    problem = kind("quadratics").problem
    hoag = methods.hoag(num_lower_steps=7, step_size=0.3)
    descent = bilevel.minimizer(marked(problem), hoag, optax.sgd(0.1))
    key = jax.random.key(0)
    state = jax.eval_shape(descent.init, key)
    each = entries(problem)
    few, more = (gradients(descent.step, state, key, rounds=n, each=each) for n in (10, 20))
    assert (more - few) / 10 in (1, 2)  # a product with the Hessian in each round


def test_marks_change_nothing():
    one = kind("several solutions").problem
    key = jax.random.key(0)
    x = one.problem.init_upper(key)
    y = one.problem.init_lower(key, x)
    assert values(marked(one), x, y) == values(one, x, y)


@pytest.mark.parametrize(
    ("ended", "word"),
    [
        (Ended(1.0, 0.0, 0.0), "solved"),
        (Ended(1.009, 0.0009, 0.009), "solved"),
        (Ended(1.05, 0.0, 0.0), "nearly"),
        (Ended(1.0, -0.002, 0.0), "nearly"),
        (Ended(1.0, 0.0, 0.05), "nearly"),
        (Ended(1.0, 0.1, 0.0), "no"),
        (Ended(np.nan, 0.0, 0.0), "no"),
    ],
)
def test_verdicts(ended, word):
    assert verdict(ended, 1.0, 0.0) == word


def test_a_small_table(monkeypatch):
    monkeypatch.setattr(kinds_table, "BUDGET", 4000)
    lines = kinds_table.tables(["several solutions"], ["meha", "hoag", "saba", "kkt"])
    assert lines[0] == "| method | several solutions | solved |"
    assert lines[2] == "| `meha` | solved | 1 of 1 |"
    assert lines[3] == "| `hoag` | refused | 0 of 0 |"
    assert lines[4] == "| `saba` |  | 0 of 0 |"
    assert "F at the solution: 0.0000." in lines[9]
    assert lines[-1].startswith("- `hoag` refused: damping=0.0: the Hessian of f in y is singular")


def test_a_wrong_method_lists_all():
    ended = python("-m", "src.gallery", "problems=min-max", "methods=rgh")
    assert ended.returncode == 1
    assert "methods=rgh: there are alternating, rhg, trhg" in ended.stderr
