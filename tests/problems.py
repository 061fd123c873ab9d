"""Small problems that the gradient tests run on, each with points away from anything special."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from src.bilevel.types import BilevelProblem, Roles, TaskSource
from src.data.synthetic_regression import synthetic_regression
from src.models.conv4 import conv4
from src.problems.counterexample import counterexample
from src.problems.few_shot import few_shot
from src.problems.from_objectives import persistent_source, problem_from_objectives
from src.problems.ridge import ridge
from tests.conftest import tiny_images


class Case(NamedTuple):
    problem: BilevelProblem
    source: TaskSource
    tasks: int


def tiny_ridge() -> Case:
    data = synthetic_regression(num_rows=(12, 9, 5), num_features=4, num_relevant=3, data_seed=3)
    return Case(*ridge(data), tasks=1)


def tiny_counterexample() -> Case:
    return Case(*counterexample(dimension=3, upper_start=0.3), tasks=1)


def tiny_few_shot() -> Case:
    problem, source = few_shot(
        tiny_images(),
        conv4(filters=3, num_blocks=2),
        Roles("head", False),
        ways=3,
        shots=1,
        queries=2,
        lower_l2=0.1,
    )
    return Case(problem, source, tasks=2)


def learned_start() -> Case:
    """A nested lower variable whose start is the upper variable (MAML in miniature)."""
    matrix = jnp.asarray(np.random.default_rng(5).standard_normal((3, 3)))

    def lower(x, y, task):
        residual = jnp.tanh(matrix @ y["inner"]["a"]) - y["b"] - 0.3 * x["inner"]["a"]
        return 0.5 * jnp.sum(residual**2)

    def upper(x, y, task):
        return jnp.sum(jnp.cos(y["inner"]["a"]) * y["b"]) + 0.1 * jnp.sum(x["b"] ** 2)

    def init_upper(key):
        return {
            "inner": {"a": jax.random.normal(key, (3,))},
            "b": jax.random.normal(jax.random.fold_in(key, 1), (3,)),
        }

    problem = problem_from_objectives(lower, upper, init_upper, init_lower=init_upper)
    problem = problem._replace(init_lower=lambda key, x: jax.tree.map(lambda leaf: leaf, x))
    return Case(problem, persistent_source({}), tasks=1)


CASES = {
    "ridge": tiny_ridge,
    "counterexample": tiny_counterexample,
    "few_shot": tiny_few_shot,
    "learned_start": learned_start,
}
