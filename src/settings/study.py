"""An Optuna study that goes on: a sweep run again in the same folder does only what is missing.

Hydra's sweeper would begin `n_trials` more trials each time, and forget those that a kill has cut.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from src.settings.errors import UserError, first_line

CUT = "interrupted trials"  # the name of a study's attribute: their numbers


class Left(NamedTuple):
    """What is left of a study: how many trials, and how many there are already."""

    trials: int
    begun: int


def direction_of(mode: str) -> str:
    """Optuna's word for a problem.monitor.mode."""
    return {"min": "minimize", "max": "maximize"}[mode]


def left_of_study(storage: str, name: str | None, direction: str, wanted: int) -> Left:
    """What is left of a study of `wanted` trials.

    A trial that a kill has cut is marked as failed, and queued: the next trial has its parameters,
    hence its folder, and goes on there. Raises UserError where the database is not this study's.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # the database's: a page of it
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, direction=direction, load_if_exists=True
        )
        trials = study.get_trials(deepcopy=False)
        cut = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in cut:
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        numbers = [*study.user_attrs.get(CUT, []), *(trial.number for trial in cut)]
        study.set_user_attr(CUT, numbers)
    except Exception as error:
        raise UserError(
            f"hydra.sweeper.storage={storage} cannot be used as a study that is to "
            f"{direction} ({first_line(error)}): choose another hydra.sweep.dir"
        ) from error
    ended = [t for t in trials if t.state.is_finished() and t.number not in numbers]
    if trials:
        print(
            f"the study has {len(ended)} of {wanted} trials"
            + (f"; {len(cut)} that a stop has cut go on first" if cut else ""),
            file=sys.stderr,
        )
    return Left(max(0, wanted - len(ended)), len(trials))


def refuse_luck(searched: Sequence[str]) -> None:
    """Raises UserError where a study is to search among seeds, and would take the luckiest."""
    for key in searched:
        if key == "seed" or key.endswith("data_seed"):
            own = "seeds=3 in its place: each trial is then a mean over 3 seeds"
            raise UserError(
                f"{key} has several values, and a study would choose the luckiest of them; type "
                + (own if key == "seed" else "one of them alone")
            )


def prepare_sweeper(sweeper: Any, mode: str) -> None:
    """Set direction, n_trials and seed of the composed `hydra.sweeper`, which is Optuna's.

    Raises UserError where its database cannot be used.
    """
    if "?" in str(sweeper.storage):
        raise UserError(
            f"hydra.sweeper.storage={sweeper.storage}: what comes after a question mark is no part "
            "of the database's name; choose another hydra.sweep.dir, without ?"
        )
    sweeper.direction = direction_of(mode)
    begun = 0
    if sweeper.storage is not None:
        options = (sweeper.storage, sweeper.study_name, sweeper.direction, sweeper.n_trials)
        sweeper.n_trials, begun = left_of_study(*options)
    if "seed" in sweeper.sampler:  # the same seed would propose the first trials again
        sweeper.sampler.seed = (sweeper.sampler.seed or 0) + begun
