"""One iteration, as the algorithm does it and as a plain loop does.

The reference shares nothing with the code but the two objectives and `prepare`: no vmap, no scan,
no pull-back, one task and one lower step after the other.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.aggregation import descent
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose, for_testing
from bilevel.hypergradients import unrolled
from bilevel.lower_optimizers import sgd
from bilevel.upper_optimizers import sgd as upper_sgd

K = 3
UPPER_STEP = 0.01
FIXED = {"alpha": 0.4, "s": 0.9, "t": 1.2}


def descent_with(law, *learn):
    return descent(law=law, learn=learn, **FIXED)


def reference_weights(law, values, k):
    """(weight of grad F, weight of grad f), each law written out once more."""
    alpha, s, t = values["alpha"], values["s"], values["t"]
    share = {
        None: (0.0, 1.0),
        "constant": (alpha, 1 - alpha),
        "harmonic": (alpha / k, 1 - alpha / k),
        "geometric": (alpha * 0.9 ** (k - 1), 1 - alpha * 0.9 ** (k - 1)),
        "upper_geometric": (alpha * 0.9 ** (k - 1), 1 - alpha),
        "tpami": (alpha / (k + 1), 1 - alpha),
    }
    if law == "per_step":
        own = jnp.broadcast_to(alpha, (K,))[k - 1]
        return s * own, t * (1 - own)
    if law is None:
        return share[None]
    return s * share[law][0], t * share[law][1]


def reference(problem, tasks, law, step_size_kind, y0):
    """variables -> mean over tasks of F(x, y_K)."""

    def phi(variables):
        values = {**FIXED, **variables["aggregation"]}
        total = 0.0
        number = len(jax.tree.leaves(tasks)[0])
        for i in range(number):
            task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
            context = problem.prepare(variables["problem"], task)

            def upper(y, context=context, task=task):
                return problem.upper_objective(context, task, y)[0]

            def lower(y, context=context, task=task):
                return problem.lower_objective(context, task, y)

            y = y0
            for k in range(1, K + 1):
                a, b = reference_weights(law, values, k)
                size = variables["lower_optimizer"].get("step_size", 0.1)
                if step_size_kind == "per_step":
                    size = size[k - 1]
                if step_size_kind != "per_weight":
                    size = jax.tree.map(lambda _, size=size: size, y)
                y = jax.tree.map(
                    lambda w, gf, gl, eta, a=a, b=b: w - eta * (a * gf + b * gl),
                    y,
                    jax.grad(upper)(y),
                    jax.grad(lower)(y),
                    size,
                )
            total = total + upper(y)
        return total / number

    return phi


def build(
    case,
    aggregation,
    learn_step_size="none",
    tasks_at_once=None,
    make=unrolled,
    upper_step=UPPER_STEP,
    **options,
):
    optimizer = sgd(step_size=0.1, learn=learn_step_size)
    return hypergradient_descent(
        case.problem,
        compose(aggregation, optimizer),
        make(**options),
        upper_sgd(step_size=upper_step),
        num_lower_steps=K,
        persistent=case.source.persistent,
        meta_batch_size=case.tasks,
        tasks_at_once=tasks_at_once or case.tasks,
        test_dynamics=compose(for_testing(aggregation), optimizer),
    )


def start_of(case, algorithm):
    """A state whose variables lie off any special point, and its tasks."""
    key = jax.random.key(4)
    state = jax.jit(algorithm.init)(key)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.05 * jax.random.uniform(key, leaf.shape), state.variables
    )
    tasks = case.source.sample(case.source.data, key, "train", case.tasks)
    return state._replace(variables=moved), tasks


def results(*algorithms_and_state, jit=True):
    algorithm, state, tasks = algorithms_and_state
    step = jax.jit(algorithm.step) if jit else algorithm.step
    return step(state, jax.random.key(0), tasks)


def assert_same(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
