"""`bilevel.problem`: a problem from two objectives, their starts and their data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel import problem_checks as check
from bilevel.constraints import Constraints, with_constraints
from bilevel.dependence import read_by
from bilevel.mini_batches import Sampling, in_mini_batches, with_keys
from bilevel.types import (
    Array,
    BilevelProblem,
    Exact,
    Metrics,
    Projection,
    TaskSource,
    Tree,
    unchanged,
)


class Problem(NamedTuple):
    """A bilevel problem and where its tasks come from: all that a solver needs."""

    problem: BilevelProblem
    source: TaskSource


def problem(
    f: Callable[..., Any],
    F: Callable[..., Any],
    *,
    upper_start: Any,
    lower_start: Any,
    task: Any = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    batch_size: int | None = None,
    sampling: Sampling = "rows",
    project: Projection = unchanged,
    project_lower: Projection | None = None,
    lower_constraints: Callable[..., Any] | None = None,
    upper_constraints: Callable[..., Any] | None = None,
    constraint_weight: float = 1000.0,
    exact: Exact | None = None,
) -> Problem:
    """min over x of F(x, y*(x)), y*(x) in argmin over y of f(x, y), from two functions.

        f(x, y), F(x, y)               without data
        f(x, y, task), F(x, y, task)   with `task`: a pytree of arrays, or a function task(key) that
                                       draws a new one for every iteration (meta-learning)
        f(x, y, rows), F(x, y, rows)   with `train` and `validation`: f sees rows of train, F those
                                       of validation; pytrees of arrays with the rows first

    f returns a scalar; F a scalar, or (scalar, {name: scalar}) with metrics for people.

    upper_start     x at first: a pytree of floats, or a function of a key
    lower_start     y0: the same, or a function (key, x) where the start is learned (MAML)
    test            rows on which F is evaluated at the end, or, beside a function `task`, a
                    function of a key; without it nothing is called a test
    batch_size      number of rows of f, and of F where the lower steps descend it too, for every
                    lower step; None: all rows
    sampling        which rows these are: any (rows), one of fixed blocks (blocks), or the blocks in
                    a random order, each once per epoch (epochs)
    project(x)      the nearest x inside its bounds, taken after each upper step
    project_lower(y)   the nearest y inside its bounds, taken after each lower step
                    A start outside the bounds is projected, with a warning; one that is a function
                    of a key without. Bounds that are equal freeze an entry, but leave it a part
                    of its derivative where it lies on them: leave such an entry out of x or y.
    lower_constraints, upper_constraints   g and G, with the arguments of f and F: arrays that are
                    at most 0 where y, or x and y, are feasible. constraint_weight / 2 times the sum
                    of the squared violations joins f or F (`bilevel.constraints` says how far that
                    is off); bounds of single entries are better off as projections
    exact           closed forms, if there are any (`bilevel.Exact`)

    Raises TypeError or ValueError, in one line, on data that are no arrays, on objectives that
    return anything else, and on starts that do not fit; nothing is compiled.
    """
    source = _source(task, train, validation, test, batch_size)
    num_rows = (0, 0)
    if batch_size is not None:
        batch_size = check.whole_number("batch_size", batch_size)
        num_rows = tuple(
            check.num_rows(part, source.data[part]) for part in ("train", "validation")
        )
    init_x = check.start("upper_start", upper_start)
    init_lower = check.start("lower_start", lower_start)
    key = jax.random.key(0)
    x = check.floats("x", check.traced("upper_start", lambda: init_x(key, ())))
    y = check.floats("y", check.traced("lower_start", init_lower, key, x))
    if project is not unchanged:
        check.projection("project", project, "x", x)
        init_x = check.inside("upper_start", upper_start, init_x, project)
    if project_lower is not None:
        check.projection("project_lower", project_lower, "y", y)
        init_lower = check.inside("lower_start", lower_start, init_lower, project_lower)
    one = jax.eval_shape(lambda data: source.sample(data, key, "train", 1), source.data)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), one)
    kind = "task" if "task" in one else "rows" if one else ""
    check.objective("f", f, (x, y, *_data(one, "train")), kind)
    check.objective("F", F, (x, y, *_data(one, "validation")), kind)

    check.positive("constraint_weight", constraint_weight)
    for name, limits, part in (
        ("lower_constraints", lower_constraints, "train"),
        ("upper_constraints", upper_constraints, "validation"),
    ):
        if limits is not None:
            check.constraints(name, limits, (x, y, *_data(one, part)), kind)

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        return jnp.asarray(f(context, y, *_data(task, "train")))

    def upper(x: Tree, task: Tree, y: Tree, part: str) -> tuple[Array, Metrics]:
        value = F(x, y, *_data(task, part))
        value, metrics = value if isinstance(value, tuple) else (value, {})
        return jnp.asarray(value), jax.tree.map(jnp.asarray, dict(metrics))

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        value, metrics = upper(x, task, y, "held_out")
        return {**metrics, "upper_loss": value, "lower_loss": lower_objective(context, task, y)}

    def on_task(of: Callable[..., Any] | None, part: str) -> Constraints | None:
        return None if of is None else lambda x, task, y: of(x, y, *_data(task, part))

    plain = BilevelProblem(
        init_upper=lambda key: init_x(key, ()),
        prepare=lambda x, task: x,
        init_lower=init_lower,
        lower_objective=lower_objective,
        upper_objective=lambda context, task, y: upper(context, task, y, "validation"),
        evaluate=evaluate,
        formulas={"f": check.summary(f), "F": check.summary(F)},
        exact=exact or Exact(),
        project_upper=project,
        project_lower=project_lower,
        learned_start=any(jax.tree.leaves(read_by(init_lower, key, x)[1])),
    )
    plain = in_mini_batches(plain, batch_size, *num_rows, sampling=sampling)
    g, G = on_task(lower_constraints, "train"), on_task(upper_constraints, "validation")
    return Problem(with_constraints(plain, g, G, constraint_weight), source)


def _data(task: Tree, part: str) -> tuple[Tree, ...]:
    """What f or F gets beside x and y: the task, the rows of a part, or nothing."""
    return tuple(task[name] for name in ("task", part) if name in task)[:1]


def _source(
    task: Any, train: Any, validation: Any, test: Any, batch_size: int | None
) -> TaskSource:
    """Where the data of `problem` come from. Raises on parts that do not go together."""
    rows = {"train": train, "validation": validation, "test": test}
    rows = {name: part for name, part in rows.items() if part is not None}
    if callable(task):
        if set(rows) - {"test"} or batch_size is not None:
            raise ValueError(
                "task is a function, so train, validation and batch_size have no meaning; let task "
                "draw what both f and F see"
            )
        return _stream(task, test)
    if task is not None:
        if rows or batch_size is not None:
            raise ValueError(
                f"task and {next(iter(rows), 'batch_size')} are given, but f sees either `task` or "
                "rows of `train`; choose one of the two"
            )
        return _persistent({"task": check.arrays("task", task)}, {}, batches=False)
    missing = [name for name in ("train", "validation") if name not in rows]
    if rows and missing:
        raise ValueError(
            f"{missing[0]} is missing beside {', '.join(rows)}: f sees rows of train and F those "
            "of validation; give both, or `task` where both see the same data"
        )
    if batch_size is not None and not rows:
        raise ValueError("batch_size is given, but no rows to take it from; give train=...")
    parts = {name: check.arrays(name, part) for name, part in rows.items()}
    if "test" in parts:
        check.same_columns("test", parts["test"], "validation", parts["validation"])
    return _persistent(
        {name: part for name, part in parts.items() if name != "test"},
        {name: part for name, part in parts.items() if name != "train"},
        batches=batch_size is not None,
    )


def _persistent(task: dict[str, Tree], held_out: dict[str, Tree], batches: bool) -> TaskSource:
    """One fixed task; of a test split "held_out" are the rows of test, else those of validation."""

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        one, scored = dict(data), data.get("test")
        one.pop("test", None)
        if held_out:
            one["held_out"] = scored if split == "test" else data["validation"]
        tasks = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), one)
        return with_keys(tasks, key, n) if batches else tasks

    return TaskSource({**task, **held_out}, sample, persistent=True, has_test="test" in held_out)


def _stream(draw: Callable[[Array], Tree], draw_test: Any) -> TaskSource:
    """A new task for every iteration, and for every score."""
    if draw_test is not None and not callable(draw_test):
        raise ValueError("task is a function of a key, so test must be one too")

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        del data
        chosen = draw_test if split == "test" and draw_test is not None else draw
        return {"task": jax.vmap(chosen)(jax.random.split(key, n))}

    for name, function in {"task": draw, "test": draw_test}.items():
        if function is not None and len(check.arguments_of(function)) != 1:
            raise TypeError(f"{name} must be a function of one argument, a random key")
    if not jax.tree.leaves(check.traced("task", draw, jax.random.key(0))):
        raise TypeError("task(key) returns no array; let it return what f and F see")
    return TaskSource({}, sample, persistent=False, has_test=draw_test is not None)
