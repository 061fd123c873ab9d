"""A sweep: its jobs are named by what differs, all run, and the failures are listed at the end."""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from src.settings.errors import UserError
from src.settings.hosts import refuse_sweep
from src.settings.launchers import check_numbers
from src.settings.overrides import as_typed_in_shell, quoted
from src.settings.study import prepare_sweeper, refuse_luck
from src.settings.sweep_names import constant_keys, job_name

FAILURES = "failures.jsonl"

# Hydra resolves hydra.sweep.subdir in the process of each job, which imports this file on its way.
OmegaConf.register_new_resolver("job_name", job_name, replace=True)


def record_failure(sweep_dir: Path, folder: Path, overrides: Sequence[str], reason: str) -> None:
    """Note a job that gave no result, one line in the sweep's folder, and say so."""
    line = {"folder": str(folder), "overrides": list(overrides), "reason": reason}
    with open(sweep_dir / FAILURES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")  # one write: jobs of other processes write here too
    print(f"error: {' '.join(overrides)}: {reason}", file=sys.stderr)


def list_of_failures(sweep_dir: Path, study: bool) -> str:
    """What to print at the end of a sweep (study: Optuna's); "" where every job has a result."""
    failures = read_failures(sweep_dir)
    if not failures:
        return ""
    lines = [f"{len(failures)} job{'s' * (len(failures) > 1)} gave no result:"]
    for failure in failures:
        lines += [f"  {failure.overrides}", f"    {failure.folder}", f"    {failure.reason}"]
    again = (
        f"The same command with {_again(sweep_dir)} tries these again and skips what is finished."
    )
    if study:
        again = (
            "A trial that failed counts as one of the study and is not tried again; a larger "
            f"hydra.sweeper.n_trials with {_again(sweep_dir)} adds trials."
        )
    lines.append(f"The others are in {sweep_dir}. {again}")
    return "\n".join(lines)


class Failure(NamedTuple):
    """A job that gave no result: its folder, what was typed for it, and why."""

    folder: Path
    overrides: str
    reason: str


def read_failures(sweep_dir: Path) -> list[Failure]:
    """What `record_failure` has noted in this folder; lines that a kill has torn are left out."""
    try:
        lines = (sweep_dir / FAILURES).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            of = json.loads(line)
            found.append(Failure(Path(of["folder"]), " ".join(of["overrides"]), of["reason"]))
    return found


class SweepReport(Callback):
    """Hydra calls these in the process of the command, before and after all jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say where the sweep is, and leave out of its jobs' names what they all have.

        Hydra makes every job from this config. It only warns of an exception raised here.
        """
        folder = Path(config.hydra.sweep.dir).resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_sweep(config.get("coordinator"))
            _refuse_folder_of_one_run(config.hydra.overrides.hydra)
            check_numbers(config.hydra.launcher, config.hydra.sweeper)
            print(
                f"sweep in {folder}; if it stops, the same command with {_again(folder)} does what "
                "is left",
                file=sys.stderr,
            )
            _leave_out_what_is_alike(config)
            if _is_study(config):
                refuse_luck([o.key_or_group for o in _in_order(config) if o.is_sweep_override()])
                prepare_sweeper(config.hydra.sweeper, config.problem.monitor.mode)
            if not _is_complete(config):
                (folder / FAILURES).unlink(missing_ok=True)  # of an earlier try: no longer true
        except OSError as error:
            sys.exit(
                f"error: hydra.sweep.dir={folder} cannot be written ({error.strerror}): choose "
                "another hydra.sweep.dir"
            )
        except UserError as error:
            sys.exit(f"error: {error}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit status 1 where a job gave no result. (Hydra swallows any other exception here.)"""
        failures = list_of_failures(Path(config.hydra.sweep.dir).resolve(), _is_study(config))
        if failures and not _is_complete(config):
            sys.exit(failures)


def _is_study(config: DictConfig) -> bool:
    return str(config.hydra.sweeper._target_).endswith(".OptunaSweeper")


def _is_complete(config: DictConfig) -> bool:
    """Whether this is a study without a trial left: no job runs, and what failed stays failed."""
    return _is_study(config) and config.hydra.sweeper.n_trials == 0


def _refuse_folder_of_one_run(overrides: Sequence[str]) -> None:
    for key, _, value in (text.lstrip("+").partition("=") for text in overrides):
        if key == "hydra.run.dir":
            instead = shlex.quote(f"hydra.sweep.dir={value}")
            raise UserError(
                f"{key}={value} is the folder of one run, and a sweep gives each job a folder of "
                f"its own: type {instead}"
            )


def _again(sweep_dir: Path) -> str:
    return as_typed_in_shell("hydra.sweep.dir", str(sweep_dir))


def _leave_out_what_is_alike(config: DictConfig) -> None:
    """Keep what all jobs share out of hydra.job.override_dirname, from which their names come."""
    overrides = _in_order(config)
    alike = constant_keys((o.key_or_group, o.is_sweep_override()) for o in overrides)
    alike += config.hydra.job.config.override_dirname.exclude_keys
    key = "hydra.job.config.override_dirname.exclude_keys"
    with open_dict(config):
        config.hydra.overrides.hydra.append(f"{key}=[{','.join(map(quoted, alike))}]")


def _in_order(config: DictConfig) -> list[Override]:
    """What the sweeper's own parameters and the command line say, the later over the earlier."""
    params = config.hydra.sweeper.get("params") or {}
    own = [f"{key}={value}" for key, value in params.items()]
    return OverridesParser.create().parse_overrides([*own, *config.hydra.overrides.task])
