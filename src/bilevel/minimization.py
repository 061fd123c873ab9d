"""`minimize`: hypergradient descent from the first x to the last, and iteration by iteration."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel import problem_checks as check
from bilevel.algorithm import AlgorithmState
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.averaging import scored
from bilevel.columns import COLUMNS, OF_LEVELS
from bilevel.constraints import unmet
from bilevel.dynamics import for_testing
from bilevel.estimate import suited_lower_problem
from bilevel.estimator import Limit
from bilevel.finiteness import not_finite_at_start, runaway, steep
from bilevel.long_steps import too_long
from bilevel.methods import Method
from bilevel.own_problem import Problem
from bilevel.score_keys import score_keys
from bilevel.shapes import one_task
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, Metrics, Tree


class Minimizer(NamedTuple):
    """For loops of one's own; all functions are pure and may be compiled.

    init(key) -> state
    step(state, key) -> state, metrics      one iteration; its own key
                                            a key of another implementation than jax's
                                            default gives one of the default
    score(state, key, split) -> scores      at y_K; split "validation", or "test" if there is one;
                                            (else ValueError); the same key scores the same
                                            tasks
    x(state) -> x,  y(state, key) -> y_K    of the first task that `score` would take
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
    seed: int = 0,
    meta_batch_size: int = 1,
    num_scored_tasks: int = 100,
) -> Minimizer:
    """`minimize`, iteration by iteration.

    seed: decides what a problem leaves to it, such as which labels are wrong. meta_batch_size:
    tasks per iteration, num_scored_tasks: tasks per score; a problem with one fixed task has but
    that one. New tasks are scored as when the method is used: the lower steps descend f alone.

    Raises ValueError where the method does not suit the problem.
    """
    check.kind("optimizer", optimizer, optax.GradientTransformation, "optax.adam(0.01)")
    meta_batch_size = check.whole_number("meta_batch_size", meta_batch_size)
    num_scored_tasks = check.whole_number("num_scored_tasks", num_scored_tasks)
    lower, source = suited_lower_problem(problem, method), problem.source
    data = source.seeded(source.data, jax.random.key(seed))
    unseen = method._replace(aggregation=for_testing(method.aggregation)).dynamics(lower.problem)
    if source.persistent and meta_batch_size != 1:
        raise ValueError(
            f"meta_batch_size={meta_batch_size}: this problem is one fixed task; choose 1"
        )
    algorithm = hypergradient_descent(
        lower.problem,
        lower.dynamics,
        method.hypergradient,
        optimizer,
        num_lower_steps=lower.num_steps,
        persistent=source.persistent,
        meta_batch_size=meta_batch_size,
        lower_start=method.lower_start,
        test_dynamics=None if source.persistent else unseen,
        task_shapes=lower.task,
    )

    def init(key: Array) -> AlgorithmState:
        return algorithm.init(check.usable_key("key", key))

    def step(state: AlgorithmState, key: Array) -> tuple[AlgorithmState, Metrics]:
        task_key, step_key = jax.random.split(check.usable_key("key", key))
        tasks = source.sample(data, task_key, "train", meta_batch_size)
        return algorithm.step(state, step_key, tasks)

    def x_of(state: AlgorithmState) -> Tree:
        return scored(state).variables["problem"]

    def solved(answer: AlgorithmState, key: Array, split: str) -> tuple[Tree, Tree]:
        """A task, and its y_K, at a state as it is scored."""
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, data, task_key, split)
        return task, algorithm.adapt(answer, adapt_key, task, lower.num_steps)

    def keys_of(key: Array, split: str) -> Array:
        number = 1 if source.persistent else num_scored_tasks
        key = check.usable_key("key", key)
        return score_keys(key, split, number, source.persistent)

    splits = ("validation", *(("test",) if source.has_test else ()))

    def score(state: AlgorithmState, key: Array, split: str) -> Metrics:
        if split not in splits:
            known = " or ".join(map(repr, splits))
            why = "" if split != "test" else ": this problem has no data that are held out"
            raise ValueError(f"split={split!r} is not known{why}; choose {known}")
        answer = scored(state)
        x = answer.variables["problem"]

        def of_task(key: Array) -> Metrics:
            task, y = solved(answer, key, split)
            return dict(lower.problem.evaluate(x, lower.problem.prepare(x, task), task, y))

        return jax.tree.map(jnp.mean, lax.map(of_task, keys_of(key, split)))

    def lower_solution(state: AlgorithmState, key: Array) -> Tree:
        return solved(scored(state), keys_of(key, "validation")[0], "train")[1]

    return Minimizer(init, step, score, x_of, lower_solution)


class Minimized(NamedTuple):
    """What `minimize` returns.

    x            the last upper variable, or its running mean (average=... of `upper_optimizers`)
    y            y_K(x), of one task
    upper_loss   F(x, y_K(x))
    scores       {"validation/upper_loss": ..., "test/upper_loss": ..., ...} of x; those of
                 a test only where the problem has test data
    history      {metric: (num_iterations,)}, of every iteration; never of a mean
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

    optimizer: an optax transformation of gradients alone. It sees all that is learned, as
    {"problem": x, "aggregation": {...}, "lower_optimizer": {...}}: labels of optax.multi_transform
    and masks have this form, and optax.adamw shrinks a learned alpha and step size, too. What needs
    values of F does not fit (lbfgs, polyak_sgd, reduce_on_plateau: `value_function` is for such),
    nor does optax.MultiSteps. The result is a function of the arguments: the same seed gives the
    same numbers.

    Warns where lower steps are too long for the constraints of the lower level, where the first
    hypergradient is exactly zero, where a metric of F is no finite number, and where constraints of
    the lower level are clearly not met at the end. Raises FloatingPointError where a number leaves
    the finite or a limit of the estimator is passed, with the iteration and a remedy, and with
    `history` and the last `state` as attributes; and ValueError where the method does not suit the
    problem.
    """
    num_iterations = check.whole_number("num_iterations", num_iterations)
    seed = check.whole_number("seed", seed, least=0)
    solver = minimizer(
        problem,
        method,
        optimizer,
        seed=seed,
        meta_batch_size=meta_batch_size,
        num_scored_tasks=num_scored_tasks,
    )
    too_long_steps = too_long(problem.problem, problem.source, method, seed)
    if too_long_steps:
        warnings.warn(too_long_steps, stacklevel=2)

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
    failure = _failure(history, method.hypergradient.limits, method.lower_optimizer.rescales)
    if failure is not None:
        cause = not_finite_at_start(problem.problem, problem.source, seed)
        what, why = failure
        error = FloatingPointError(f"{what}: {why if cause is None else cause}")
        vars(error).update(history=history, state=state)
        raise error
    for message in _metrics_without_number(history):
        warnings.warn(message, stacklevel=2)
    # Where lower variables are followed, what x answers to begins to move first.
    if history["hypergradient_norm"][0] == 0 and not method.hypergradient.follows:
        warnings.warn(
            f"the hypergradient by {method.name} is exactly zero in the first iteration: x may "
            "never move; try another start of x or y, or another method",
            stacklevel=2,
        )
    splits = ["validation", *(["test"] if problem.source.has_test else [])]
    score = jax.jit(solver.score, static_argnames="split")
    scores = {
        f"{split}/{name}": float(value)
        for split in splits
        for name, value in score(state, key, split=split).items()
    }
    penalised = problem.problem.penalised
    far = penalised and unmet(scores["validation/lower_violation"], penalised.weight)
    if far:
        warnings.warn(far, stacklevel=2)
    x = solver.x(state)
    return Minimized(
        x,
        jax.jit(solver.y)(state, key),
        scores["validation/upper_loss"],
        scores,
        history,
        {name: value for name, value in scored(state).variables.items() if name != "problem"},
        state,
    )


def _failure(
    history: Mapping[str, np.ndarray], limits: Mapping[str, Limit], rescales: bool
) -> tuple[str, str] | None:
    """What went wrong at the first iteration with a number that is none, or too large; and why."""
    ordered = OF_LEVELS
    others = (name for name in history if name in COLUMNS or name in limits)
    names = [*ordered, *(name for name in others if name not in ordered)]
    bad = {name: np.flatnonzero(~np.isfinite(history[name])) for name in names}
    over = {name: np.flatnonzero(~(history[name] <= limits[name].bound)) for name in limits}

    def first_of(found: Iterable[np.ndarray]) -> float:
        return min((rows[0] for rows in found if rows.size), default=math.inf)

    # What is no number in the lower level is the cause of the rest; else a limit says most.
    lower_level = first_of(bad[name] for name in ordered[:3])
    for found in (bad, over) if lower_level <= first_of(over.values()) else (over, bad):
        first = first_of(found.values())
        for name, rows in found.items():
            if not rows.size or rows[0] != first:
                continue
            why = "smaller steps, below or above, are the usual remedy"
            why += steep(name, rescales)
            why += runaway(limits, {key: column[int(first)] for key, column in history.items()})
            if found is over:
                why = f"{limits[name].meaning}. {limits[name].remedy}"
            return f"{name} became {history[name][rows[0]]:.3g} at iteration {first + 1}", why
    return None


def _metrics_without_number(history: Mapping[str, np.ndarray]) -> Iterable[str]:
    """What to say of metrics of F that are no finite numbers: x does not depend on them."""
    for name, column in history.items():
        bad = np.flatnonzero(~np.isfinite(column))
        if name not in COLUMNS and bad.size:
            yield (
                f"F's metric {name} became {column[bad[0]]:.3g} at iteration {bad[0] + 1}, in "
                f"{bad.size} of {column.size} iterations; x does not depend on it and went on"
            )
