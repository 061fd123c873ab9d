"""Few-shot regression of sine curves, MAML's first experiment.

    target = amplitude sin(input - phase), uniform: amplitude 0.1..5, phase 0..pi, input -5..5
    f(x, y) = mean over the support points of (prediction - target)^2
    F(x, y) = the same over the query points

Finn, Abbeel, Levine, ICML 2017 (arXiv 1703.03400), section 5.1; their network is model=mlp with two
hidden layers of 40 units and no batch norm. What is x and what is y are the roles
(src/problems/adapting_network.py).
"""

import jax
import jax.numpy as jnp

from bilevel.types import Array, BilevelProblem, Metrics, TaskSource, Tree
from src.models.model import Model
from src.problems.adapting_network import HeadInit, Roles, adapting_network
from src.problems.few_shot import EVERY_MIX

AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, jnp.pi), (-5.0, 5.0)


def sine(
    model: Model, roles: Roles, *, shots: int, queries: int, head_init: HeadInit = "xavier"
) -> tuple[BilevelProblem, TaskSource]:
    """One task: {"support", "query"}, each {"inputs", "targets"} of shape (points, 1).

    It also holds {"curve": {"amplitude", "phase"}} as scalars, for whoever draws it. Training,
    validation and test tasks come from one distribution.

    Raises ValueError for fewer than one point, or roles that leave nothing to learn.
    """
    for name, value in (("shots", shots), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1; choose {name}=10")
    network = adapting_network(model, roles, jnp.linspace(*INPUTS, 64)[:, None], 1, head_init)

    def inputs_of(task: Tree) -> dict[str, Array]:
        return {part: task[part]["inputs"] for part in ("support", "query")}

    def prepare(x: Tree, task: Tree) -> Tree:
        return network.prepare(x, inputs_of(task))

    def mean_square(context: Tree, task: Tree, y: Tree, part: str) -> Array:
        found = network.outputs(context, y, part, inputs_of(task))
        return jnp.mean((found - task[part]["targets"]) ** 2)

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        return mean_square(context, task, y, "query"), {}

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        del x
        return {
            "upper_loss": mean_square(context, task, y, "query"),
            "lower_loss": mean_square(context, task, y, "support"),
        }

    problem = BilevelProblem(
        init_upper=network.init_upper,
        prepare=prepare,
        init_lower=network.init_lower,
        lower_objective=lambda context, task, y: mean_square(context, task, y, "support"),
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={
            "f": f"f(x, y) = mean over the support points of ({network.formula} - target)^2",
            "F": f"F(x, y) = mean over the query points of ({network.formula} - target)^2",
        },
        learned_start=bool(roles.learn_start),
        # More weights than points.
        singular_hessians=frozenset(EVERY_MIX),
        damping=1.0,
    )
    return problem, TaskSource(data={}, sample=_sampler(shots, queries), persistent=False)


def _sampler(shots: int, queries: int):
    def sample_one(key: Array) -> Tree:
        keys = jax.random.split(key, 4)
        amplitude, phase = (
            jax.random.uniform(k, (), minval=low, maxval=high)
            for k, (low, high) in zip(keys[:2], (AMPLITUDES, PHASES), strict=True)
        )

        def part(key: Array, number: int) -> Tree:
            inputs = jax.random.uniform(key, (number, 1), minval=INPUTS[0], maxval=INPUTS[1])
            return {"inputs": inputs, "targets": amplitude * jnp.sin(inputs - phase)}

        return {
            "support": part(keys[2], shots),
            "query": part(keys[3], queries),
            "curve": {"amplitude": amplitude, "phase": phase},
        }

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        del data, split
        return jax.vmap(sample_one)(jax.random.split(key, n))

    return sample
