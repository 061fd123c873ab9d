"""What is not finite before the first lower step: the cause that no smaller step would mend."""

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.shapes import one_task
from bilevel.types import Array, BilevelProblem, TaskSource, Tree


def not_finite_at_start(problem: BilevelProblem, source: TaskSource, seed: int) -> str | None:
    """The first of data, x, y0, f, grad f, F, grad F at the start that holds nan or inf.

    A clause for a message, with a remedy; None where all are finite. Computed for one task.
    """
    key = jax.random.key(seed)
    data_key, x_key, y_key = jax.random.split(key, 3)
    data = source.seeded(source.data, key)
    where = _where("data", data)
    if where:
        return f"{where}: correct or leave out these values"
    task = one_task(source, data, data_key, "train")
    x = problem.init_upper(x_key)
    y0 = problem.init_lower(y_key, x)
    context = problem.prepare(x, task)

    def f(y: Tree) -> Array:
        return problem.lower_objective(context, task, y)

    def F(y: Tree) -> Array:
        return problem.upper_objective(context, task, y)[0]

    start = "choose another start, or an objective that is finite and smooth there"
    steps = {
        "task": (lambda: task, "correct the data"),
        "x": (lambda: x, "choose another start of x"),
        "y0": (lambda: y0, "choose another start of y"),
        "what f and F see of x": (lambda: context, "choose another start of x"),
        "f(x, y0)": (lambda: f(y0), start),
        "grad f(x, y0)": (lambda: jax.grad(f)(y0), start),
        "F(x, y0)": (lambda: F(y0), start),
        "grad F(x, y0)": (lambda: jax.grad(F)(y0), start),
    }
    for name, (value, remedy) in steps.items():
        where = _where(name, value())
        if where:
            return f"{where}: {remedy}"
    return None


def runaway(limits: Collection[str], metrics: Mapping[str, float]) -> str:
    """What else may be the cause with a method that adds a penalty, and a remedy; "" with others.

    limits: what the estimator limits; metrics: of the iteration.
    """
    if "penalty_weight" not in limits:
        return ""
    weight = metrics["penalty_weight"]
    return (
        f". The penalty on the lower level has the weight {weight:.3g}: if F falls faster than it "
        "rises as y leaves the lower solutions, take a larger hypergradient.weight, or "
        "hypergradient=unrolled, whose y descends f alone"
    )


def steep(name: str, rescales: bool) -> str:
    """What else may be the cause where lower steps divide d by its own size; "" elsewhere.

    name: of the first number that is none.
    """
    if name != "hypergradient_norm" or not rescales:
        return ""
    return (
        ". The lower optimizer divides d by its own size, as Adam does: where d is 0, that has the "
        "derivative step_size / eps in each step; choose an eps near step_size times the curvature "
        "of f (lower_optimizer.eps=0.1), or sgd"
    )


def _where(name: str, tree: Tree) -> str | None:
    """Which leaf holds a value that is not finite, and which value."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        array = np.asarray(leaf)
        bad = array[~np.isfinite(array)]
        if bad.size:
            count = f" ({bad.size} of {array.size} numbers)" if array.size > 1 else ""
            return f"{name}{jax.tree_util.keystr(path)} is {bad[0]} before any step{count}"
    return None
