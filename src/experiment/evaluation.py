"""Scoring a state on held-out tasks: means and 95 % intervals over tasks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from src.bilevel.types import Algorithm, AlgorithmState, Array, BilevelProblem, TaskSource, Tree

Evaluate = Callable[[AlgorithmState, str, int], dict[str, float]]

_SPLITS = {"validation": 1, "test": 2}


def make_evaluate(
    problem: BilevelProblem,
    source: TaskSource,
    algorithm: Algorithm,
    *,
    seed: int,
    num_lower_steps: int,
    batch_size: int,
) -> Evaluate:
    """evaluate(state, split, num_tasks) -> {"split/name": mean, "split/name_ci95": half-width}.

    The tasks of a split are the same at every call (they follow from the seed alone), so scores
    of two states of one run differ by the states. The half-width is Student's t at 95 % over
    tasks. A persistent task is one task and has no interval.
    """

    def score_one(state: AlgorithmState, data: Tree, key: Array, split: str) -> dict[str, Array]:
        task_key, adapt_key = jax.random.split(key)
        task = jax.tree.map(lambda leaf: leaf[0], source.sample(data, task_key, split, 1))
        y = jax.tree.map(
            lambda leaf: leaf[-1], algorithm.adapt(state, adapt_key, task, num_lower_steps)
        )
        x = state.variables["problem"]
        return dict(problem.evaluate(x, problem.prepare(x, task), task, y))

    def score(
        state: AlgorithmState, data: Tree, key: Array, split: str, num_tasks: int
    ) -> dict[str, Array]:
        base = jax.random.fold_in(key, 2**31 - _SPLITS[split])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.arange(num_tasks))
        return jax.lax.map(
            lambda key: score_one(state, data, key, split),
            keys,
            batch_size=min(batch_size, num_tasks),
        )

    seed_key = jax.random.key(seed)
    compiled = jax.jit(score, static_argnames=("split", "num_tasks"))

    def evaluate(state: AlgorithmState, split: str, num_tasks: int) -> dict[str, float]:
        tasks = 1 if source.persistent else num_tasks
        # Without what only training needs, so that the last and the best state share a program.
        state = state._replace(upper_state=(), carry=())
        scored = compiled(state, source.data, seed_key, split=split, num_tasks=tasks)
        summary: dict[str, float] = {}
        for name, values in jax.device_get(scored).items():
            summary[f"{split}/{name}"] = float(np.mean(values, dtype=np.float64))
            if tasks > 1:
                spread = float(np.std(values, ddof=1, dtype=np.float64))
                width = float(stdtrit(tasks - 1, 0.975)) * spread / tasks**0.5
                summary[f"{split}/{name}_ci95"] = width
        return summary

    return evaluate
