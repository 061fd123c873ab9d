"""Where a run stands between two chunks: its states, and what the host remembers."""

import json
from hashlib import blake2b
from typing import NamedTuple

import jax
import numpy as np

from bilevel.algorithm import AlgorithmState
from src.settings.placing import plain


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


def digest_of(snapshot: Snapshot) -> str:
    """A digest of every number of a snapshot: names, types, shapes and bytes."""
    digest = blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path((snapshot.state, snapshot.best)):
        array = np.asarray(plain(leaf))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(snapshot.progress._asdict(), sort_keys=True).encode())
    return digest.hexdigest()
