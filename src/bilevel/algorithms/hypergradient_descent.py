"""Hypergradient descent: the algorithm behind every method that estimates d F(x, y_K(x)) / dx.

One iteration on a meta-batch of n tasks:

    context_i = prepare(x, task_i)                         once, one pass over the images
    g_i       = hypergradient(context_i, task_i, ...)      vmap over tasks
    x         = optimizer(x, pull-back of the mean g_i)    project learned scalars to their bounds

The pull-backs of `prepare` and of `init_lower` are taken outside the vmap over tasks: inside,
shared convolution weights would get one gradient per task before the mean.

The meta-batch may be walked in groups of `tasks_at_once` whose gradients are summed: the memory is
that of one group, and on a CPU one task at a time stays in the cache, which is over twice as fast.
It may also be shared out over devices, each of which walks its own tasks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithm import Algorithm, AlgorithmState
from bilevel.averaging import first_start, last_of, next_start
from bilevel.batching import Shares, batched
from bilevel.estimator import Hypergradient, in_types_of
from bilevel.lower_level import LowerDynamics, LowerProblem, Point, trajectory
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, BilevelProblem, Metrics, Tree

LowerStart = Literal["fixed", "redrawn", "warm"]


class Group(NamedTuple):
    """Some tasks of the meta-batch with what belongs to each; leading axis: tasks."""

    tasks: Tree
    carry: Tree
    start: Tree
    keys: Array


class Outcome(NamedTuple):
    """What each task of a group reports; leading axis: tasks."""

    metrics: Metrics
    diagnostics: Metrics
    y: Tree
    carry: Tree


def hypergradient_descent(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    hypergradient: Hypergradient,
    upper_optimizer: optax.GradientTransformation,
    *,
    num_lower_steps: int,
    persistent: bool,
    meta_batch_size: int = 1,
    tasks_at_once: int | None = None,
    lower_start: LowerStart = "fixed",
    test_dynamics: LowerDynamics | None = None,
    shares: Shares | None = None,
    task_shapes: Tree = (),
) -> Algorithm:
    """Compose the choices and an upper optimizer into an `Algorithm`.

    persistent: the task is the same in every iteration. lower_start: y0 from one key (fixed), from
    a new key each iteration (redrawn), or the y_K of the iteration before (warm; only for a
    persistent task). `tasks_at_once` divides what a device has of meta_batch_size; None: all of it.
    `test_dynamics` is what `adapt` runs (the same learned parameters, another aggregation); None:
    `dynamics`. shares: devices over which the tasks are shared out; then `step` runs inside
    `jax.shard_map`, and its arguments and results are the same on each device. task_shapes: of one
    task, for estimators that remember what rows of it gave.
    """
    lower = LowerProblem(problem, dynamics, num_lower_steps, persistent)
    own_tasks = meta_batch_size // (shares.number if shares else 1)
    tasks_at_once = own_tasks if tasks_at_once is None else tasks_at_once
    # What is reported of all rows would cost far more than a step that sees a few of them.
    sees_rows = hypergradient.on_rows and problem.mini_batch is not None
    # A fixed start is shared by all tasks (axis None): its gradient is averaged before pull-back.
    start_axis = None if lower_start == "fixed" else 0

    def draw_start(fixed_key: Array, keys: Array, x: Tree) -> Tree:
        if lower_start == "fixed":
            return problem.init_lower(fixed_key, x)
        return batched(problem.init_lower, keys.shape[0], (0, None))(keys, x)

    def init(key: Array) -> AlgorithmState:
        x_key, start_key = jax.random.split(key)
        x = problem.init_upper(x_key)
        y0 = problem.init_lower(start_key, x)
        variables = {"problem": x, **dynamics.init_params(num_lower_steps, y0)}
        warm = draw_start(start_key, jax.random.split(start_key, meta_batch_size), x)
        upper_state = upper_optimizer.init(variables)
        own = first_start(upper_state, warm)
        start = {"fixed": start_key, "redrawn": (), "warm": own}[lower_start]
        of_shapes = lower._replace(task=task_shapes)
        # What the estimator has beside y starts where y does: each task's at its own start.
        starts, axis = (warm, 0) if lower_start == "warm" else (y0, None)
        begin = partial(hypergradient.init, of_shapes)
        carry = jax.vmap(begin, axis, axis_size=meta_batch_size)(starts)
        return jax.tree.map(_copied, AlgorithmState(variables, upper_state, carry, start))

    def diagnostics(context: Tree, task: Tree, y: Tree) -> Metrics:
        if sees_rows:
            context, task = problem.rows(context, task, num_lower_steps + 1)
        return lower_diagnostics(lower, context, task, y)

    def of_group(
        x: Tree, dynamics_params: DynamicsParams, y0_key: Array, group: Group
    ) -> tuple[Tree, Outcome]:
        """The summed gradient of some tasks, and what each of them reports (leading axis)."""
        size = group.keys.shape[0]
        start_keys, own_keys = jax.vmap(jax.random.split, out_axes=1)(group.keys)
        prepare = batched(problem.prepare, size, (None, 0))
        context, pull_context = jax.vjp(lambda x: prepare(x, group.tasks), x)
        if lower_start == "warm":
            y0, pull_start = group.start, lambda _: (jax.tree.map(jnp.zeros_like, x),)
        else:
            y0, pull_start = jax.vjp(lambda x: draw_start(y0_key, start_keys, x), x)

        def estimate(carry: Tree, context: Tree, task: Tree, y0: Tree, key: Array):
            point = Point(context, dynamics_params, y0)
            output = hypergradient.estimate(lower._replace(task=task), point, carry, key)
            return in_types_of(point, output)

        output = batched(estimate, size, (0, 0, 0, start_axis, 0))(
            group.carry, context, group.tasks, y0, own_keys
        )
        of_start = output.gradient.y0
        x_gradient = jax.tree.map(
            jnp.add,
            *pull_context(output.gradient.context),
            *pull_start(_sum(of_start) if start_axis is None else of_start),
        )
        metrics = {
            **batched(diagnostics, size, (0, 0, 0))(context, group.tasks, output.y),
            "upper_loss": output.value,
            **_named(output.metrics, dynamics),
        }
        gradient = {"problem": x_gradient, **_sum(output.gradient.dynamics_params)}
        return gradient, Outcome(metrics, output.diagnostics, output.y, output.carry)

    def step(state: AlgorithmState, key: Array, tasks: Tree) -> tuple[AlgorithmState, Metrics]:
        x, dynamics_params = _split(state.variables)
        keys = jax.random.split(key, meta_batch_size)
        warm = last_of(state.start) if lower_start == "warm" else ()
        everything = Group(tasks, state.carry, warm, keys)
        # state.start is a fixed start's key; the other starts read their group's own.
        gradient_of = partial(of_group, x, dynamics_params, state.start)
        mine = shares.own(everything) if shares else everything
        if tasks_at_once == own_tasks:
            total, outcome = gradient_of(mine)
        else:
            zeros = jax.tree.map(jnp.zeros_like, state.variables)
            total, outcome = _accumulate(gradient_of, mine, tasks_at_once, zeros)
        if shares:
            total, outcome = shares.total(total), shares.together(outcome)
        gradient = jax.tree.map(lambda leaf: leaf / meta_batch_size, total)

        updates, upper_state = upper_optimizer.update(gradient, state.upper_state, state.variables)
        moved: Any = optax.apply_updates(state.variables, updates)
        moved_x, moved_params = _split(moved)
        variables = {"problem": problem.project_upper(moved_x), **dynamics.project(moved_params)}

        metrics = {
            **jax.tree.map(jnp.mean, dict(outcome.metrics)),
            **jax.tree.map(jnp.max, dict(outcome.diagnostics)),
            **(
                {}
                if sees_rows
                else _against_exact(problem, x, tasks, meta_batch_size, gradient["problem"])
            ),
            "hypergradient_norm": optax.tree.norm(gradient),
            **_learned_scalars(variables),
        }
        start = state.start
        if lower_start == "warm":
            start = next_start(upper_state, state.start, outcome.y)
        return AlgorithmState(variables, upper_state, outcome.carry, start), metrics

    def adapt(
        state: AlgorithmState,
        key: Array,
        task: Tree,
        num_steps: int,
        observe: Callable[[Tree], Tree] | None = None,
    ) -> Tree:
        x, dynamics_params = _split(state.variables)
        if lower_start == "warm":
            y0 = jax.tree.map(lambda leaf: leaf[0], last_of(state.start))
        else:
            y0 = problem.init_lower(state.start if lower_start == "fixed" else key, x)
        point = Point(problem.prepare(x, task), dynamics_params, y0)
        tested = LowerProblem(problem, test_dynamics or dynamics, num_steps, persistent, task)
        if sees_rows:
            # Else the last step before a score would bring back the noise that the rest removed.
            tested = tested.on_all_rows()
        if observe is not None:
            return trajectory(tested.at(point), y0, num_steps, observe)
        return hypergradient.solution(tested, point, tested.solve(point))

    return Algorithm(init=init, step=step, adapt=adapt)


def _copied(leaf: Any) -> Any:
    """A buffer of its own: where a step is compiled to reuse its state, each leaf is given once."""
    return jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf


def lower_diagnostics(lower: LowerProblem, context: Tree, task: Tree, y: Tree) -> Metrics:
    """f(x, y_K), and the norm of grad_y f (or y - P(y - grad_y f)): how far from a solution."""
    value, gradient = jax.value_and_grad(lower.problem.lower_objective, argnums=2)(context, task, y)
    distance = optax.tree.norm(lower.residual(gradient, y))
    return {"lower_loss": value, "stationarity_norm": distance}


def _against_exact(
    problem: BilevelProblem, x: Tree, tasks: Tree, num_tasks: int, gradient: Tree
) -> Metrics:
    """|g - g*| / |g*| where the problem knows its hypergradient g*."""
    exact = problem.exact.hypergradient
    if exact is None:
        return {}
    each = jax.vmap(exact, (None, 0), axis_size=num_tasks)(x, tasks)
    truth = jax.tree.map(lambda leaf: leaf.mean(axis=0), each)
    size = optax.tree.norm(truth)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, gradient, truth))
    return {"hypergradient_error": error / jnp.where(size > 0, size, 1)}


def _split(variables: dict[str, Tree]) -> tuple[Tree, DynamicsParams]:
    """x, and the parameters of the lower dynamics."""
    return variables["problem"], {k: v for k, v in variables.items() if k != "problem"}


def _accumulate(
    of_group: Callable[[Group], tuple[Tree, Outcome]], everything: Group, size: int, zeros: Tree
) -> tuple[Tree, Outcome]:
    """Walk the tasks in groups of `size`: gradients summed, outcomes put back side by side."""
    groups = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), everything)

    def body(total: Tree, group: Group) -> tuple[Tree, Outcome]:
        gradient, outcome = of_group(group)
        return jax.tree.map(jnp.add, total, gradient), outcome

    total, outcomes = lax.scan(body, zeros, groups)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outcomes)
    return total, flat


def _named(metrics: Metrics, dynamics: LowerDynamics) -> Metrics:
    """Scores of F at y_K, marked where the lower steps have already descended F on that data."""
    suffix = "_labels_seen" if dynamics.sees_upper else ""
    return {f"{name}{suffix}": value for name, value in metrics.items()}


def _sum(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), tree)


def _learned_scalars(variables: dict[str, Tree]) -> Metrics:
    """Means of the learned alpha, s, t and step size, by their own names; x if it is one number."""
    learned = {**variables["aggregation"], **variables["lower_optimizer"]}
    if sum(leaf.size for leaf in jax.tree.leaves(variables["problem"])) == 1:
        learned["upper_variable"] = variables["problem"]
    return {
        name: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]).mean()
        for name, tree in learned.items()
    }
