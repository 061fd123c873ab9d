"""Run a row: one run of src.train for each seed, in a folder of its own, so that it continues."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.results.row import Row
from src.settings.cli import compose_config
from src.settings.config import resolve
from src.settings.errors import UserError


def config_of(row: Row, seed: int, typed: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a run of the row; `typed` wins. wandb is left out."""
    overrides = ["logger=[console,jsonl]", *row.overrides, f"seed={seed}", *typed]
    return resolve(compose_config(overrides)[0])


def folder_of(row: Row, seed: int, runs: Path) -> Path:
    """Where the run of a seed lies."""
    return runs / row.name / f"seed{seed}"


def rerun(row: Row, seed: int, runs: Path, typed: Sequence[str] = ()) -> Mapping[str, Any]:
    """The result of a seed; a run that was stopped goes on, a finished one is read.

    Raises UserError as src.train does, also where data is missing, and Stopped; and where the
    result lacks a score that the row quotes.
    """
    from src.running.run import run

    overrides = [*row.overrides, f"seed={seed}", *typed]
    result = run(config_of(row, seed, typed), folder_of(row, seed, runs), overrides)
    for quoted in row.quoted:
        if quoted.score not in result:
            listed = ", ".join(name for name in result if "/" in name)
            raise UserError(
                f"the result of {row.name} has no {quoted.score}, which the row quotes; it has "
                f"{listed}: mend the row in src/results"
            )
    return result
