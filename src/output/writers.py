"""Where metrics go: console, JSONL, wandb, TensorBoard, in any combination."""

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from src.files import write_text
from src.output.tensorboard_writer import tensorboard_writer
from src.output.wandb_writer import Label, wandb_writer
from src.output.writer import Row, Writer, nothing, together
from src.settings.build import Experiment
from src.settings.checked import named_seeds

END_OF_RUN = "end_of_run"  # marks the scores of a last state between two validations


def open_writers(
    experiment: Experiment, config: Mapping[str, Any], folder: Path, resume_step: int
) -> Writer:
    """The writers that the configuration chooses; `config` is what wandb shows of it."""
    chosen, settings = experiment.writers, experiment.settings
    metrics = folder / "metrics.jsonl"
    earlier: list[Row] = []
    if chosen.wandb is not None or chosen.tensorboard:
        earlier = rows_until(resume_step, read_rows(metrics))
    writers: list[Writer] = []
    if chosen.wandb is not None:
        writers.append(wandb_writer(chosen.wandb, folder, label_of(experiment), config, earlier))
    if chosen.tensorboard:
        kept = bool(earlier) or not resume_step
        writers.append(tensorboard_writer(folder, config, earlier if kept else None))
    if chosen.jsonl:
        writers.append(jsonl_writer(metrics, resume_step))
    if chosen.console:
        writers.append(console_writer(resume_step, settings.num_iterations))
    return together(writers)


def label_of(experiment: Experiment) -> Label:
    """Problem, method and seeds; as tags, the kinds of the hypergradient and of the tasks, too."""
    settings, method = experiment.settings, experiment.method.name
    seeds = named_seeds(settings.seed, settings.seeds).replace(" ", "")
    estimator = experiment.hypergradient.name
    kind = "implicit" if estimator.startswith("implicit") else estimator.replace("_", " ")
    tasks = "one task" if experiment.source.persistent else "many tasks"
    tags = (experiment.problem_name, method, f"{kind} hypergradient", tasks)
    return Label(f"{experiment.problem_name}-{method}-{seeds}", tuple(tag[:64] for tag in tags))


def rows_until(step: int, rows: Sequence[Row]) -> list[Row]:
    """The rows that a run which goes on from this iteration keeps."""
    return [row for row in rows if row["step"] <= step and END_OF_RUN not in row]


def console_writer(first: int, last: int) -> Writer:
    """A progress bar on a terminal, a line at each validation anywhere."""
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(bar_width=None),
        TextColumn("upper loss {task.fields[loss]:.4g}  {task.fields[rate]:.4g} it/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    bar.start()
    line = bar.add_task("train", total=last, completed=first, loss=float("nan"), rate=0.0)

    def log(row: Row) -> None:
        prefix = "validation/"
        scores = {
            key.removeprefix(prefix): value
            for key, value in row.items()
            if key.startswith(prefix) and not key.endswith("_ci95")
        }
        if scores:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            console.print(f"iteration {row['step']}, validation: {shown}", soft_wrap=True)

    return Writer(
        progress=lambda step, loss, rate: bar.update(line, completed=step, loss=loss, rate=rate),
        log=log,
        close=lambda result, pictures: bar.stop(),
    )


def jsonl_writer(path: Path, resume_step: int) -> Writer:
    """One JSON object per line; rows after `resume_step`, or torn by a kill, are cut first.

    So are rows of `end_of_run`, which a longer run does not have. With a warning, a damaged file
    is kept beside the new one, and a file that goes missing during the run is begun again.
    """
    lines = _lines(path)
    rows = list(map(_row, lines))
    _keep_damaged(
        path, [r is None and ln.endswith("\n") for ln, r in zip(lines, rows, strict=True)]
    )
    kept = rows_until(resume_step, [row for row in rows if row])
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by the writer)

    def log(row: Row) -> None:
        nonlocal file
        if not _is_open_file(path, file):
            file.close()
            file = open(path, "a", encoding="utf-8")  # noqa: SIM115
            print(
                f"warning: {path} was removed or replaced during the run: it is begun again at "
                f"iteration {row['step']}, without the earlier rows",
                file=sys.stderr,
            )
        try:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    return Writer(progress=nothing, log=log, close=lambda result, pictures: file.close())


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file that can be read; [] where there is none."""
    return [row for row in map(_row, _lines(path)) if row is not None]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _row(line: str) -> Row | None:
    """None for what is no row: torn, damaged, or of another kind."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = line.endswith("\n") and isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if good else None


def _keep_damaged(path: Path, damaged: Sequence[bool]) -> None:
    """A copy of a file with lines that cannot be read; a torn last line is what a kill leaves."""
    numbers = [str(number) for number, is_so in enumerate(damaged, start=1) if is_so]
    if not numbers:
        return
    copy = path.with_name(f"{path.stem}-damaged-{secrets.token_hex(4)}{path.suffix}")
    copy.write_bytes(path.read_bytes())
    print(
        f"warning: {path} is damaged in line {', '.join(numbers[:5])}: its other rows are kept, "
        f"and the file as it was found is {copy.name}",
        file=sys.stderr,
    )


def _is_open_file(path: Path, file: TextIO) -> bool:
    """Whether the path still names the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False
