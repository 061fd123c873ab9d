"""A user's own problem from two objectives and two starting points."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bilevel.mini_batches import with_keys
from bilevel.problem_checks import summary
from bilevel.types import Array, BilevelProblem, Exact, Metrics, TaskSource, Tree

TwoArguments = Callable[[Tree, Tree, Tree], Array]


def problem_from_objectives(
    lower: TwoArguments,
    upper: TwoArguments,
    init_upper: Callable[[Array], Tree],
    init_lower: Callable[[Array], Tree],
    *,
    evaluate: Callable[[Tree, Tree, Tree], Metrics] | None = None,
    formulas: Mapping[str, str] | None = None,
    exact: Exact | None = None,
) -> BilevelProblem:
    """The problem min_x F(x, y*(x)), y*(x) in argmin_y f(x, y), context = x.

    lower(x, y, task) -> f and upper(x, y, task) -> F are scalars; init_upper(key) -> x and
    init_lower(key) -> y0 are pytrees of floats. `evaluate(x, y, task)` gives scalar metrics beside
    upper_loss and lower_loss, which are always reported.
    """

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        return lower(context, y, task)

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        return upper(context, y, task), {}

    def report(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del context
        extra = evaluate(x, y, task) if evaluate else {}
        return {"upper_loss": upper(x, y, task), "lower_loss": lower(x, y, task), **extra}

    return BilevelProblem(
        init_upper=lambda key: jax.tree.map(jnp.asarray, init_upper(key)),
        prepare=lambda x, task: x,
        init_lower=lambda key, x: jax.tree.map(jnp.asarray, init_lower(key)),
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=report,
        formulas=formulas or {"f": summary(lower), "F": summary(upper)},
        exact=exact or Exact(),
    )


def persistent_source(
    task: Tree, held_out: Mapping[str, Any] | None = None, batches: bool = False
) -> TaskSource:
    """One fixed task; `held_out[split]` joins it under "held_out" (scored by `evaluate`).

    Without held_out["test"] nothing is called a test. `batches`: the task also gets a key for the
    mini-batches of an iteration (mini_batches.py).
    """

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        task, held_out = data
        one = {**task, "held_out": held_out[split]} if held_out else task
        tasks = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), one)
        return with_keys(tasks, key, n) if batches else tasks

    data = jax.tree.map(jnp.asarray, (task, held_out))
    has_test = held_out is not None and "test" in held_out
    return TaskSource(data=data, sample=sample, persistent=True, has_test=has_test)
