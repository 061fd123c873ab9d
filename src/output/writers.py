"""Where metrics go: console, JSONL, wandb, in any combination. The only file that knows wandb."""

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO, get_args, get_type_hints

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from src.files import write_text
from src.settings.build import Experiment
from src.settings.checked import WandbOptions, named_seeds
from src.settings.errors import UserError, first_line

Row = dict[str, Any]
WANDB_SECONDS = 12.0  # for an answer of its server
END_OF_RUN = "end_of_run"  # marks the scores of a last state between two validations


class Writer(NamedTuple):
    """progress(step, upper_loss, iterations/s) often; log(row); close(result, pictures) once."""

    progress: Callable[[int, float, float], None]
    log: Callable[[Row], None]
    close: Callable[[Mapping[str, Any] | None, list[Path]], None]


def open_writers(
    experiment: Experiment, config: Mapping[str, Any], folder: Path, resume_step: int
) -> Writer:
    """The writers that the configuration chooses; `config` is what wandb shows of it."""
    chosen, settings = experiment.writers, experiment.settings
    writers: list[Writer] = []
    if chosen.wandb is not None:
        seeds = named_seeds(settings.seed, settings.seeds).replace(" ", "")
        name = f"{experiment.problem_name}-{experiment.method.name}-{seeds}"
        writers.append(wandb_writer(chosen.wandb, folder, name, config))
    if chosen.jsonl:
        writers.append(jsonl_writer(folder / "metrics.jsonl", resume_step))
    if chosen.console:
        writers.append(console_writer(resume_step, settings.num_iterations))
    return together(writers)


def together(writers: list[Writer]) -> Writer:
    """Several writers as one."""

    def progress(step: int, upper_loss: float, rate: float) -> None:
        for writer in writers:
            writer.progress(step, upper_loss, rate)

    def log(row: Row) -> None:
        for writer in writers:
            writer.log(row)

    def close(result: Mapping[str, Any] | None, pictures: list[Path]) -> None:
        with ExitStack() as stack:  # closes each, whatever happens to the others
            for writer in reversed(writers):
                stack.callback(writer.close, result, pictures)

    return Writer(progress, log, close)


def _nothing(*_: Any) -> None:
    return None


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
    kept = [r for r in rows if r and r["step"] <= resume_step and END_OF_RUN not in r]
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

    return Writer(progress=_nothing, log=log, close=lambda result, pictures: file.close())


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


def wandb_mode(configured: str) -> str:
    """The mode of the environment (WANDB_MODE), which wins, or else the configured one."""
    mode = os.environ.get("WANDB_MODE", "").strip().lower() or configured
    modes = get_args(get_type_hints(WandbOptions)["mode"])
    if mode not in modes:
        raise UserError(
            f"the environment's WANDB_MODE={mode} must be one of {', '.join(modes)}, or unset"
        )
    return mode


def _start_wandb(wandb: Any, **options: Any) -> Any:
    """A started run: without an answer from the server, one that is kept offline."""
    try:
        return wandb.init(**options)
    except wandb.errors.CommError as error:
        print(
            f"warning: wandb's server does not answer ({first_line(error)}): this run is kept "
            f"offline; upload it later with `wandb sync {options['dir']}/wandb/offline-run-*`",
            file=sys.stderr,
        )
        wandb.teardown()  # it still holds the run's id
        return wandb.init(**{**options, "mode": "offline"})
    except (wandb.errors.Error, OSError) as error:
        raise UserError(
            f"logger.wandb.mode={options['mode']}: wandb does not start ({first_line(error)}); "
            "run `wandb login` for mode=online, choose logger.wandb.mode=offline, or leave wandb "
            "out with logger=[console,jsonl]"
        ) from error


def wandb_writer(
    options: WandbOptions, folder: Path, name: str, config: Mapping[str, Any]
) -> Writer:
    """A wandb run in the run folder, offline by default; resuming continues the same run id."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logger: wandb is not installed; install it with `pip install wandb`, or choose "
            "logger=[console,jsonl]"
        ) from error
    id_file = folder / "wandb_id.txt"
    if not id_file.exists():
        write_text(id_file, secrets.token_hex(4))
    run = _start_wandb(
        wandb,
        dir=folder,
        id=id_file.read_text(encoding="utf-8").strip(),
        resume="allow",
        mode=wandb_mode(options.mode),
        project=options.project,
        group=options.group,
        tags=options.tags,
        name=name,
        config=dict(config),
        settings=wandb.Settings(silent=True, init_timeout=WANDB_SECONDS),
    )

    def close(result: Mapping[str, Any] | None, pictures: list[Path]) -> None:
        try:
            if pictures:
                run.log({f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures})
            if result is not None:
                scalars = {k: v for k, v in result.items() if isinstance(v, int | float)}
                run.summary.update(scalars)
        finally:
            run.finish(exit_code=0 if result is not None else 1)

    return Writer(progress=_nothing, log=lambda row: run.log(row, step=row["step"]), close=close)
