"""Scoring states on held-out tasks: means and 95 % intervals, step by step, seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from bilevel.batching import batched
from bilevel.score_keys import score_keys
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.running.intervals import mean_and_half_width
from src.running.seeds import seed_keys, with_half_widths
from src.running.sharing import seeds_of_device, spread
from src.settings.build import Experiment
from src.settings.placing import on_host

Curve = dict[str, list[float]]

ACCELERATOR_TASKS = 64  # tasks scored together on an accelerator


class Scores(NamedTuple):
    """{"split/name": (seeds, steps)}: means over tasks, and their 95 % half-widths.

    A persistent task is one task: no half-widths.
    """

    means: dict[str, np.ndarray]
    half_widths: dict[str, np.ndarray]

    def last(self) -> dict[str, np.ndarray]:
        """{"split/name": (seeds,)} after the last step."""
        return {name: values[:, -1] for name, values in self.means.items()}


Evaluate = Callable[[AlgorithmState, str, int], Scores]


def make_evaluate(
    experiment: Experiment, num_lower_steps: int, every_step: bool = False
) -> Evaluate:
    """evaluate(state, split, num_tasks) -> Scores after num_lower_steps steps, or after 0..that.

    The tasks of a split are the same at every call (they follow from the seed alone), so scores of
    two states of one run differ by the states. The half-width is Student's t at 95 % over tasks.
    """
    source = experiment.source
    settings = experiment.settings
    compiled = _compiled_scores(experiment, num_lower_steps, every_step)
    keys = seed_keys(settings.seed, settings.seeds)

    def evaluate(state: AlgorithmState, split: str, num_tasks: int) -> Scores:
        tasks = 1 if source.persistent else num_tasks
        # Without what only training needs, so that the last and the best state share a program.
        scores = on_host(compiled(scored(state), source.data, keys, split, tasks))
        return over_tasks({f"{split}/{name}": values for name, values in scores.items()})

    return evaluate


def scored_split(experiment: Experiment) -> tuple[str, int]:
    """The split that final scores are of, and how many of its tasks: test where there is one."""
    settings = experiment.settings
    if experiment.source.has_test:
        return "test", settings.num_test_tasks
    return "validation", settings.num_validation_tasks


def averaged(scores: Scores, alive: Sequence[bool]) -> dict[str, np.ndarray]:
    """{name: (steps,), name_ci95: half-width}.

    Of one seed its own scores, the interval being over tasks; of several the mean over those that
    are alive, the interval being over seeds.
    """
    if len(alive) > 1:
        return with_half_widths(scores.means, alive)
    summary: dict[str, np.ndarray] = {}
    for name, values in scores.means.items():
        summary[name] = values[0]
        if name in scores.half_widths:
            summary[f"{name}_ci95"] = scores.half_widths[name][0]
    return summary


def as_numbers(averages: dict[str, np.ndarray]) -> dict[str, float]:
    """The scores after the last step as plain numbers."""
    return {name: float(values[-1]) for name, values in averages.items()}


def as_curve(averages: dict[str, np.ndarray]) -> Curve:
    """The scores after each step as lists."""
    return {name: values.tolist() for name, values in averages.items()}


def _compiled_scores(experiment: Experiment, num_lower_steps: int, every_step: bool) -> Callable:
    """scores(states, data, keys, split, num_tasks) -> {name: (seeds, tasks, steps)}."""
    problem, source, algorithm = experiment.problem, experiment.source, experiment.algorithm
    # As in training: one task at a time stays in a CPU's cache.
    tasks_at_once = 1 if jax.default_backend() == "cpu" else ACCELERATOR_TASKS
    sharing, shares = experiment.sharing, experiment.sharing.of_tasks()

    def score_task(state: AlgorithmState, data: Tree, key: Array, split: str) -> dict[str, Array]:
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, data, task_key, split)
        x = state.variables["problem"]
        context = problem.prepare(x, task)

        def scores_at(y: Tree) -> dict[str, Array]:
            return dict(problem.evaluate(x, context, task, y))

        if every_step:
            return algorithm.adapt(state, adapt_key, task, num_lower_steps, scores_at)
        last = scores_at(algorithm.adapt(state, adapt_key, task, num_lower_steps, None))
        return jax.tree.map(lambda leaf: leaf[None], last)

    def score(
        states: AlgorithmState, data: Tree, keys: Array, split: str, num_tasks: int
    ) -> dict[str, Array]:
        def score_seed(state: AlgorithmState, data: Tree, key: Array) -> dict[str, Array]:
            seeded = source.seeded(data, key)

            def score_each(keys: Array) -> dict[str, Array]:
                return jax.lax.map(
                    lambda key: score_task(state, seeded, key, split),
                    keys,
                    batch_size=min(tasks_at_once, len(keys)),
                )

            task_keys = score_keys(key, split, num_tasks, source.persistent)
            return (
                score_each(task_keys) if shares is None else shares.of_each(score_each, task_keys)
            )

        each = batched(
            score_seed, seeds_of_device(experiment.settings.seeds, sharing), (0, None, 0)
        )
        return spread(each, sharing, (True, False, True))(states, data, keys)

    return jax.jit(score, static_argnums=(3, 4))


def over_tasks(scores: Mapping[str, np.ndarray]) -> Scores:
    """Means and half-widths over the tasks of (seeds, tasks, steps)."""
    means: dict[str, np.ndarray] = {}
    half_widths: dict[str, np.ndarray] = {}
    for name, values in scores.items():
        means[name], half = mean_and_half_width(values, axis=1)
        if half is not None:
            half_widths[name] = half
    return Scores(means, half_widths)
