"""What launchers and sweepers, which others wrote, refuse or run into: in words for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.settings.errors import UserError, first_line

# Hydra's names for what its plugins bring, and the extra of pyproject.toml that has the plugin.
EXTRAS = {
    "hydra/launcher": {
        "joblib": "sweeps",
        "submitit_local": "sweeps",
        "submitit_slurm": "sweeps",
        "ray": "ray",
        "ray_aws": "ray",
    },
    "hydra/sweeper": {"optuna": "sweeps"},
}
GO_ON = "the same command with the same hydra.sweep.dir does what is left"


def choice_message(group: str, name: str, typed: str, conf: str) -> str:
    """For a launcher or sweeper that Hydra does not find: the extra to install, or the choices.

    name: what is not found; typed: the choice that needs it.
    """
    extra = EXTRAS[group].get(name)
    if extra is not None:
        return (
            f"{group}={typed} needs a package that is not installed: pip install -e '.[{extra}]' "
            f"installs it; {group}=basic needs none, and runs one job after the other"
        )
    ours = {file.stem for file in Path(conf, group).glob("*.yaml")}
    listed = ", ".join(sorted({"basic", *EXTRAS[group], *ours}))
    return f"{group}={name} is not known: choose {listed}"


def check_numbers(launcher: Mapping[str, Any], sweeper: Mapping[str, Any]) -> None:
    """Raises UserError where a number of theirs would end in an error of another's code."""
    at_least_one = {
        "hydra.launcher.n_jobs": launcher.get("n_jobs"),
        "hydra.launcher.timeout_min": launcher.get("timeout_min"),
        "hydra.launcher.array_parallelism": launcher.get("array_parallelism"),
        "hydra.sweeper.n_jobs": sweeper.get("n_jobs"),
        "hydra.sweeper.n_trials": sweeper.get("n_trials"),
        "hydra.sweeper.max_batch_size": sweeper.get("max_batch_size"),
    }
    for key, value in at_least_one.items():
        if key == "hydra.launcher.n_jobs" and value == -1:  # all cores
            continue
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise UserError(f"{key}={value} must be a whole number of at least 1")


def message_of_launcher(error: Exception) -> str | None:
    """For what a launcher or Optuna raises; None where it is something else."""
    text, package = str(error), type(error).__module__.partition(".")[0]
    if 'Could not detect "srun"' in text:
        return (
            "there is no Slurm on this machine (no command srun): run this on a machine that "
            "submits jobs, or choose hydra/launcher=slurm_on_this_machine to try it here, or "
            "hydra/launcher=processes"
        )
    if "not requeued" in text:
        return (
            "its time was up, and more often than hydra.launcher.max_num_timeout allows, so it was "
            f"not queued again; its checkpoint is kept: {GO_ON}"
        )
    if package == "submitit":
        return (
            f"a job ended without an answer ({first_line(error)}). Jobs that still run are not "
            "stopped; .submitit/ in the sweep's folder has the logs of all. Once they have ended, "
            + GO_ON
        )
    if package in ("joblib", "loky"):
        return (
            "a process of the sweep was killed, mostly because memory ran out, and the sweep ended "
            f"with it: {GO_ON}; hydra.launcher.n_jobs=1 needs least memory"
        )
    if package == "ray":
        return f"ray stopped ({first_line(error)}): {GO_ON}"
    if "No trials are completed yet" in text or text == "Record does not exist.":
        return (
            "no trial of the study gave a number, so there is no best one: failures.jsonl in the "
            "sweep's folder has the reasons, and a larger hydra.sweeper.n_trials adds trials"
        )
    if "does not support sweep type" in text:
        return (
            "an interval is for Optuna alone (sweep=study, or hydra/sweeper=optuna): write a list "
            "of values, such as 0.1,0.3"
        )
    if "GridSampler only supports" in text:
        return (
            "hydra/sweeper/sampler=grid needs a list of values for each key that is searched, and "
            "some key has an interval: write KEY=choice(VALUE), or a sweep without sweep=study"
        )
    if "dynamic value space" in text:
        return (
            "the study in this folder was begun with other choices of hydra.sweeper.params: choose "
            "another hydra.sweep.dir"
        )
    return None
