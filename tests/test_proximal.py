"""The proximal term against iMAML's closed form; and which inputs a function reads."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bilevel.aggregation import lower_only
from bilevel.dependence import read_by
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import implicit, unrolled
from bilevel.linear_solvers import cg
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from bilevel.proximal import proximal
from bilevel.types import Exact, Objectives

RHO = 0.7
EVERY_MIX = frozenset({Objectives.f, Objectives.F, Objectives.f | Objectives.F})

# f = 1/2 y'Ay - b'y, F = 1/2 |y - c|^2, the start learned: y0 = x.
_root = np.random.default_rng(0).standard_normal((4, 4))
A, B, C = _root @ _root.T / 4 + 0.1 * np.eye(4), np.arange(4.0), np.array([1.0, -2.0, 0.5, 3.0])
X = np.array([0.3, -0.6, 1.2, 0.1])


def quadratic():
    problem = problem_from_objectives(
        lower=lambda x, y, task: 0.5 * y @ A @ y - B @ y,
        upper=lambda x, y, task: 0.5 * jnp.sum((y - C) ** 2),
        init_upper=lambda key: jnp.asarray(X),
        init_lower=lambda key: jnp.asarray(X),
        formulas={"f": "f", "F": "F"},
        exact=Exact(lower_solution=lambda x, task: jnp.linalg.solve(A, B)),
    )
    return problem._replace(init_lower=lambda key, x: x, learned_start=True)


class ClosedForm(NamedTuple):
    """y*(x) = (A + rho I)^-1 (b + rho x), g = rho (A + rho I)^-1 (y* - c)."""

    y: np.ndarray
    gradient: np.ndarray


def closed_form(x, rho):
    damped = A + rho * np.eye(4)
    y = np.linalg.solve(damped, B + rho * x)
    return ClosedForm(y, rho * np.linalg.solve(damped, y - C))


@pytest.mark.parametrize("rho", [0.1, RHO, 5.0])
@pytest.mark.parametrize(
    "estimator",
    [implicit(solver=cg(tolerance=1e-14), damping=0.0), unrolled()],
    ids=lambda estimator: estimator.name,
)
def test_hypergradients_are_imaml(estimator, rho):
    problem, task, key = proximal(quadratic(), rho), {}, jax.random.key(0)
    dynamics, steps = compose(lower_only(), sgd(step_size=0.1)), 4000
    lower = LowerProblem(problem, dynamics, steps, persistent=True, task=task)

    @jax.jit
    def estimate(x):
        context, pull_context_back = jax.vjp(lambda x: problem.prepare(x, task), x)
        y0, pull_start_back = jax.vjp(lambda x: problem.init_lower(key, x), x)
        point = Point(context, dynamics.init_params(steps, y0), y0)
        output = estimator.estimate(lower, point, estimator.init(lower, y0), key)
        through_context = pull_context_back(output.gradient.context)[0]
        return output.y, through_context, pull_start_back(output.gradient.y0)[0]

    y, through_context, through_start = estimate(X)
    expected = closed_form(X, rho)
    np.testing.assert_allclose(y, expected.y, rtol=0, atol=1e-8)
    np.testing.assert_allclose(through_context, expected.gradient, rtol=0, atol=1e-8)
    np.testing.assert_allclose(through_start, 0, atol=1e-8)


def nested():
    """Every function of the problem depends on everything that it is given."""
    problem = problem_from_objectives(
        lower=lambda x, y, task: task["t"] * jnp.sum(x["a"] * y["p"]["q"] ** 2) + y["r"] ** 3,
        upper=lambda x, y, task: jnp.sum(jnp.sin(y["p"]["q"]) * x["a"]) + task["t"] * y["r"],
        init_upper=lambda key: {"a": jax.random.normal(key, (3,)), "s": jnp.array(0.4)},
        init_lower=lambda key: {"p": {"q": jnp.ones(3)}, "r": jnp.array(2.0)},
        formulas={"f": "the lower objective", "F": "the upper one"},
    )
    return problem._replace(
        prepare=lambda x, task: {"a": x["a"] * task["t"]},
        init_lower=lambda key, x: {"p": {"q": 2 * x["a"]}, "r": x["s"]},
        evaluate=lambda x, context, task, y: {"score": x["s"] * y["r"] + task["t"] * context["a"]},
        learned_start=True,
        project_upper=lambda x: jax.tree.map(lambda leaf: leaf + 1, x),
    )


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_the_term_is_added_to_f_and_nothing_else_changes(rho):
    plain, task, key = nested(), {"t": jnp.array(1.3)}, jax.random.key(3)
    wrapped = proximal(plain, rho)
    x = plain.init_upper(key)
    y = {"p": {"q": jnp.array([0.1, 0.2, -0.7])}, "r": jnp.array(-0.5)}
    inside, outside = plain.prepare(x, task), wrapped.prepare(x, task)
    y0 = plain.init_lower(key, x)

    distance = np.sum((y["p"]["q"] - y0["p"]["q"]) ** 2) + (y["r"] - y0["r"]) ** 2
    term = wrapped.lower_objective(outside, task, y) - plain.lower_objective(inside, task, y)
    assert float(term) == pytest.approx(rho / 2 * float(distance), rel=1e-12, abs=0)
    found, expected = (
        (
            problem.init_upper(key),
            problem.init_lower(key, x),
            problem.upper_objective(context, task, y),
            problem.evaluate(x, context, task, y),
            problem.project_upper(x),
            problem.learned_start,
        )
        for problem, context in ((wrapped, outside), (plain, inside))
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert wrapped.formulas == {
        "f": f"the lower objective + {rho:g}/2 |y - y0|^2",
        "F": "the upper one",
    }


def test_mini_batches_are_those_of_the_wrapped_problem():
    """Rows k and 2 of the task, and of the context as much of it as belongs to them."""
    plain = quadratic()._replace(
        lower_objective=lambda context, task, y: jnp.sum(context * y[task["rows"]]),
        upper_objective=lambda context, task, y: (jnp.prod(y[task["rows"]]), {}),
    )
    assert proximal(plain, RHO).mini_batch is None
    wrapped = proximal(
        plain._replace(
            mini_batch=lambda context, task, k: (
                context[jnp.array([k, 2])],
                {"rows": task["rows"][jnp.array([k, 2])]},
            )
        ),
        RHO,
    )
    task = {"rows": jnp.arange(4)}
    whole = wrapped.prepare(jnp.asarray(X), task)
    context, task = wrapped.mini_batch(whole, task, 0)
    np.testing.assert_array_equal(context["centre"], whole["centre"])
    assert task["rows"].tolist() == [0, 2]
    y = jnp.asarray(X) + 1
    found = wrapped.lower_objective(context, task, y)
    expected = X[0] * (X[0] + 1) + X[2] * (X[2] + 1) + RHO / 2 * 4
    assert float(found) == pytest.approx(expected, rel=1e-12)
    found = wrapped.upper_objective(context, task, y)[0]
    assert float(found) == pytest.approx((X[0] + 1) * (X[2] + 1), rel=1e-12)


def test_closed_forms_and_singularity_of_the_wrapped_problem_do_not_hold_any_more():
    singular = quadratic()._replace(singular_hessians=EVERY_MIX, damping=1.0)
    wrapped = proximal(singular, RHO)
    assert wrapped.exact == Exact()
    # psi = F alone does not contain the term.
    assert wrapped.singular_hessians == {Objectives.F}
    assert wrapped.damping == pytest.approx(max(0.0, 1.0 - RHO))
    assert proximal(singular, 2.0).damping == 0.0


@pytest.mark.parametrize("weight", [-1.0, -1e-9, float("nan"), float("inf")])
def test_negative_weights_are_refused(weight):
    with pytest.raises(ValueError, match=f"^proximal_weight={weight} must be finite"):
        proximal(quadratic(), weight)


@pytest.mark.parametrize(
    "init_lower",
    [
        lambda key, x: jax.random.normal(key, (4,)),
        lambda key, x: x + 0.1 * jax.random.normal(jax.random.fold_in(key, 1), (4,)),
    ],
    ids=["random", "partly random"],
)
def test_a_random_start_is_refused(init_lower):
    with pytest.raises(ValueError, match=f"^proximal_weight={RHO}: .*draws y0 at random"):
        proximal(quadratic()._replace(init_lower=init_lower), RHO)


def test_a_start_that_is_constant_is_a_centre():
    problem = proximal(quadratic()._replace(init_lower=lambda key, x: jnp.full(4, 0.5)), RHO)
    np.testing.assert_array_equal(problem.prepare(jnp.asarray(X), {})["centre"], [0.5] * 4)


# ---- read_by ----

SCALAR = np.array(1.0)
PAIR = {"a": SCALAR, "b": (SCALAR, SCALAR)}


def scanned(x, y):
    return lax.scan(lambda carry, row: (carry + row, carry), x, jnp.ones(3))[0]


# name: function, arguments, what it reads
READS = {
    "all": (lambda x, y: x * y, (SCALAR, SCALAR), (True, True)),
    "one of two": (lambda x, y: x + 1, (SCALAR, SCALAR), (True, False)),
    "none": (lambda x: 3.0, (SCALAR,), (False,)),
    "nothing given": (lambda: 1.0, (), ()),
    "handed through": (lambda x, y: y, (SCALAR, SCALAR), (False, True)),
    "computed and dropped": (lambda x, y: (jnp.exp(x), y)[1], (SCALAR, SCALAR), (False, True)),
    "in one output only": (lambda x, y, z: (x, {"o": y + 1}), (SCALAR,) * 3, (True, True, False)),
    "through a chain": (lambda x, y: jnp.sin(jnp.exp(-x)), (SCALAR, SCALAR), (True, False)),
    "its shape alone": (lambda x, y: x + y.ndim, (SCALAR, SCALAR), (True, False)),
    "behind stop_gradient": (lambda x, y: lax.stop_gradient(x), (SCALAR,) * 2, (True, False)),
    "nested": (
        lambda tree, y: {"out": tree["b"][1] * 2},
        (PAIR, SCALAR),
        ({"a": False, "b": (False, True)}, False),
    ),
    "jitted inside": (lambda x, y: jnp.where(x > 0, x, 0.0), (SCALAR,) * 2, (True, False)),
    "jitted by hand": (lambda x, y: jax.jit(jnp.sin)(x), (SCALAR, SCALAR), (True, False)),
    # Conservative: all that a jitted function or a loop is given.
    "given to a jitted one": (lambda x, y: jax.jit(lambda x, y: x)(x, y), (SCALAR,) * 2, None),
    "scan": (scanned, (SCALAR, SCALAR), (True, False)),
    "loop": (
        lambda x, y: lax.fori_loop(0, 3, lambda i, c: c + x, 0.0),
        (SCALAR, SCALAR),
        (True, False),
    ),
    "condition": (
        lambda x, y, z: lax.cond(x > 0, lambda: y, lambda: 0.0),
        (SCALAR,) * 3,
        (True, True, False),
    ),
    "derivative": (lambda x, y: jax.grad(lambda x: x**2 + y)(x), (SCALAR,) * 2, (True, False)),
    "vmap": (
        lambda x, y: jax.vmap(lambda x: x + 1)(x),
        (np.ones(3), SCALAR),
        (True, False),
    ),
}


@pytest.mark.parametrize("name", READS)
def test_what_a_function_reads(name):
    function, arguments, expected = READS[name]
    found = read_by(function, *arguments)
    if expected is None:  # may say more than is true, never less
        assert found[0]
        return
    assert found == expected
    shapes = jax.eval_shape(lambda: arguments)
    assert read_by(function, *shapes) == expected, "shapes are as good as arrays"


def test_random_keys_are_inputs_like_others():
    key = jax.random.key(0)
    assert read_by(lambda key, x: x + jax.random.normal(key), key, SCALAR) == (True, True)
    assert read_by(lambda key, x: x, key, SCALAR) == (False, True)
