"""A sweep: every job runs, and what was refused or failed is listed at the end."""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

FAILURES = "failures.jsonl"


def record_failure(sweep_dir: Path, folder: Path, overrides: Sequence[str], reason: str) -> None:
    """Note a job that gave no result, one line in the sweep's folder, and say so."""
    line = {"folder": str(folder), "overrides": list(overrides), "reason": reason}
    with open(sweep_dir / FAILURES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")  # one write: jobs of other processes write here too
    print(f"error: {' '.join(overrides)}: {reason}", file=sys.stderr)


def list_of_failures(sweep_dir: Path) -> str:
    """What to print at the end of a sweep; "" where every job has a result."""
    failures = read_failures(sweep_dir)
    if not failures:
        return ""
    lines = [f"{len(failures)} jobs gave no result:"]
    for failure in failures:
        lines += [f"  {failure.overrides}", f"    {failure.folder}", f"    {failure.reason}"]
    lines.append(
        f"The others are in {sweep_dir}. The same command with hydra.sweep.dir={sweep_dir} "
        "tries these again and skips what is finished."
    )
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
        """Failures of an earlier try are no longer true."""
        (Path(config.hydra.sweep.dir) / FAILURES).unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit status 1 where a job gave no result. (Hydra swallows any other exception here.)"""
        failures = list_of_failures(Path(config.hydra.sweep.dir).resolve())
        if failures:
            sys.exit(failures)
