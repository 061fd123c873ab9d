"""Three functions that cover most needs: `hypergradient`, `value_function` and `minimize`."""

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel import problem_checks as check
from bilevel.algorithm import Algorithm, AlgorithmState
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.estimator import Limit
from bilevel.lower_level import LowerProblem, Point
from bilevel.methods import Method
from bilevel.own_problem import Problem
from bilevel.proximal import proximal
from bilevel.refusals import refuse
from bilevel.shapes import one_task, shapes_of
from bilevel.types import Array, DynamicsParams, Metrics, Tree


class Found(NamedTuple):
    """What `hypergradient` returns.

    value               F(x, y_K)
    gradient            the estimate of d F(x, y*(x)) / dx, of the structure of x
    y                   y_K
    metrics             scores of F at y_K
    diagnostics         of the estimate itself, such as linear_residual
    dynamics_gradient   the estimate for what is learned of the lower step (alpha, step size)
    """

    value: Array
    gradient: Tree
    y: Tree
    metrics: Metrics
    diagnostics: Metrics
    dynamics_gradient: DynamicsParams


def hypergradient(
    problem: Problem,
    method: Method,
    x: Tree,
    *,
    y0: Tree = None,
    key: Array | None = None,
) -> Found:
    """An estimate of d F(x, y*(x)) / dx by a method, at x: a pure function for jit, vmap and grad.

    y0: where the lower level starts; None for the problem's own start. key: draws a start, a task
    or mini-batches where the problem has such; None: jax.random.key(0).

    Raises TypeError or ValueError, before compiling, where x does not fit the problem or the method
    does not suit it.
    """
    lower = _lower(problem, method)
    x = check.strong(x)
    check.floats("x", x)
    bilevel_problem, source = lower.problem, problem.source
    check.same_form("x", x, "upper_start", jax.eval_shape(bilevel_problem.init_upper, _key()))
    key = jax.random.key(0) if key is None else key
    task_key, start_key, own_key = jax.random.split(key, 3)
    task = one_task(source, source.seeded(source.data, key), task_key, "train")
    context, pull_context = jax.vjp(lambda x: bilevel_problem.prepare(x, task), x)
    start, pull_start = jax.vjp(lambda x: bilevel_problem.init_lower(start_key, x), x)
    if y0 is not None:
        start = jax.tree.map(jnp.asarray, check_start(y0, start))
    params = lower.dynamics.init_params(lower.num_steps, start)
    bound, estimator = lower._replace(task=task), method.hypergradient
    point = Point(context, params, start)
    output = estimator.estimate(bound, point, estimator.init(bound, start), own_key)
    gradient = pull_context(output.gradient.context)[0]
    if y0 is None:
        through_start = pull_start(output.gradient.y0)[0]
        gradient = jax.tree.map(jnp.add, gradient, through_start)
    return Found(
        output.value,
        gradient,
        output.y,
        output.metrics,
        output.diagnostics,
        output.gradient.dynamics_params,
    )


def check_start(y0: Tree, like: Tree) -> Tree:
    """y0 itself. Raises where it is not of the form of the problem's own start."""
    check.same_form("y0", y0, "lower_start", like)
    return y0


def value_function(
    problem: Problem, method: Method, *, key: Array | None = None
) -> Callable[[Tree], Array]:
    """phi(x) = F(x, y_K(x)), whose jax.grad is the method's hypergradient.

    For optimizers that want a function: optax, scipy, jaxopt. `key` as in `hypergradient`.
    """

    @jax.custom_vjp
    def phi(x: Tree) -> Array:
        return hypergradient(problem, method, x, key=key).value

    def forwards(x: Tree) -> tuple[Array, Tree]:
        found = hypergradient(problem, method, x, key=key)
        return found.value, found.gradient

    def backwards(gradient: Tree, cotangent: Array) -> tuple[Tree]:
        return (jax.tree.map(lambda leaf: cotangent * leaf, gradient),)

    phi.defvjp(forwards, backwards)
    return phi


class Minimizer(NamedTuple):
    """init(key) -> state; step(state, key) -> state, metrics; for loops of one's own.

    score(state, key, split) -> scores at y_K, split "validation" or "test"; x(state) -> x.
    All are pure and may be compiled.
    """

    init: Callable[[Array], AlgorithmState]
    step: Callable[[AlgorithmState, Array], tuple[AlgorithmState, Metrics]]
    score: Callable[[AlgorithmState, Array, str], Metrics]
    x: Callable[[AlgorithmState], Tree]
    y: Callable[[AlgorithmState, Array], Tree]


def minimizer(
    problem: Problem,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    meta_batch_size: int = 1,
    num_scored_tasks: int = 100,
) -> Minimizer:
    """`minimize`, iteration by iteration.

    meta_batch_size: tasks per iteration, num_scored_tasks: tasks per score; a problem with one
    fixed task has but that one. Raises ValueError where the method does not suit the problem.
    """
    lower, source = _lower(problem, method), problem.source
    if source.persistent and meta_batch_size != 1:
        raise ValueError(
            f"meta_batch_size={meta_batch_size}: this problem is one fixed task; choose 1"
        )
    algorithm: Algorithm = hypergradient_descent(
        lower.problem,
        lower.dynamics,
        method.hypergradient,
        optimizer,
        num_lower_steps=lower.num_steps,
        persistent=source.persistent,
        meta_batch_size=meta_batch_size,
        lower_start=method.lower_start,
    )

    def step(state: AlgorithmState, key: Array) -> tuple[AlgorithmState, Metrics]:
        task_key, step_key = jax.random.split(key)
        tasks = source.sample(source.data, task_key, "train", meta_batch_size)
        return algorithm.step(state, step_key, tasks)

    def scores_of(state: AlgorithmState, split: str, key: Array) -> Metrics:
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, source.data, task_key, split)
        x = state.variables["problem"]
        y = algorithm.adapt(state, adapt_key, task, lower.num_steps)
        return lower.problem.evaluate(x, lower.problem.prepare(x, task), task, y)

    def score(state: AlgorithmState, key: Array, split: str) -> Metrics:
        number = 1 if source.persistent else num_scored_tasks
        keys = jax.random.split(key, number)
        each = lax.map(partial(scores_of, state, split), keys)
        return jax.tree.map(jnp.mean, dict(each))

    def lower_solution(state: AlgorithmState, key: Array) -> Tree:
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, source.data, task_key, "train")
        return algorithm.adapt(state, adapt_key, task, lower.num_steps)

    return Minimizer(
        algorithm.init, step, score, lambda state: state.variables["problem"], lower_solution
    )


class Minimized(NamedTuple):
    """What `minimize` returns.

    x            the last upper variable
    y            y_K(x), of one task
    upper_loss   F(x, y_K(x))
    scores       {"validation/upper_loss": ..., "test/upper_loss": ..., ...} of the last x; those of
                 a test only where the problem has test data
    history      {metric: (num_iterations,)}, of every iteration
    learned      what was learned of the lower step (alpha, s, t, step size)
    state        to go on from, with `minimizer`
    """

    x: Tree
    y: Tree
    upper_loss: float
    scores: Mapping[str, float]
    history: Mapping[str, np.ndarray]
    learned: DynamicsParams
    state: AlgorithmState


def minimize(
    problem: Problem,
    method: Method,
    *,
    optimizer: optax.GradientTransformation,
    num_iterations: int,
    seed: int = 0,
    meta_batch_size: int = 1,
    num_scored_tasks: int = 100,
) -> Minimized:
    """min over x of F(x, y*(x)) by hypergradient descent.

    optimizer: any optax transformation, for x and all else that is learned. The result is a
    function of the arguments: the same seed gives the same numbers.

    Warns where the first hypergradient is exactly zero. Raises FloatingPointError where a number
    leaves the finite or a limit of the estimator is passed, with the iteration and a remedy, and
    ValueError where the method does not suit the problem.
    """
    if num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations} must be at least 1")
    solver = minimizer(
        problem,
        method,
        optimizer,
        meta_batch_size=meta_batch_size,
        num_scored_tasks=num_scored_tasks,
    )

    @jax.jit
    def run(key: Array) -> tuple[AlgorithmState, Metrics]:
        def body(state: AlgorithmState, n: Array) -> tuple[AlgorithmState, Metrics]:
            return solver.step(state, jax.random.fold_in(key, n))

        # As a run of `python -m src.train` of the same seed.
        first = solver.init(jax.random.fold_in(key, 2**31 - 3))
        return lax.scan(body, check.strong(first), jnp.arange(num_iterations))

    key = jax.random.key(seed)
    state, columns = run(key)
    history = {name: np.asarray(column) for name, column in columns.items()}
    _refuse_failure(history, method.hypergradient.limits)
    if history["hypergradient_norm"][0] == 0:
        warnings.warn(
            f"the hypergradient by {method.name} is exactly zero in the first iteration: x may "
            "never move; try another start of x or y, or another method",
            stacklevel=2,
        )
    splits = ["validation", *(["test"] if problem.source.has_test else [])]
    score = jax.jit(solver.score, static_argnums=2)
    score_key = jax.random.fold_in(key, 2**31 - 1)
    scores = {
        f"{split}/{name}": float(value)
        for split in splits
        for name, value in score(state, score_key, split).items()
    }
    x = solver.x(state)
    return Minimized(
        x,
        jax.jit(solver.y)(state, score_key),
        scores["validation/upper_loss"],
        scores,
        history,
        {name: value for name, value in state.variables.items() if name != "problem"},
        state,
    )


def _lower(problem: Problem, method: Method) -> LowerProblem:
    """The lower level by this method. Raises ValueError where the two do not suit each other."""
    bilevel_problem, source = problem.problem, problem.source
    if method.proximal_weight:
        bilevel_problem = proximal(bilevel_problem, method.proximal_weight)
    if method.lower_start == "warm" and (not source.persistent or bilevel_problem.learned_start):
        raise ValueError(
            "lower_start=warm: y0 is the last y_K, which needs one fixed task and a start that is "
            "not learned; choose lower_start=fixed"
        )
    lower = LowerProblem(
        bilevel_problem, method.dynamics, method.num_lower_steps, source.persistent
    )
    refuse(method.hypergradient, lower, shapes_of(bilevel_problem, source, "train"))
    return lower


def _refuse_failure(history: Mapping[str, np.ndarray], limits: Mapping[str, Limit]) -> None:
    """Raises FloatingPointError at the first iteration with a number that is none, or too large."""
    ordered = ("lower_loss", "stationarity_norm", "upper_loss", "hypergradient_norm")
    names = [*ordered, *(name for name in history if name not in ordered)]
    bad = {name: np.flatnonzero(~np.isfinite(history[name])) for name in names}
    over = {name: np.flatnonzero(history[name] > limit.bound) for name, limit in limits.items()}
    for iterations in (bad, over):
        first = min((rows[0] for rows in iterations.values() if rows.size), default=math.inf)
        for name, rows in iterations.items():
            if not rows.size or rows[0] != first:
                continue
            value, limit = history[name][rows[0]], limits.get(name)
            why = "smaller steps, below or above, are the usual remedy"
            if iterations is over and limit is not None:
                why = f"{limit.meaning}. {limit.remedy}"
            raise FloatingPointError(f"{name} became {value:.3g} at iteration {first + 1}: {why}")


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
