"""Scoring a state on held-out tasks: means and 95 % intervals over tasks, step by step."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

from src.bilevel.types import AlgorithmState, Array, Tree
from src.experiment.build import Experiment
from src.experiment.shapes import one_task

Evaluate = Callable[[AlgorithmState, str, int], dict[str, float]]
Curve = dict[str, list[float]]
EvaluateCurve = Callable[[AlgorithmState, str, int], Curve]

ACCELERATOR_TASKS = 64  # tasks scored together on an accelerator
_SPLITS = {"validation": 1, "test": 2}


def make_evaluate(experiment: Experiment) -> Evaluate:
    """evaluate(state, split, num_tasks) -> {"split/name": mean, "split/name_ci95": half-width}.

    After the last of the K lower steps. The tasks of a split are the same at every call (they
    follow from the seed alone), so scores of two states of one run differ by the states. The
    half-width is Student's t at 95 % over tasks. A persistent task is one task and has no interval.
    """
    scores = _make_scores(experiment, experiment.settings.num_lower_steps, every_step=False)

    def evaluate(state: AlgorithmState, split: str, num_tasks: int) -> dict[str, float]:
        summary = _summary(scores(state, split, num_tasks))
        return {f"{split}/{name}": float(value[0]) for name, value in summary.items()}

    return evaluate


def make_evaluate_curve(experiment: Experiment, num_lower_steps: int) -> EvaluateCurve:
    """curve(state, split, num_tasks) -> the same as lists over 0..num_lower_steps steps."""
    scores = _make_scores(experiment, num_lower_steps, every_step=True)

    def curve(state: AlgorithmState, split: str, num_tasks: int) -> Curve:
        summary = _summary(scores(state, split, num_tasks))
        return {f"{split}/{name}": values.tolist() for name, values in summary.items()}

    return curve


def _make_scores(experiment: Experiment, num_lower_steps: int, every_step: bool) -> Callable:
    """scores(state, split, num_tasks) -> {name: (tasks, steps)}, steps 0..K or the last alone."""
    problem, source, algorithm = experiment.problem, experiment.source, experiment.algorithm
    # As in training: one task at a time stays in a CPU's cache.
    tasks_at_once = 1 if jax.default_backend() == "cpu" else ACCELERATOR_TASKS

    def score_one(state: AlgorithmState, data: Tree, key: Array, split: str) -> dict[str, Array]:
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, data, task_key, split)
        x = state.variables["problem"]
        context = problem.prepare(x, task)

        def scored(y: Tree) -> dict[str, Array]:
            return dict(problem.evaluate(x, context, task, y))

        if every_step:
            return algorithm.adapt(state, adapt_key, task, num_lower_steps, scored)
        last = scored(algorithm.adapt(state, adapt_key, task, num_lower_steps, None))
        return jax.tree.map(lambda leaf: leaf[None], last)

    def score(
        state: AlgorithmState, data: Tree, key: Array, split: str, num_tasks: int
    ) -> dict[str, Array]:
        base = jax.random.fold_in(key, 2**31 - _SPLITS[split])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.arange(num_tasks))
        return jax.lax.map(
            lambda key: score_one(state, data, key, split),
            keys,
            batch_size=min(tasks_at_once, num_tasks),
        )

    seed_key = jax.random.key(experiment.settings.seed)
    compiled = jax.jit(score, static_argnames=("split", "num_tasks"))

    def scores(state: AlgorithmState, split: str, num_tasks: int) -> dict[str, np.ndarray]:
        tasks = 1 if source.persistent else num_tasks
        # Without what only training needs, so that the last and the best state share a program.
        state = state._replace(upper_state=(), carry=())
        return jax.device_get(compiled(state, source.data, seed_key, split=split, num_tasks=tasks))

    return scores


def _summary(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: mean over tasks, name_ci95: half-width}, each (steps,)."""
    summary: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        tasks = len(values)
        summary[name] = np.asarray(np.mean(values, axis=0, dtype=np.float64))
        if tasks > 1:
            spread = np.std(values, axis=0, ddof=1, dtype=np.float64)
            summary[f"{name}_ci95"] = float(stdtrit(tasks - 1, 0.975)) * spread / tasks**0.5
    return summary
