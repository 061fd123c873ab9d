"""One problem of each kind that a learner meets, with the solution known without any method here.

What F and f are at a solution comes from closed forms, or from scipy where there is none.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from optax import projections
from scipy.optimize import minimize

from bilevel import Problem, problem
from bilevel.constraints import kept_apart, violation
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.problems.bvfsm_sine import bvfsm_sine
from src.problems.counterexample import counterexample
from src.problems.iaptt_toy import LOWER_BOUNDS, iaptt_toy
from src.problems.pbgd_toy import pbgd_toy
from src.problems.quadratic import quadratic
from src.problems.regularisation import regularisation

BATCH = 16  # rows
STARTS, GRID = 20, 33  # of the searches of scipy
LEAST_LOG_PENALTY, MOST_LOG_PENALTY = -8.0, 0.0


class Variant(NamedTuple):
    """The problem as some methods take it.

    share         of the rows that an evaluation sees
    lower_step    that is stable
    """

    problem: Problem
    share: float
    lower_step: float


class Kind(NamedTuple):
    """A problem and what is known of it.

    lower_step    a step of y on f that is stable
    best          F at the solution
    least(x, y)   the least value of f(x, .), among all as feasible as y is
    batched       the same on mini-batches, or None
    lightly       the same with a small weight of the penalties, for methods with multipliers
    """

    words: str
    problem: Problem
    lower_step: float
    best: float
    least: Callable[[Tree, Tree], float]
    batched: Variant | None = None
    lightly: Variant | None = None


def task_of(one: Problem) -> Tree:
    """The task of a problem that has but one."""
    return one_task(one.source, one.source.data, jax.random.key(0), "train")


def values(one: Problem, x: Tree, y: Tree) -> tuple[float, float, float]:
    """F and f, without penalties, and the largest violation of a lower constraint."""
    task, apart = task_of(one), kept_apart(one.problem)
    at = one.problem.prepare(x, task), task, y
    worst = 0.0 if one.problem.penalised is None else float(violation(apart.constraints(*at)))
    return float(apart.F(*at)[0]), float(apart.f(*at)), worst


def _with_closed_forms(words: str, one: Problem, lower_step: float, **known: Any) -> Kind:
    """f at y*(x) is its least value; F there is the best one, at x* or where h is least."""
    exact, task = one.problem.exact, task_of(one)
    solution, gradient = exact.lower_solution, exact.hypergradient
    assert solution is not None
    context = partial(one.problem.prepare, task=task)
    of_f = jax.jit(lambda x: one.problem.lower_objective(context(x), task, solution(x, task)))
    of_F = jax.jit(lambda x: one.problem.upper_objective(context(x), task, solution(x, task))[0])
    if exact.upper_solution is not None:
        best = float(of_F(exact.upper_solution(task)))
    else:
        assert gradient is not None
        best = _least_of(of_F, jax.jit(lambda x: gradient(x, task)), one)
    return Kind(words, one, lower_step, best, lambda x, y: float(of_f(x)), **known)


def _least_of(value: Callable, gradient: Callable, one: Problem) -> float:
    """min h over log penalties, by L-BFGS-B from several starts."""
    start = one.problem.init_upper(jax.random.key(0))
    shape, bounds = start.shape, [(LEAST_LOG_PENALTY * 2, MOST_LOG_PENALTY)] * max(1, start.size)

    def h(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = jnp.asarray(flat).reshape(shape)
        return float(value(x)), np.asarray(gradient(x), float).ravel()

    firsts = np.linspace(LEAST_LOG_PENALTY, MOST_LOG_PENALTY, 5)
    ends = (
        minimize(h, np.full(len(bounds), first), jac=True, bounds=bounds, method="L-BFGS-B")
        for first in firsts
    )
    return min(float(end.fun) for end in ends)


def _quadratic() -> Kind:
    batched = Variant(Problem(*quadratic(batch_size=BATCH, sampling="epochs")), BATCH / 256, 0.3)
    return _with_closed_forms(
        "f and F are means of 256 random quadratics each",
        *(Problem(*quadratic()), 1.0),
        batched=batched,
    )


def _linear_model(
    words: str,
    name: Literal["diabetes", "breast_cancer"],
    penalty: Literal["scalar", "per_feature"],
    curvature: float,
) -> Kind:
    """curvature: the largest of the loss of a row."""
    from src.data.bundled_table import bundled_table

    # As many rows for F as for f, so that blocks of 16 hold all of both.
    sizes = (160, 160, None)
    table = bundled_table(name=name, split_sizes=sizes, split_seed=0, standardise=True)
    rows = table.inputs["train"]
    assert isinstance(rows, np.ndarray)
    blocks = [rows[first :: len(rows) // BATCH] for first in range(len(rows) // BATCH)]

    def step(*parts: np.ndarray) -> float:
        largest = max(np.linalg.norm(part, 2) ** 2 / len(part) for part in parts)
        return float(1 / (curvature * largest + np.exp(MOST_LOG_PENALTY)))

    make = partial(regularisation, table, penalty=penalty)
    batched = Problem(*make(batch_size=BATCH, sampling="epochs"))
    return _with_closed_forms(
        *(words, Problem(*make()), step(rows)),
        batched=Variant(batched, BATCH / len(rows), step(*blocks)),
    )


def _min_max() -> Kind:
    """phi = x.(A y) + |x - a|^2 / 2 - y.(B y) / 2: F = phi, f = -phi."""
    rng = np.random.default_rng(0)
    A, a = rng.normal(size=(3, 3)), rng.normal(size=3)
    B = np.diag([0.5, 1.0, 2.0])
    x_best = np.linalg.solve(np.eye(3) + A @ np.linalg.solve(B, A.T), a)

    def phi(x: Array, y: Array) -> Array:
        return x @ (A @ y) + 0.5 * jnp.sum((x - a) ** 2) - 0.5 * y @ (B @ y)

    def y_best(x: np.ndarray) -> np.ndarray:
        return np.linalg.solve(B, A.T @ x)

    one = problem(lambda x, y: -phi(x, y), phi, upper_start=jnp.zeros(3), lower_start=jnp.zeros(3))
    return Kind(
        "min over x, max over y of one function, concave in y",
        one,
        0.5,
        float(phi(jnp.asarray(x_best), jnp.asarray(y_best(x_best)))),
        lambda x, y: -float(phi(x, jnp.asarray(y_best(np.asarray(x))))),
    )


def _box_toy() -> Kind:
    """Its bounds of y are the lower optimizer's elsewhere; here they are the problem's."""
    one = Problem(*iaptt_toy())
    bounded = one.problem._replace(project_lower=lambda y: jnp.clip(y, *LOWER_BOUNDS))
    return _with_closed_forms("f = -sin(x y) in a box", one._replace(problem=bounded), 0.01)


def _linear_program() -> Kind:
    """Costs x under which a smoothed linear program over the simplex has the solution `wanted`.

    f = x.y + |y|^2 / 4, y in the simplex: y* is the projection of -2 x onto it.
    """
    wanted, costs = jnp.array([0.5, 0.3, 0.2, 0.0, 0.0]), jnp.linspace(0.0, 0.4, 5)[::-1]

    def f(x: Array, y: Array) -> Array:
        return x @ y + 0.25 * jnp.sum(y**2)

    one = problem(
        f,
        lambda x, y: 0.5 * jnp.sum((y - wanted) ** 2),
        upper_start=costs,
        lower_start=jnp.full(5, 0.2),
        project_lower=projections.projection_simplex,
    )
    return Kind(
        "costs x of a linear program over the simplex, with |y|^2 / 4",
        one,
        0.5,
        0.0,
        lambda x, y: float(f(x, projections.projection_simplex(-2 * x))),
    )


def _constrained() -> Kind:
    """f = |y - x|^2 / 2 where y_1 + y_2 <= 1 + x_1 / 2, a constraint that x moves."""
    a, normal = np.array([2.0, 1.0]), np.array([1.0, 1.0])

    def beyond(x: Any, y: Any) -> Any:
        return y[0] + y[1] - 1 - 0.5 * x[0]

    def F(x: Any, y: Any) -> Any:
        return 0.5 * ((y - a) ** 2).sum() + 0.05 * (x**2).sum()

    def y_best(x: np.ndarray, slack: float = 0.0) -> np.ndarray:
        return x - max(0.0, float(beyond(x, x)) - slack) / 2 * normal

    ends = (
        minimize(lambda x: F(x, y_best(x)), start, method="Nelder-Mead", tol=1e-12)
        for start in np.random.default_rng(0).normal(size=(STARTS, 2))
    )

    def least(x: Array, y: Array) -> float:
        at, slack = np.asarray(x), max(0.0, float(beyond(x, y)))
        return 0.5 * float(((y_best(at, slack) - at) ** 2).sum())

    def weighted(weight: float) -> Variant:
        one = problem(
            lambda x, y: 0.5 * jnp.sum((y - x) ** 2),
            F,
            upper_start=jnp.zeros(2),
            lower_start=jnp.zeros(2),
            lower_constraints=beyond,
            constraint_weight=weight,
        )
        # The penalty has the curvature weight |normal|^2.
        return Variant(one, 1.0, 1 / (1 + 2 * weight))

    heavily = weighted(1000.0)
    return Kind(
        "a quadratic f, y below a line that x moves",
        *(heavily.problem, heavily.lower_step, min(end.fun for end in ends), least),
        lightly=weighted(10.0),
    )


def _network() -> Kind:
    """y: a network with 5 hidden tanh units on 20 points; x: its log penalty."""
    rng = np.random.default_rng(0)

    def points(number: int) -> dict[str, np.ndarray]:
        inputs = rng.uniform(-2, 2, number)
        return {"a": inputs, "b": np.sin(3 * inputs) + 0.3 * rng.normal(size=number)}

    def loss(y: Tree, rows: Tree) -> Array:
        hidden = jnp.tanh(rows["a"][:, None] * y["in"][None] + y["offset"][None])
        return jnp.mean((hidden @ y["out"] - rows["b"]) ** 2)

    def f(x: Array, y: Tree, rows: Tree) -> Array:
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return loss(y, rows) + 0.5 * jnp.exp(x) * squares

    train, validation = points(20), points(20)
    start = {name: jnp.asarray(rng.normal(size=5)) for name in ("in", "offset", "out")}
    one = problem(
        f,
        lambda x, y, rows: loss(y, rows),
        upper_start=jnp.array(-4.0),
        lower_start=start,
        train=train,
        validation=validation,
        project=lambda x: jnp.clip(x, LEAST_LOG_PENALTY, MOST_LOG_PENALTY),
    )
    _, restored = ravel_pytree(start)
    both = jax.jit(jax.value_and_grad(lambda flat, x: f(x, restored(flat), train)))
    starts = rng.normal(size=(STARTS, 15)) * 2

    def lowest(x: Any, *others: np.ndarray) -> Any:
        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            at, slope = both(flat, x)
            return float(at), np.asarray(slope)

        ends = (minimize(value, s, jac=True, method="L-BFGS-B") for s in (*starts, *others))
        return min(ends, key=lambda end: end.fun)

    def h(x: float) -> float:
        return float(loss(restored(lowest(x).x), validation))

    return Kind(
        "the weight decay x of a small network",
        one,
        0.1,
        min(h(x) for x in np.linspace(LEAST_LOG_PENALTY, MOST_LOG_PENALTY, GRID)),
        lambda x, y: float(lowest(x, np.asarray(ravel_pytree(y)[0])).fun),
    )


MAKERS: dict[str, Callable[[], Kind]] = {
    "quadratics": _quadratic,
    "least squares": partial(
        _linear_model,
        "a penalty for each of 10 features (diabetes)",
        "diabetes",
        "per_feature",
        1.0,
    ),
    "logistic regression": partial(
        _linear_model, "one penalty (breast cancer)", "breast_cancer", "scalar", 0.25
    ),
    "min-max": _min_max,
    "linear program": _linear_program,
    "constraint": _constrained,
    "several solutions": lambda: _with_closed_forms(
        "BDA's counter-example", Problem(*counterexample()), 0.5
    ),
    "sine toy": lambda: _with_closed_forms(
        "BVFSM's toy: a lower minimum in each period", Problem(*bvfsm_sine()), 0.2
    ),
    "box toy": _box_toy,
    "one-minimum toy": lambda: _with_closed_forms(
        "PBGD's toy: f is not convex, y* = -x", Problem(*pbgd_toy()), 0.1
    ),
    "network": _network,
}


@cache
def kind(name: str) -> Kind:
    """The problem of this kind. To be called with 64 bits."""
    return MAKERS[name]()
