"""The gradient of a whole iteration against a plain loop and finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import lower_only
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.hypergradients import unrolled
from bilevel.lower_optimizers import sgd
from bilevel.types import BilevelProblem
from bilevel.upper_optimizers import sgd as upper_sgd
from src.certification.cases import CASES
from src.certification.finite_differences import directional_error
from tests.pipeline import UPPER_STEP, K, build, descent_with, reference, start_of

# name -> (law or None, what the aggregation learns, what the step size learns)
LEARNED = {
    "x": (None, (), "none"),
    "x through bda": ("harmonic", (), "none"),
    "alpha": ("harmonic", ("alpha",), "none"),
    "alpha constant": ("constant", ("alpha",), "none"),
    "alpha per step": ("per_step", ("alpha",), "none"),
    "s": ("harmonic", ("s",), "none"),
    "t": ("geometric", ("t",), "none"),
    "step size": (None, (), "scalar"),
    "step size per step": ("upper_geometric", (), "per_step"),
    "step size per weight": ("tpami", (), "per_weight"),
    "everything": ("per_step", ("alpha", "s", "t"), "per_weight"),
}


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("case_name", ["few_shot", "ridge"])
def test_one_iteration_follows_the_gradient_of_the_mean_upper_objective(case_name, name):
    law, learn, step_size_kind = LEARNED[name]
    case = CASES[case_name]()
    aggregation = lower_only() if law is None else descent_with(law, *learn)
    algorithm = build(case, aggregation, step_size_kind)
    state, tasks = start_of(case, algorithm)
    after, _ = jax.jit(algorithm.step)(state, jax.random.key(0), tasks)
    gradient = jax.tree.map(lambda a, b: (a - b) / UPPER_STEP, state.variables, after.variables)
    y0 = case.problem.init_lower(state.start, state.variables["problem"])
    phi = reference(case.problem, tasks, law, step_size_kind, y0)
    for leaf in jax.tree.leaves(gradient["aggregation"]):
        assert float(jnp.abs(leaf).max()) > 1e-6, "a learned parameter without a gradient"
    assert directional_error(phi, state.variables, gradient) < 1e-8


def stream_with_a_learned_start(noise):
    """Many tasks, a start y0 = g(x) + noise drawn from the key, a context that depends on both."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)))

    def lower(context, task, y):
        residual = jnp.tanh(matrix @ y["a"]) - y["b"] - context["c"] * task["t"]
        return 0.5 * jnp.sum(residual**2)

    def upper(context, task, y):
        value = jnp.sum(jnp.cos(y["a"]) * y["b"] * task["t"]) + 0.1 * jnp.sum(context["c"] ** 2)
        return value + jnp.sum(y["a"] ** 2), {}

    return BilevelProblem(
        init_upper=lambda key: {
            "a": jax.random.normal(key, (3,)),
            "b": jnp.ones(3),
            "c": jnp.full(3, 0.3),
        },
        prepare=lambda x, task: {"c": jnp.sin(x["c"]) * task["t"]},
        init_lower=lambda key, x: {
            "a": x["a"] + noise * jax.random.normal(key, (3,)),
            "b": x["b"] ** 2,
        },
        lower_objective=lower,
        upper_objective=upper,
        evaluate=lambda x, context, task, y: {},
        formulas={"f": "", "F": ""},
        learned_start=True,
    )


@pytest.mark.parametrize("tasks_at_once", [1, 2, 4])
@pytest.mark.parametrize("lower_start", ["fixed", "redrawn"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_learned_start_gets_its_gradient(noise, lower_start, tasks_at_once):
    problem, number = stream_with_a_learned_start(noise), 4
    dynamics = compose(
        descent_with("per_step", "alpha", "s", "t"), sgd(step_size=0.1, learn="per_weight")
    )
    algorithm = hypergradient_descent(
        problem,
        dynamics,
        unrolled(),
        upper_sgd(step_size=UPPER_STEP),
        num_lower_steps=K,
        persistent=False,
        meta_batch_size=number,
        tasks_at_once=tasks_at_once,
        lower_start=lower_start,
    )
    key = jax.random.key(7)
    state = algorithm.init(jax.random.key(0))
    tasks = {"t": jax.random.normal(key, (number, 3))}
    after, metrics = jax.jit(algorithm.step)(state, key, tasks)
    gradient = jax.tree.map(lambda a, b: (a - b) / UPPER_STEP, state.variables, after.variables)

    def phi(variables):
        total = 0.0
        for i, own_key in enumerate(jax.random.split(key, number)):
            task = {"t": tasks["t"][i : i + 1]}
            redrawn_key, _ = jax.random.split(own_key)
            start_key = state.start if lower_start == "fixed" else redrawn_key
            y0 = problem.init_lower(start_key, variables["problem"])
            total += reference(problem, task, "per_step", "per_weight", y0)(variables)
        return total / number

    assert directional_error(phi, state.variables, gradient) < 1e-8
    assert float(jnp.abs(gradient["problem"]["a"]).max()) > 1e-3
    norm = np.linalg.norm(np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)]))
    assert float(metrics["hypergradient_norm"]) == pytest.approx(norm)
