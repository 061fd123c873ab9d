"""Checkpoints: whole states under orbax, with what the host must remember beside them."""

import logging
from pathlib import Path
from typing import NamedTuple

import jax
import orbax.checkpoint as ocp

from bilevel.algorithm import AlgorithmState
from src.settings.errors import UserError


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
    """All that a run needs to go on after a chunk: its state, the best state, the progress.

    The states have a leading axis of seeds.
    """

    state: AlgorithmState
    best: AlgorithmState
    progress: Progress


class Checkpoints(NamedTuple):
    """The checkpoints of one run folder."""

    manager: ocp.CheckpointManager

    def latest(self) -> int | None:
        """The iteration of the last checkpoint; None where there is none."""
        return self.manager.latest_step()

    def close(self) -> None:
        self.manager.close()

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
        step = self.latest() if step is None else step
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
