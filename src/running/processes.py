"""One run in several processes: process 0 alone writes, and all decide the same.

All processes run the same program on the same numbers, so what they compute from results they
decide alike. What one alone can know (a file, a signal) it tells the others by these functions,
which all processes call in the same order. With one process they only call what they are given.
"""

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bilevel.types import Tree
from src.running.meeting import meet
from src.running.provenance import versions
from src.running.stopping import Stopped
from src.settings.checked import Settings
from src.settings.devices import start_devices
from src.settings.errors import UserError
from src.settings.hosts import hosts_of
from src.settings.placing import devices_by_process, on_host

T = TypeVar("T")
TOLD = "(the other processes of the run have been told, and end, too)"
SILENCE_SECONDS = 60  # after which jax takes a process for dead, and ends the others


class Processes(NamedTuple):
    """How many processes share out the run, and which one this is."""

    number: int
    index: int

    def first(self, action: Callable[[], T]) -> T:
        """What `action` gives in process 0, in all; nobody else acts. Errors are raised in all."""
        if self.number == 1:
            return action()
        told, own = _attempt(action) if self.index == 0 else ((None, None), None)
        value, why = pickle.loads(_from_first(self.number, self.index, pickle.dumps(told)))
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
        for index, reason in enumerate(reasons):
            if reason:
                raise UserError(f"process {index} of {self.number}: {reason}")
        return value  # type: ignore[return-value]

    def said(self, text: str) -> list[str]:
        """What each process says, in all of them."""
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = _total(self.number, _row(self.number, self.index, np.int32([len(own)])))
        padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
        padded[: len(own)] = own
        rows = _total(self.number, _row(self.number, self.index, padded))
        return [row[:n].tobytes().decode() for row, (n,) in zip(rows, lengths, strict=True)]

    def largest(self, number: int) -> int:
        """The largest of the numbers of all."""
        if self.number == 1:
            return number
        return int(_total(self.number, _row(self.number, self.index, np.int32([number]))).max())


ONE = Processes(1, 0)


def joined(config: Mapping[str, Any], settings: Settings) -> Processes:
    """Join the other processes, where the keys name such; jax must not have begun.

    Raises UserError where they do not come, or were started with other keys or packages.
    """
    hosts = hosts_of(settings.coordinator, settings.num_processes, settings.process_id)
    if hosts is None:
        return ONE
    kept = {key: value for key, value in config.items() if key != "process_id"}
    notes = {"configuration": kept, "set of packages": versions()["packages"]}
    meet(hosts, notes, settings.connect_seconds)
    # Its handler would take SIGTERM, of which stopping.py makes a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    bound = {"coordinator_bind_address": hosts.address()} if hosts.is_here_alone() else {}
    try:
        jax.distributed.initialize(
            hosts.address(),
            hosts.number,
            hosts.index,
            initialization_timeout=SILENCE_SECONDS,
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=SILENCE_SECONDS,
            **bound,
        )
    except RuntimeError as error:
        raise UserError(
            f"coordinator={hosts.address()}: jax cannot join the other processes ({error}); a run "
            "of several processes needs processes in which nothing else has run"
        ) from error
    start_devices(settings)
    return Processes(hosts.number, hosts.index)


def refuse_other_data(processes: Processes, data: Tree) -> None:
    """Raises UserError, in all, where a process has read other data than process 0."""
    if processes.number == 1:
        return
    digest = blake2b(digest_size=16)
    for leaf in jax.tree.leaves(on_host(data)):
        digest.update(f"{leaf.dtype} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    digests = processes.said(digest.hexdigest())
    others = [str(index) for index, other in enumerate(digests) if other != digests[0]]
    if others:
        raise UserError(
            f"process {', '.join(others)} has read other data than process 0: copy the files of "
            "the data (data.root) of process 0 to its machine"
        )


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


def _from_first(number: int, index: int, blob: bytes) -> bytes:
    """The blob of process 0, in all."""
    own = np.frombuffer(blob if index == 0 else b"", np.uint8)
    length = int(_total(number, np.int32([len(own)]))[0])
    return _total(number, own if index == 0 else np.zeros(length, np.uint8)).tobytes()


def _row(number: int, index: int, own: np.ndarray) -> np.ndarray:
    """A matrix with a row for each process, of which this one fills its own."""
    rows = np.zeros((number, len(own)), own.dtype)
    rows[index] = own
    return rows


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
