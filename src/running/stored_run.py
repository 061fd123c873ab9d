"""A finished or running run, looked at again from its folder."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from src.output.writers import together
from src.running.best import with_best
from src.running.checkpoint import open_checkpoints
from src.running.compilation import use_compilation_cache
from src.running.curvature import with_curvature
from src.running.differences import differences
from src.running.evaluation import Curve, as_curve, averaged, make_evaluate, scored_split
from src.running.failures import in_scores
from src.running.loop import fresh_snapshot
from src.running.run_folder import Run, refuse_changed_data, refuse_other_format
from src.running.snapshot import Snapshot
from src.settings.build import Experiment, build
from src.settings.checked import check_settings, identity_of
from src.settings.errors import UserError
from src.settings.lower_steps import refuse_other_steps

# What belongs to the machine of a run, and not to the run: whoever looks at it may have another.
HERE = {
    "platform": "auto",
    "devices": "auto",
    "memory_budget": None,
    "tasks_at_once": None,
    "coordinator": None,
    "num_processes": 1,
    "process_id": 0,
}


class Scored(NamedTuple):
    """The iteration of each (sound) seed's state, and scores of a split by lower step."""

    step: tuple[int, ...]
    split: str
    num_tasks: int
    curve: Curve

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            f"num_{self.split}_tasks": self.num_tasks,
            "curve": self.curve,
        }


@contextmanager
def stored_run(
    folder: Path, num_tasks: int | None = None, *, other_data: bool = False
) -> Iterator[Run]:
    """The run of a folder, to look at: nothing in the folder is touched, nothing is written.

    It is looked at by this process alone, on what devices there are. num_tasks: to score on, None
    for the run's own number. other_data: no matter whether its files are still those of the run.
    Raises UserError where the folder holds no run that this code can read, or no checkpoint yet.
    """
    config = read_config(folder) | HERE
    if num_tasks is not None:
        config |= {"num_test_tasks": num_tasks}
    settings = check_settings(config)
    use_compilation_cache(settings.compilation_cache)
    with jax.enable_x64(settings.dtype == "float64"):
        experiment = build(config)
        if not other_data:
            refuse_changed_data(folder, experiment.file_data)
        if num_tasks is not None and not experiment.source.has_test:
            settings = experiment.settings._replace(num_validation_tasks=num_tasks)
            experiment = experiment._replace(settings=settings)
        if not (folder / "checkpoints").is_dir():
            raise _no_checkpoint(folder)
        with closing(open_checkpoints(folder, read_only=True)) as checkpoints:
            yield Run(experiment, config, folder, checkpoints, together([]))


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run. Raises UserError where the folder holds none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if not folder.exists():
            raise UserError(f"run={folder}: there is no such folder") from error
        raise UserError(
            f"run={folder} is not a run folder: there is no config.json in it; name the folder "
            "that holds result.json"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); the run cannot be read") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it holds no configuration")
    identity = refuse_other_format(folder)
    ours = identity_of(config)
    if ours != identity:
        raise UserError(
            f"{path} was changed after the run: it differs from identity.json "
            f"({differences(identity, ours)}); put these values back to read the run"
        )
    return config


def evaluate_again(
    run: Run, checkpoint: str, num_lower_steps: int | None, curvature: bool = False
) -> Scored:
    """Scores of a stored state after 0..num_lower_steps lower steps, on the run's own tasks.

    Test scores, or those of validation where the run has no test data. checkpoint: "last", "best"
    or the number of an iteration whose checkpoint is kept. None takes the run's own number.
    `curvature`: with the largest eigenvalue of the lower Hessian. Raises UserError where the state
    cannot adapt for that many steps.
    """
    experiment = run.experiment
    if curvature:
        experiment = experiment._replace(problem=with_curvature(experiment.problem))
    num_steps = steps_to_take(experiment, num_lower_steps)
    stored = stored_state(run, checkpoint)
    split, num_tasks = scored_split(experiment)
    scores = make_evaluate(experiment, num_steps, every_step=True)(stored.state, split, num_tasks)
    failures = in_scores(scores.last(), max(stored.step))
    alive = [on and failed is None for on, failed in zip(stored.alive, failures, strict=True)]
    if not any(alive):
        raise UserError(f"run={run.folder}: the scores of no seed are numbers")
    step = tuple(step for step, on in zip(stored.step, alive, strict=True) if on)
    if experiment.source.persistent:
        num_tasks = 1
    return Scored(step, split, num_tasks, as_curve(averaged(scores, alive)))


class Stored(NamedTuple):
    """The states of the seeds as they are scored, the iteration of each, and which went on."""

    step: tuple[int, ...]
    state: AlgorithmState
    alive: list[bool]


def stored_state(run: Run, checkpoint: str) -> Stored:
    """A stored state: "last", "best" (of each seed its own) or the number of an iteration.

    Raises UserError where it is not kept, or cannot be read.
    """
    step = None
    if checkpoint not in ("last", "best"):
        if not re.fullmatch("[0-9]{1,18}", checkpoint):
            raise UserError(f"checkpoint={checkpoint} must be last, best or an iteration")
        step = int(checkpoint)
    snapshot = run.checkpoints.restore(fresh_snapshot(run.experiment), step)
    if snapshot is None:
        raise _no_checkpoint(run.folder)
    progress, alive = snapshot.progress, snapshot.progress.alive()
    if checkpoint != "best":
        return Stored((progress.step,) * len(alive), scored(snapshot.state), alive)
    judged = _judged_at_its_end(run, snapshot)
    steps = judged.progress.best_step
    if any(step is None for step, on in zip(steps, alive, strict=True) if on):
        raise UserError(
            f"checkpoint=best: {run.folder} has not been validated before iteration "
            f"{progress.step}; choose checkpoint=last"
        )
    return Stored(tuple(step or 0 for step in steps), judged.best, alive)


def _judged_at_its_end(run: Run, snapshot: Snapshot) -> Snapshot:
    """A run that ends between two validations is validated once more, after its last checkpoint."""
    try:
        result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return snapshot
    if result.get("iterations") != snapshot.progress.step:
        return snapshot
    monitor = run.experiment.monitor
    scores = result.get("per_seed", {}).get(monitor.metric, [result.get(monitor.metric)])
    # null: a seed that failed
    numbers = [float("nan") if score is None else score for score in scores]
    return with_best(snapshot, monitor, np.array(numbers))


def _no_checkpoint(folder: Path) -> UserError:
    return UserError(f"run={folder} holds no checkpoint yet: let it reach checkpoint_every")


def steps_to_take(experiment: Experiment, asked: int | None) -> int:
    """How many lower steps: those asked for, None: those of the run's own tests.

    Raises UserError where the run cannot adapt for so many.
    """
    settings = experiment.settings
    number = settings.steps_of_tests() if asked is None else asked
    refuse_other_steps(
        experiment.problem, experiment.test_dynamics, settings.num_lower_steps, number
    )
    return number
