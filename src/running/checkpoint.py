"""Checkpoints: whole states under orbax, with what the host must remember beside them."""

import json
import logging
import re
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from bilevel.types import Tree
from src.files import write_json
from src.running.snapshot import Progress, Snapshot, digest_of
from src.settings.errors import UserError, first_line
from src.settings.overrides import as_typed_in_shell
from src.settings.placing import on_host, placed_like, plain

# Of these orbax and tensorstore make no pattern, address or separator.
PLAIN_PATH = re.compile(r"[\w /.,=+@~-]*")


class _Damaged(Exception):
    """A checkpoint that can be read, but is not what was written."""


class Checkpoints(NamedTuple):
    """The checkpoints of one run folder; `alias` is a name of it that orbax can read."""

    manager: ocp.CheckpointManager
    folder: Path
    alias: tempfile.TemporaryDirectory | None

    def latest(self) -> int | None:
        """The iteration of the last checkpoint; None where there is none."""
        return self.manager.latest_step()

    def close(self) -> None:
        self.manager.close()
        if self.alias is not None:
            self.alias.cleanup()

    def save(self, snapshot: Snapshot) -> None:
        """Write one checkpoint; it appears under its final name only when complete.

        Raises UserError where it cannot be written: the one before it is then still there.
        """
        # Numpy arrays are one form for all runs: on one process or several, on any device.
        snapshot = snapshot._replace(state=on_host(snapshot.state), best=on_host(snapshot.best))
        progress = {**snapshot.progress._asdict(), "digest": digest_of(snapshot)}
        step, before = snapshot.progress.step, self.latest()
        try:
            self._remember_files(but=step)
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave({"last": snapshot.state, "best": snapshot.best}),
                    progress=ocp.args.JsonSave(progress),
                ),
                force=True,
            )
            self.manager.wait_until_finished()
            with suppress(OSError):  # a step without an entry is verified by its own digest
                self._remember_files()
        except Exception as error:
            kept = "no checkpoint was written yet"
            if before is not None:
                kept = f"the checkpoint of iteration {before} is kept"
            again = as_typed_in_shell("hydra.run.dir", str(self.folder.parent))
            raise UserError(
                f"the checkpoint of iteration {step} cannot be written to {self.folder} "
                f"({_reason(error)}); {kept}. Make room on the disk, or see who may write there, "
                f"and run the same command with {again} to go on"
            ) from error

    def restore(self, like: Snapshot, step: int | None = None) -> Snapshot | None:
        """A checkpoint (None: the latest) on the devices of `like`; None where there is none.

        Raises UserError as `read` does.
        """
        return on_devices(self.read(like, step), like)

    def read(self, like: Snapshot, step: int | None = None) -> Snapshot | None:
        """A checkpoint (None: the latest) in numpy, in the shapes of `like`; None without one.

        Raises UserError where that step is not kept, where its files cannot be read, and where
        they do not hold what was written.
        """
        kept = sorted(self.manager.all_steps())
        if step is not None and step not in kept:
            raise UserError(
                f"checkpoint={step} is not kept in {self.folder}; choose one of "
                f"{', '.join(map(str, kept))}, or last, or best"
            )
        step = self.latest() if step is None else step
        if step is None:
            return None
        shapes = jax.tree.map(_empty, {"last": like.state, "best": like.best})
        try:
            # Before orbax reads anything: it prints traces of its own where files are damaged.
            written = self._remembered().get(str(step))
            if written is not None and written != digest_of_files(self.folder / str(step)):
                raise _Damaged
            restored = self.manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(shapes), progress=ocp.args.JsonRestore()
                ),
            )
            stored = dict(restored["progress"])
            digest = stored.pop("digest")
            per_seed = ("pending", "best_value", "best_step", "failed")
            progress = Progress(**{**stored, **{k: tuple(stored[k]) for k in per_seed}})
            snapshot = Snapshot(restored["state"]["last"], restored["state"]["best"], progress)
            if digest_of(snapshot) != digest or progress.step != step:
                raise _Damaged
        except _Damaged:
            how = "is damaged: it does not hold what was written"
            raise self._damaged(step, kept, how) from None
        except Exception as error:
            raise self._damaged(step, kept, f"cannot be read ({_reason(error)})") from error
        self._refuse_other_shapes(step, restored["state"], shapes)
        return snapshot

    def _refuse_other_shapes(self, step: int, theirs: Tree, ours: Tree) -> None:
        """Orbax returns arrays as they were written, whatever shapes it is told."""
        pairs = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
        for (path, our), their in pairs:
            if our.shape != their.shape:
                raise UserError(
                    f"the checkpoint {self.folder / str(step)} does not fit the data as they are "
                    f"now ({jax.tree_util.keystr(path, simple=True, separator='.')} of shape "
                    f"{their.shape} there, {our.shape} here): put back the files that the run was "
                    "trained on, or train on the new ones in another hydra.run.dir"
                )

    def _digests(self) -> Path:
        return self.folder.parent / "checkpoint_digests.json"

    def _remembered(self) -> dict[str, str]:
        """{step: digest of its files}; {} where that cannot be read, as a step holds its own."""
        with suppress(OSError, ValueError):
            stored = json.loads(self._digests().read_text(encoding="utf-8"))
            return stored if isinstance(stored, dict) else {}
        return {}

    def _remember_files(self, but: int | None = None) -> None:
        """Write the digests of all kept steps; `but`: of a step that is about to be written."""
        known = self._remembered()
        steps = [str(step) for step in self.manager.all_steps() if step != but]
        new = {s: known.get(s) or digest_of_files(self.folder / s) for s in steps}
        if new != known:
            write_json(self._digests(), new)

    def _damaged(self, step: int, kept: list[int], how: str) -> UserError:
        others = [str(other) for other in kept if other != step]
        then = "begin again"
        if others:
            then = (
                f"go on from iteration {others[-1]} (to look at that one: checkpoint={others[-1]})"
            )
        return UserError(
            f"the checkpoint {self.folder / str(step)} {how}; delete that folder to {then}, or "
            "choose another hydra.run.dir"
        )


def on_devices(read: Snapshot | None, like: Snapshot) -> Snapshot | None:
    """What was read, as arrays like those of `like`."""
    if read is None:
        return None
    state, best = placed_like((read.state, read.best), (like.state, like.best))
    return read._replace(state=state, best=best)


def _empty(leaf: jax.Array) -> np.ndarray:
    """What orbax is told of a leaf: shape and type, here of the numbers of a random key."""
    shape = jax.eval_shape(plain, leaf)
    return np.empty(shape.shape, shape.dtype)


def kept_steps(run_dir: Path) -> list[int]:
    """The iterations whose checkpoints a run folder holds; half-written ones have longer names."""
    named = [path.name for path in (run_dir / "checkpoints").glob("*") if path.is_dir()]
    return sorted(int(name) for name in named if re.fullmatch("[0-9]+", name))


def open_checkpoints(run_dir: Path, read_only: bool = False) -> Checkpoints:
    """The checkpoints of a run folder: the last two are kept, half-written ones removed.

    Of several processes that have joined a run, this one alone reads and writes them.
    read_only: nothing is touched, so a run that is still going on may be looked at.
    """
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what is wrong is said by us
    folder = (run_dir / "checkpoints").resolve()
    alias = None
    if not PLAIN_PATH.fullmatch(str(folder)):
        # Orbax reads some characters as a pattern or an address, and would lose the files.
        alias = tempfile.TemporaryDirectory(prefix="bilevel-")
        (Path(alias.name) / "run").symlink_to(folder.parent, target_is_directory=True)
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    manager = ocp.CheckpointManager(
        folder if alias is None else Path(alias.name) / "run" / folder.name,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=2,
            create=False,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            multiprocessing_options=_this_process_alone(),
        ),
    )
    return Checkpoints(manager, folder, alias)


def _this_process_alone() -> MultiprocessingOptions:
    """So that orbax waits for no other process."""
    number = jax.process_index()
    if jax.process_count() == 1:
        return MultiprocessingOptions()
    return MultiprocessingOptions(
        primary_host=number,
        active_processes={number},
        barrier_sync_key_prefix=f"process{number}",
    )


def digest_of_files(folder: Path) -> str:
    """A digest of the names and contents of all files below a folder."""
    digest = blake2b(digest_size=16)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode(errors="replace"))
        digest.update(content)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"
