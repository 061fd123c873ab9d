"""The run folder of a run in several processes: process 0 writes and reads for all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from src.output.writer import Writer, nothing
from src.running.checkpoint import Checkpoints, on_devices
from src.running.processes import Processes
from src.running.snapshot import Snapshot
from src.settings.placing import on_host


class SharedCheckpoints(NamedTuple):
    """As `Checkpoints`; all processes call each function. own: one in process 0, none elsewhere.

    Process 0 reads and tells the others, so that the machines need no common disk.
    """

    processes: Processes
    own: list[Checkpoints]

    def latest(self) -> int | None:
        return self.processes.first(lambda: self.own[0].latest())

    def save(self, snapshot: Snapshot) -> None:
        """Raises UserError in all processes where it cannot be written."""
        state, best = on_host((snapshot.state, snapshot.best))  # all take part in this
        whole = snapshot._replace(state=state, best=best)
        self.processes.first(lambda: self.own[0].save(whole))

    def restore(self, like: Snapshot, step: int | None = None) -> Snapshot | None:
        """Raises UserError in all processes where it cannot be read."""
        return on_devices(self.processes.first(lambda: self.own[0].read(like, step)), like)

    def close(self) -> None:
        for own in self.own:
            own.close()


def shared_checkpoints(
    processes: Processes, open_own: Callable[[], Checkpoints]
) -> Checkpoints | SharedCheckpoints:
    """Those of process 0, for all."""
    if processes.number == 1:
        return open_own()
    own: list[Checkpoints] = []
    processes.first(lambda: own.append(open_own()))
    return SharedCheckpoints(processes, own)


def shared_writer(processes: Processes, open_own: Callable[[], Writer]) -> Writer:
    """That of process 0, for all: a row that cannot be written stops all of them."""
    if processes.number == 1:
        return open_own()
    own: list[Writer] = []
    processes.first(lambda: own.append(open_own()))

    def log(row: dict[str, Any]) -> None:
        processes.first(lambda: own[0].log(row))

    def close(result: Any, pictures: list[Path]) -> None:
        for writer in own:
            writer.close(result, pictures)

    return Writer(own[0].progress if own else nothing, log, close)
