"""Whether lower steps of a fixed size are too long for the penalty of a lower constraint.

Where g_i is violated the Hessian of f has weight |grad g_i|^2 more along grad g_i, and steps of
gradient descent that are longer than 2 / (weight |grad g_i|^2) leave the solution: y jumps from
one side of g_i = 0 to the other, and derivatives through the steps grow without end.
"""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from bilevel.estimator import Hypergradient
from bilevel.methods import Method
from bilevel.shapes import one_task
from bilevel.types import Array, BilevelProblem, TaskSource

LARGEST = 10_000_000  # entries of dg/dy: beyond this nothing is measured


def too_long(problem: BilevelProblem, source: TaskSource, method: Method, seed: int) -> str:
    """What to say where steps are too long at the start of a run; else "".

    Nothing is said of steps that a solver, Adam or a measured curvature chooses.
    """
    optimizer, penalised = method.lower_optimizer, problem.penalised
    # What makes y feasible by itself along directions of its own has multipliers, no penalty.
    estimator, as_it_is = method.hypergradient, Hypergradient._field_defaults["solution"]
    if estimator.own_directions and estimator.solution is not as_it_is:
        return ""
    fixed = not (optimizer.rescales or optimizer.reads_objective or optimizer.no_derivative)
    if penalised is None or not fixed or optimizer.projection is not None:
        return ""
    key = jax.random.key(seed)
    task = one_task(source, source.seeded(source.data, key), key, "train")
    x = problem.init_upper(key)
    flat, unravel = ravel_pytree(problem.init_lower(key, x))
    context = problem.prepare(x, task)

    def constraints(flat: Array) -> Array:
        return ravel_pytree(penalised.constraints(context, task, unravel(flat)))[0]

    if jax.eval_shape(constraints, flat).size * flat.size > LARGEST:
        return ""
    slopes = jnp.sum(jnp.square(jax.jacrev(constraints)(flat)), axis=1)
    curvature = penalised.weight * float(jnp.max(slopes, initial=0.0))
    size = _step_size(method, unravel(jnp.zeros_like(flat)))
    if not curvature * size > 2:
        return ""
    return (
        f"lower steps of size {size:.3g} are too long for the constraints of the lower level: "
        f"where one is violated, constraint_weight={penalised.weight:g} curves f by "
        f"{curvature:.3g}, and y leaves the solution with steps above {2 / curvature:.2g}; choose "
        f"step_size={1 / curvature:.1g} with more lower steps, a smaller constraint_weight, or a "
        "line search, lower_optimizer=bilevel.lower_solvers.gradient_descent(acceleration=True) "
        "where the method differentiates no steps (hoag, kkt)"
    )


def _step_size(method: Method, zeros: Array) -> float:
    """|y_1 - y_0| / |d| in a step along f, with the weight that f has in a lower step."""
    steps, optimizer, aggregation = (
        method.num_lower_steps,
        method.lower_optimizer,
        method.aggregation,
    )
    params = optimizer.init_params(steps, zeros)
    ones = jax.tree.map(jnp.ones_like, zeros)

    def objective(y: Array) -> Array:
        return jnp.zeros(())

    state = optimizer.init(params, zeros, objective)
    moved = optimizer.update(params, ones, state, zeros, 1, objective)[0]
    learned = aggregation.init(steps)
    weights = [float(aggregation.weights(learned, k)[1]) for k in (1, steps)]
    return max(weights) * float(optax.tree.norm(moved) / optax.tree.norm(ones))
