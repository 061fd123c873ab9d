"""Checkpoints: whole states under orbax, with what the host must remember beside them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bilevel.algorithm import AlgorithmState
from src.files import write_json
from src.settings.errors import UserError

FORMAT = 2


class Progress(NamedTuple):
    """What the host remembers: iterations done, rows not yet logged, the best states so far.

    pending: one dict per iteration, {metric: one value per seed}. Of each seed: best_value and
    best_step, None before the first validation; failed, why it is left out, "" while it is not.
    timed_steps, timed_seconds, timed_cpu_seconds: of the chunks alone, without the first of a
    process (it compiles); CPU seconds are those of all threads.
    """

    step: int
    pending: tuple[dict[str, list[float]], ...]
    best_value: tuple[float | None, ...]
    best_step: tuple[int | None, ...]
    failed: tuple[str, ...]
    seconds: float = 0.0
    timed_steps: int = 0
    timed_seconds: float = 0.0
    timed_cpu_seconds: float = 0.0

    def alive(self) -> list[bool]:
        """Which seeds go on."""
        return [not reason for reason in self.failed]

    def iterations_per_second(self) -> float:
        """Of the timed chunks; where there is none yet, of everything, compilation included."""
        if self.timed_steps:
            return self.timed_steps / self.timed_seconds
        return self.step / self.seconds if self.seconds else 0.0

    def cpu_seconds_per_iteration(self) -> float | None:
        """On a shared machine steadier than the clock; None where no chunk was timed."""
        return self.timed_cpu_seconds / self.timed_steps if self.timed_steps else None


def no_progress(num_seeds: int) -> Progress:
    """Before the first iteration."""
    return Progress(0, (), (None,) * num_seeds, (None,) * num_seeds, ("",) * num_seeds)


class Snapshot(NamedTuple):
    """All that a run is, between two chunks: its state, the best state, what the host remembers.

    The states have a leading axis of seeds.
    """

    state: AlgorithmState
    best: AlgorithmState
    progress: Progress


class Checkpoints(NamedTuple):
    """The checkpoints of one run folder."""

    manager: ocp.CheckpointManager

    def save(self, snapshot: Snapshot) -> None:
        """Write one checkpoint; it appears under its final name only when complete."""
        self.manager.save(
            snapshot.progress.step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({"last": snapshot.state, "best": snapshot.best}),
                progress=ocp.args.JsonSave(snapshot.progress._asdict()),
            ),
            force=True,
        )
        self.manager.wait_until_finished()

    def restore(self, like: Snapshot, step: int | None = None) -> Snapshot | None:
        """A checkpoint (None: the latest) in the shapes of `like`; None where there is none.

        Raises UserError where that step is not kept, or its files cannot be read.
        """
        kept = self.manager.all_steps()
        if step is not None and step not in kept:
            raise UserError(
                f"checkpoint={step} is not kept in {self.manager.directory}; choose one of "
                f"{', '.join(map(str, sorted(kept)))}, or last, or best"
            )
        step = self.manager.latest_step() if step is None else step
        if step is None:
            return None
        shapes = jax.tree.map(
            ocp.utils.to_shape_dtype_struct, {"last": like.state, "best": like.best}
        )
        try:
            restored = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()
                ),
            )
            progress = restored["progress"]
            per_seed = ("pending", "best_value", "best_step", "failed")
            progress = Progress(**{**progress, **{k: tuple(progress[k]) for k in per_seed}})
        except Exception as error:
            raise UserError(
                f"the checkpoint {Path(self.manager.directory) / str(step)} cannot be read "
                f"({_first_line(error)}); delete that folder to go on from the one before it, or "
                "choose another hydra.run.dir"
            ) from error
        return Snapshot(restored["state"]["last"], restored["state"]["best"], progress)


def open_checkpoints(run_dir: Path, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a run folder: the last two are kept, half-written ones removed.

    read_only: nothing is touched, so a run that is still going on may be looked at.
    """
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    manager = ocp.CheckpointManager(
        (run_dir / "checkpoints").resolve(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        ),
    )
    return Checkpoints(manager)


def claim(run_dir: Path, identity: Mapping[str, Any], resume: str) -> None:
    """Make the folder this run's own, or refuse it because it is another's.

    Raises UserError where the folder holds a run of another configuration or of another format,
    and with resume=never where it holds any run.
    """
    path = run_dir / "identity.json"
    mine = json.loads(json.dumps(identity))
    if not path.exists() and any((run_dir / "checkpoints").glob("*")):
        raise UserError(
            f"{run_dir} holds checkpoints but no identity.json, so nobody knows whose they are: "
            "choose another hydra.run.dir"
        )
    if not path.exists():
        write_json(path, {"format": FORMAT, "config": mine})
        return
    theirs = refuse_other_format(run_dir)
    if theirs != mine:
        different = "; ".join(_differences("", theirs, mine)[:4])
        raise UserError(
            f"{run_dir} belongs to a run of another configuration ({different}): "
            "choose another hydra.run.dir, or repeat that configuration to continue it"
        )
    if resume == "never":
        raise UserError(
            f"resume=never, but {run_dir} already holds this run: choose another hydra.run.dir, "
            "or resume=auto to continue it"
        )


def refuse_other_format(run_dir: Path) -> Any:
    """The configuration that a run folder belongs to, {} where it says none.

    Raises UserError where it is damaged, or of another format.
    """
    path = run_dir / "identity.json"
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        found_format, config = stored["format"], stored["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: choose another hydra.run.dir") from error
    if found_format != FORMAT:
        raise UserError(
            f"{run_dir} was written in checkpoint format {found_format}, this code reads format "
            f"{FORMAT}: choose another hydra.run.dir, or the version of the code that wrote it"
        )
    return config


def _differences(path: str, theirs: Any, mine: Any) -> list[str]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return [
            line
            for key in {**theirs, **mine}
            for line in _differences(
                f"{path}.{key}" if path else key, theirs.get(key), mine.get(key)
            )
        ]
    return [] if theirs == mine else [f"{path} was {theirs!r}, now {mine!r}"]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
