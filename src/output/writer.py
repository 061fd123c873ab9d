"""What a writer is, and several as one."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Writer(NamedTuple):
    """progress(step, upper_loss, iterations/s) often; log(row); close(result, pictures) once."""

    progress: Callable[[int, float, float], None]
    log: Callable[[Row], None]
    close: Callable[[Mapping[str, Any] | None, list[Path]], None]


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


def nothing(*_: Any) -> None:
    """For what a writer does not show."""
