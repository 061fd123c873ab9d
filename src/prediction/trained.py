"""The stored state of one seed of a run, and its lower level solved as a test does."""

from typing import Any, NamedTuple

import jax

from bilevel.algorithm import AlgorithmState
from bilevel.score_keys import score_keys
from bilevel.shapes import one_task
from bilevel.types import Tree
from src.data.forms import Form, convert
from src.models.model import Model
from src.running.evaluation import scored_split
from src.running.run_folder import Run
from src.running.stored_run import steps_to_take, stored_state
from src.settings.build import split_seed_of
from src.settings.checked import check_config, named_seeds
from src.settings.config import call
from src.settings.errors import UserError


class Trained(NamedTuple):
    """seed; the iteration of the state; the state, without an axis of seeds."""

    seed: int
    step: int
    state: AlgorithmState


class Solved(NamedTuple):
    """Of one fixed task: the task, x, and y after the lower steps. `state`: where they are from."""

    state: Trained
    task: Tree
    x: Tree
    y: Tree


def trained(run: Run, checkpoint: str, seed: int | None = None) -> Trained:
    """A state of the run. checkpoint: last, best, or a kept iteration; seed: None for the first
    that has not failed.

    Raises UserError where the run has no such state or seed, or the seed has failed.
    """
    settings = run.experiment.settings
    stored = stored_state(run, checkpoint)
    sound = [settings.seed + i for i, alive in enumerate(stored.alive) if alive]
    if not sound:
        raise UserError(f"run={run.folder}: no seed of this run went on to the end; choose another")
    chosen = sound[0] if seed is None else seed
    if not 0 <= chosen - settings.seed < settings.seeds:
        raise UserError(
            f"seed={chosen}: the run has {named_seeds(settings.seed, settings.seeds)}; choose "
            f"seed={sound[0]}"
        )
    if chosen not in sound:
        raise UserError(f"seed={chosen} has failed in this run; choose seed={sound[0]}")
    index = chosen - settings.seed
    state = jax.tree.map(lambda leaf: leaf[index], stored.state)
    return Trained(chosen, stored.step[index], state)


def model_of(run: Run) -> Model:
    """The run's network, as functions."""
    return call(check_config(run.config).node("model"))


def read_again(run: Run, needed: type) -> Any:
    """The run's data set in this form, read again: a problem keeps no more of it than it needs.

    As it is where it has no form that can be converted (the rows of `ridge`).
    """
    node = check_config(run.config).node("data")
    data = call(node)
    return convert(data, needed, split_seed_of(node)) if isinstance(data, Form) else data


def solved(run: Run, state: Trained, num_lower_steps: int | None = None) -> Solved:
    """y after the lower steps (None: those of the run), as the run's own test has it.

    For problems with one fixed task. Raises UserError where the state cannot take so many steps.
    """
    experiment = run.experiment
    source = experiment.source
    num_steps = steps_to_take(experiment, num_lower_steps)
    key = jax.random.key(state.seed)
    split, _ = scored_split(experiment)
    task_key, adapt_key = jax.random.split(score_keys(key, split, 1, source.persistent)[0])

    def adapt(stored: AlgorithmState, data: Tree) -> tuple[Tree, Tree]:
        task = one_task(source, source.seeded(data, key), task_key, split)
        return task, experiment.algorithm.adapt(stored, adapt_key, task, num_steps)

    task, y = jax.device_get(jax.jit(adapt)(state.state, source.data))
    return Solved(state, task, state.state.variables["problem"], y)
