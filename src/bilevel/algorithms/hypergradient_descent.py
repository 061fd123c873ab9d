"""Hypergradient descent: the algorithm behind every method that estimates d F(x, y_K(x)) / dx.

One iteration on a meta-batch of n tasks:

    context_i = prepare(x, task_i)                         once, one pass over the images
    g_i       = hypergradient(context_i, task_i, ...)      vmap over tasks
    x         = optimizer(x, pull-back of the mean g_i)    project learned scalars to their bounds

The pull-backs of `prepare` and of `init_lower` are taken outside the vmap over tasks: inside,
shared convolution weights would get one gradient per task before the mean.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from src.bilevel.lower_solve import trajectory
from src.bilevel.types import (
    Algorithm,
    AlgorithmState,
    Array,
    BilevelProblem,
    Hypergradient,
    LowerDynamics,
    Metrics,
    Tree,
)

LowerStart = Literal["fixed", "redrawn", "warm"]


def hypergradient_descent(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    test_dynamics: LowerDynamics,
    hypergradient: Hypergradient,
    upper_optimizer: optax.GradientTransformation,
    *,
    num_lower_steps: int,
    meta_batch_size: int,
    lower_start: LowerStart = "fixed",
) -> Algorithm:
    """Compose the four choices and an upper optimizer into an `Algorithm`.

    `test_dynamics` is what `adapt` runs (the same learned parameters, another aggregation).
    lower_start: y0 from one key (fixed), from a new key each iteration (redrawn), or the y_K of
    the iteration before (warm; only for a persistent task).
    """
    # A fixed start is shared by all tasks (axis None): its gradient is averaged before pull-back.
    start_axis = None if lower_start == "fixed" else 0

    def draw_start(key: Array, x: Tree) -> Tree:
        if lower_start == "fixed":
            return problem.init_lower(key, x)
        keys = jax.random.split(key, meta_batch_size)
        return jax.vmap(problem.init_lower, (0, None))(keys, x)

    def init(key: Array) -> AlgorithmState:
        x_key, start_key = jax.random.split(key)
        x = problem.init_upper(x_key)
        y0 = problem.init_lower(start_key, x)
        variables = {"problem": x, **dynamics.init_params(num_lower_steps, y0)}
        start = {"fixed": start_key, "redrawn": (), "warm": draw_start(start_key, x)}[lower_start]
        carry = jax.vmap(lambda _: hypergradient.init(y0))(jnp.arange(meta_batch_size))
        return AlgorithmState(variables, upper_optimizer.init(variables), carry, start)

    def step(state: AlgorithmState, key: Array, tasks: Tree) -> tuple[AlgorithmState, Metrics]:
        x, params = _split(state.variables)
        start_key, estimate_key = jax.random.split(key)

        prepare = jax.vmap(problem.prepare, (None, 0), axis_size=meta_batch_size)
        context, pull_context = jax.vjp(lambda x: prepare(x, tasks), x)
        if lower_start == "warm":
            y0, pull_start = state.start, None
        else:
            y0_key = state.start if lower_start == "fixed" else start_key
            y0, pull_start = jax.vjp(lambda x: draw_start(y0_key, x), x)

        output = jax.vmap(hypergradient.estimate, (0, 0, 0, None, start_axis, 0))(
            state.carry, context, tasks, params, y0, jax.random.split(estimate_key, meta_batch_size)
        )

        (x_gradient,) = pull_context(_divide(output.context_gradient, meta_batch_size))
        if pull_start is not None:
            start_gradient = (
                _mean(output.start_gradient)
                if lower_start == "fixed"
                else _divide(output.start_gradient, meta_batch_size)
            )
            x_gradient = jax.tree.map(jnp.add, x_gradient, *pull_start(start_gradient))
        gradient = {"problem": x_gradient, **_mean(output.params_gradient)}

        updates, upper_state = upper_optimizer.update(gradient, state.upper_state, state.variables)
        x, params = _split(optax.apply_updates(state.variables, updates))  # pyright: ignore
        variables = {"problem": x, **dynamics.project(params)}

        metrics = {
            **_mean(jax.vmap(partial(lower_diagnostics, problem))(context, tasks, output.y)),
            "upper_loss": output.upper_loss.mean(),
            **_mean(dict(output.metrics)),
            "hypergradient_norm": optax.tree.norm(gradient),
            **_learned_scalars(variables),
        }
        start = output.y if lower_start == "warm" else state.start
        return AlgorithmState(variables, upper_state, output.carry, start), metrics

    def adapt(state: AlgorithmState, key: Array, task: Tree, num_steps: int) -> Tree:
        x, params = _split(state.variables)
        if lower_start == "warm":
            y0 = jax.tree.map(lambda leaf: leaf[0], state.start)
        else:
            y0 = problem.init_lower(state.start if lower_start == "fixed" else key, x)
        context = problem.prepare(x, task)
        return trajectory(problem, test_dynamics, params, context, task, y0, num_steps)

    return Algorithm(init=init, step=step, adapt=adapt)


def lower_diagnostics(problem: BilevelProblem, context: Tree, task: Tree, y: Tree) -> Metrics:
    """f(x, y_K) and |grad_y f(x, y_K)|: how far the lower level is from a solution."""
    value, gradient = jax.value_and_grad(problem.lower_objective, argnums=2)(context, task, y, None)
    return {"lower_loss": value, "stationarity_norm": optax.tree.norm(gradient)}


def _split(variables: dict[str, Tree]) -> tuple[Tree, dict[str, Tree]]:
    """x, and the parameters of the lower dynamics."""
    return variables["problem"], {k: v for k, v in variables.items() if k != "problem"}


def _mean(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), tree)


def _divide(tree: Tree, number: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf / number, tree)


def _learned_scalars(variables: dict[str, Tree]) -> Metrics:
    """Means of the learned alpha, s, t and step size, under their own names."""
    learned = {**variables["aggregation"], **variables["lower_optimizer"]}
    return {
        name: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]).mean()
        for name, tree in learned.items()
    }
