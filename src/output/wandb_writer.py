"""Rows, scores and pictures for Weights & Biases. The only file that knows wandb.

A run is one run there, however often it was stopped. wandb itself begins a new folder each time,
and an upload of the second replaces the first. So a resumed run first writes the rows that it has
already, and the earlier folders are put away: what is left is one folder with the whole history.
"""

import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from src.files import write_text
from src.output.writer import Row, Writer, nothing
from src.settings.checked import WandbOptions
from src.settings.errors import UserError, first_line

SECONDS = 12.0  # for an answer of its server
REPLACED = (
    "replaced"  # the folder, beside those of wandb's runs, of pieces that a later one repeats
)


class Label(NamedTuple):
    """What a run is called, and the words it can be found by."""

    name: str
    tags: tuple[str, ...]


def wandb_mode(configured: str) -> str:
    """The mode of the environment (WANDB_MODE), which wins, or else the configured one."""
    mode = os.environ.get("WANDB_MODE", "").strip().lower() or configured
    modes = get_args(get_type_hints(WandbOptions)["mode"])
    if mode not in modes:
        raise UserError(
            f"the environment's WANDB_MODE={mode} must be one of {', '.join(modes)}, or unset"
        )
    return mode


def wandb_writer(
    options: WandbOptions,
    folder: Path,
    label: Label,
    config: Mapping[str, Any],
    earlier: Sequence[Row] = (),
) -> Writer:
    """A wandb run in the run folder, offline by default; resuming continues the same run.

    earlier: the rows that the run has already logged, before it was stopped.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "logger: wandb is not installed; install it with `pip install wandb`, or choose "
            "logger=[console,jsonl]"
        ) from error
    pieces = sorted(folder.glob("wandb/offline-run-*"))
    run = _start(
        wandb,
        dir=folder,
        id=_run_id(folder),
        resume="allow",
        mode=wandb_mode(options.mode),
        project=options.project,
        group=options.group,
        tags=sorted({*label.tags, *options.tags}),
        name=options.name or label.name,
        config=dict(config),
        settings=wandb.Settings(silent=True, init_timeout=SECONDS),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    known = run.step  # of a run that its server has already: where the history ends there
    for row in earlier:
        if row["step"] >= known:
            run.log(row, step=row["step"])
    if earlier and known == 0:
        _put_away(pieces)
    last = earlier[-1]["step"] if earlier else 0

    def log(row: Row) -> None:
        nonlocal last
        last = row["step"]
        run.log(row, step=last)

    def close(result: Mapping[str, Any] | None, pictures: list[Path]) -> None:
        try:
            if pictures:
                media = {f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures}
                run.log({**media, "step": last})
            if result is not None:
                scalars = {k: v for k, v in result.items() if isinstance(v, int | float | str)}
                run.summary.update(scalars)
        finally:
            run.finish(exit_code=0 if result is not None else 1)

    return Writer(progress=nothing, log=log, close=close)


def _run_id(folder: Path) -> str:
    """The run's id, made at its start; of an agent of wandb's own sweeps, the id that it gave."""
    path = folder / "wandb_id.txt"
    if not path.exists():
        given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        write_text(path, given or secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()


def _start(wandb: Any, **options: Any) -> Any:
    """A started run: without a login, or an answer from the server, one that is kept offline."""
    try:
        return wandb.init(**options)
    except wandb.errors.Error as error:
        if options["mode"] != "online":
            raise _cannot_start(options, error) from error
        why = "wandb's server does not answer"
        if not isinstance(error, wandb.errors.CommError):
            why = "wandb does not start online; `wandb login` may be missing"
        print(
            f"warning: {why} ({first_line(error)}): this run is kept offline; upload it later with "
            f"`wandb sync {shlex.quote(str(options['dir']))}/wandb/offline-run-*`",
            file=sys.stderr,
        )
        wandb.teardown()  # it still holds the run's id
        return _start(wandb, **{**options, "mode": "offline"})
    except OSError as error:
        raise _cannot_start(options, error) from error


def _cannot_start(options: Mapping[str, Any], error: Exception) -> UserError:
    return UserError(
        f"logger.wandb.mode={options['mode']}: wandb does not start ({first_line(error)}); leave "
        "it out with logger=[console,jsonl]"
    )


def _put_away(pieces: Sequence[Path]) -> None:
    """Move the folders of earlier pieces to where `wandb sync` does not look."""
    for piece in pieces:
        replaced = piece.parent / REPLACED
        replaced.mkdir(exist_ok=True)
        piece.rename(replaced / piece.name)
