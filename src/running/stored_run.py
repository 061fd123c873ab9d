"""A finished or running run, looked at again from its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.shapes import learned_per_step
from src.running.checkpoint import open_checkpoints, refuse_other_format
from src.running.compilation import use_compilation_cache
from src.running.evaluation import Curve, as_curve, averaged, make_evaluate
from src.running.failures import in_scores
from src.running.loop import evaluation_state, fresh_snapshot
from src.running.seeds import chosen
from src.settings.build import Experiment, build
from src.settings.errors import UserError


class Scored(NamedTuple):
    """What was found: the iteration of each (sound) seed's state, and test scores by lower step."""

    step: tuple[int, ...]
    num_test_tasks: int
    curve: Curve


def read_config(run_dir: Path) -> dict[str, Any]:
    """The resolved configuration of a run. Raises UserError where the folder holds none."""
    path = run_dir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"run={run_dir} is not a run folder: there is no config.json in it; name the folder "
            "that holds result.json"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); the run cannot be read") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it holds no configuration")
    refuse_other_format(run_dir)
    return config


def evaluate_again(
    run_dir: Path,
    config: Mapping[str, Any],
    checkpoint: str,
    num_test_tasks: int | None,
    num_lower_steps: int | None,
) -> Scored:
    """Test scores of a stored state after 0..num_lower_steps lower steps, on the run's own tasks.

    checkpoint: "last", "best" or the number of an iteration whose checkpoint is kept. None takes
    the run's own number. Raises UserError where the state cannot adapt for that many steps.
    """
    use_compilation_cache(config.get("compilation_cache") is True)
    changed = {} if num_test_tasks is None else {"num_test_tasks": num_test_tasks}
    with jax.enable_x64(config.get("dtype") == "float64"):
        experiment = build({**config, **changed})
        settings = experiment.settings
        steps = settings.num_lower_steps if num_lower_steps is None else num_lower_steps
        _refuse_other_steps(experiment, steps)
        stored = _stored_state(run_dir, experiment, checkpoint)
        tasks = 1 if experiment.source.persistent else settings.num_test_tasks
        scores = make_evaluate(experiment, steps, every_step=True)(stored.state, "test", tasks)
    sound = [trouble is None for trouble in in_scores(scores.last(), max(stored.step))]
    alive = [a and b for a, b in zip(stored.alive, sound, strict=True)]
    if not any(alive):
        raise UserError(f"run={run_dir}: the scores of no seed are numbers")
    reached = tuple(step for step, goes_on in zip(stored.step, alive, strict=True) if goes_on)
    return Scored(reached, tasks, as_curve(averaged(scores, alive)))


class _Stored(NamedTuple):
    """The states of the seeds, the iteration of each, and which of them went on to the end."""

    step: tuple[int, ...]
    state: AlgorithmState
    alive: list[bool]


def _stored_state(run_dir: Path, experiment: Experiment, checkpoint: str) -> _Stored:
    step = None
    if checkpoint not in ("last", "best"):
        if not checkpoint.isdigit():
            raise UserError(f"checkpoint={checkpoint} must be last, best or an iteration")
        step = int(checkpoint)
    none_yet = UserError(f"run={run_dir} holds no checkpoint yet: let it reach checkpoint_every")
    if not (run_dir / "checkpoints").is_dir():
        raise none_yet
    checkpoints = open_checkpoints(run_dir, read_only=True)
    try:
        snapshot = checkpoints.restore(fresh_snapshot(experiment), step)
    finally:
        checkpoints.manager.close()
    if snapshot is None:
        raise none_yet
    progress, alive = snapshot.progress, snapshot.progress.alive()
    last = _Stored((progress.step,) * len(alive), snapshot.state, alive)
    if checkpoint != "best":
        return last
    last_is_best = _last_is_best(run_dir, progress.step, len(alive))
    if last_is_best.all():
        return last
    steps = tuple(
        progress.step if now else before
        for now, before in zip(last_is_best, progress.best_step, strict=True)
    )
    if any(step is None for step, goes_on in zip(steps, alive, strict=True) if goes_on):
        raise UserError(
            f"checkpoint=best: {run_dir} has not been validated before iteration {progress.step}; "
            "choose checkpoint=last"
        )
    best = chosen(last_is_best, evaluation_state(snapshot.state), snapshot.best)
    return _Stored(tuple(step or 0 for step in steps), best, alive)


def _last_is_best(run_dir: Path, step: int, num_seeds: int) -> np.ndarray:
    """Of each seed: a run that ends between two validations is validated once more at its end."""
    try:
        result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return np.zeros(num_seeds, bool)
    found = result.get("best/step")
    each = found if isinstance(found, list) else [found]
    return np.array([value == step for value in each])


def _refuse_other_steps(experiment: Experiment, num_lower_steps: int) -> None:
    """Parameters with one value per step exist for the steps that were trained, and no others."""
    trained = experiment.settings.num_lower_steps
    if num_lower_steps < 1:
        raise UserError(f"num_lower_steps={num_lower_steps} must be at least 1")

    per_step = learned_per_step(experiment.problem, experiment.test_dynamics, trained)
    for name, one_each in per_step.items():
        if one_each and num_lower_steps != trained:
            parameter = name.partition(".")[2]
            raise UserError(
                f"num_lower_steps={num_lower_steps}: {parameter} was learned with one value for "
                f"each of {trained} lower steps, and there is none for other steps; choose "
                f"num_lower_steps={trained}"
            )
