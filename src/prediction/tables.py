"""Where predictions are written, and how: tables as CSV, whole or not at all."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.files import write_atomically
from src.running.run_folder import Run

Options = Mapping[str, str]
Report = tuple[list[str], Path]  # lines for people, and the table that was written


def predictions_folder(run: Run) -> Path:
    folder = run.folder / "predictions"
    folder.mkdir(exist_ok=True)
    return folder


def heading(run: Run, step: int, options: Options) -> str:
    """What was asked: the run, the iteration of its state, and how that was chosen."""
    return f"{run.experiment.title()}, iteration {step} ({options.get('checkpoint', 'last')})"


def state_name(options: Options) -> str:
    seed = f"-seed{options['seed']}" if "seed" in options else ""
    return f"{options.get('checkpoint', 'last')}{seed}"


def decimals(rows: np.ndarray) -> list[list[str]]:
    """Seven digits: what a float32 holds."""
    return [[f"{value:.7g}" for value in row] for row in rows]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    def write(temporary: Path) -> None:
        # Names of files may be no text at all.
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)
