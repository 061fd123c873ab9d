"""One run in several processes: process 0 alone writes, and all decide the same.

All processes run the same program on the same numbers, so what they compute from results they
decide alike. What one alone can know (a file, a signal) it tells the others by these functions,
which all processes call in the same order. With one process they only call what they are given.
"""

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from src.running.stopping import Stopped
from src.settings.errors import UserError
from src.settings.placing import devices_by_process

T = TypeVar("T")
TOLD = "(the other processes of the run have been told, and end, too)"


class Processes(NamedTuple):
    """How many processes share out the run, and which one this is, from 0."""

    number: int
    rank: int

    def first(self, action: Callable[[], T]) -> T:
        """What `action` gives in process 0, in all; nobody else acts. Errors are raised in all."""
        if self.number == 1:
            return action()
        told, own = _attempt(action) if self.rank == 0 else ((None, None), None)
        value, why = pickle.loads(_from_first(self, pickle.dumps(told)))
        if own is not None:
            own.add_note(TOLD)
            raise own
        if why is not None:
            raise UserError(f"process 0 of {self.number}: {why}")
        return value

    def each(self, action: Callable[[], T]) -> T:
        """What `action` gives here, once it has ended in all. The first error is raised in all."""
        if self.number == 1:
            return action()
        (value, why), own = _attempt(action)
        reasons = self.said(why or "")
        if own is not None:
            own.add_note(TOLD)
            raise own
        for rank, reason in enumerate(reasons):
            if reason:
                raise UserError(f"process {rank} of {self.number}: {reason}")
        return value  # type: ignore[return-value]

    def said(self, text: str) -> list[str]:
        """What each process says, in all of them."""
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = _gathered(self, np.array([len(own)], np.int32))
        padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
        padded[: len(own)] = own
        rows = _gathered(self, padded)
        return [row[:n].tobytes().decode() for row, (n,) in zip(rows, lengths, strict=True)]

    def largest(self, number: int) -> int:
        """The largest of the numbers of all."""
        if self.number == 1:
            return number
        return int(_gathered(self, np.array([number], np.int32)).max())


ONE = Processes(1, 0)


@contextmanager
def leaving(processes: Processes) -> Iterator[None]:
    """An error of this process alone ends the others, too: without it they cannot go on."""
    try:
        yield
    except (UserError, Stopped):
        raise  # in all processes at once
    except BaseException as error:
        if processes.number == 1 or TOLD in getattr(error, "__notes__", ()):
            raise
        # At its end jax would wait for the others, which wait for this one.
        atexit.register(_leave_at_once)
        if isinstance(error, jax.errors.JaxRuntimeError | ValueError) and "Gloo" in str(error):
            raise UserError(
                "another process of this run has ended, and says why; the last checkpoint is "
                "kept: start all processes again, or fewer, with the same hydra.run.dir to go on"
            ) from error
        raise


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _attempt(action: Callable[[], T]) -> tuple[tuple[T | None, str | None], Exception | None]:
    """(its value, why there is none, for the others), and the error itself."""
    try:
        return (action(), None), None
    except (UserError, OSError) as error:
        return (None, str(error)), error
    except Exception as error:
        return (None, f"a defect of the program: {type(error).__name__}: {error}"), error


def _from_first(processes: Processes, blob: bytes) -> bytes:
    """The blob of process 0, in all."""
    own = np.frombuffer(blob if processes.rank == 0 else b"", np.uint8)
    # As eight bytes: without float64, jax has no integers beyond 2 GiB.
    told = _total(processes.number, np.frombuffer(len(own).to_bytes(8, "big"), np.uint8))
    length = int.from_bytes(told.tobytes(), "big")
    padded = own if processes.rank == 0 else np.zeros(length, np.uint8)
    return _total(processes.number, padded).tobytes()


def _gathered(processes: Processes, own: np.ndarray) -> np.ndarray:
    """A row of each process, in all."""
    rows = np.zeros((processes.number, len(own)), own.dtype)
    rows[processes.rank] = own
    return _total(processes.number, rows)


def _total(number: int, array: np.ndarray) -> np.ndarray:
    """The sum over the processes, entry by entry, in all of them."""
    firsts = [devices[0] for devices in devices_by_process()]
    mesh = Mesh(np.array(firsts), ("processes",))
    rows = jax.make_array_from_callback(
        (number, *array.shape),
        NamedSharding(mesh, PartitionSpec("processes")),
        lambda _: array[None],
    )
    total = jax.jit(_sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
    return np.asarray(total.addressable_data(0))


def _sum(rows: jax.Array) -> jax.Array:
    return rows.sum(axis=0, dtype=rows.dtype)
