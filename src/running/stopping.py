"""Stopping on request: the iterations under way end, a checkpoint is written, the run stops."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What a launcher such as submitit waits for, shortly before a job's time is up: it then queues the
# job again, and ignores SIGTERM, which the cluster may send as well.
TIME_IS_UP = signal.SIGUSR2
END = b"\0"  # no signal has this number


class Stopped(Exception):
    """A run that was asked to stop, and has: its checkpoint is written."""

    def __init__(self, signal_number: int, step: int) -> None:
        self.signal_number = signal_number
        self.status = 128 + signal_number
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after iteration {step}, with a "
            "checkpoint"
        )


def is_awaited(number: int) -> bool:
    """Whether someone who called us, such as a launcher, has a handler for this signal."""
    return callable(signal.getsignal(number))


@contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Inside, the first SIGINT or SIGTERM is only noted: requested() gives its number, else None.

    Where a launcher waits for TIME_IS_UP, that one is noted in place of SIGTERM; the launcher gets
    it from whoever catches `Stopped`. A second signal ends the process at once: nothing is
    half-written, and the run goes on from its last checkpoint. Signals reach the main thread
    alone; elsewhere nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    noted = (signal.SIGINT, TIME_IS_UP) if is_awaited(TIME_IS_UP) else SIGNALS
    seen: list[int] = []
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while (byte := os.read(reading, 1)) not in (END, b""):
            number = byte[0]
            if number not in noted:
                continue
            if seen:
                os.write(2, b"\nstopped at once; the last checkpoint is kept\n")
                os._exit(128 + number)
            seen.append(number)
            print(
                "\nstopping after the iterations under way; the same signal again stops at once",
                file=sys.stderr,
                flush=True,
            )

    # While a compiled program runs, Python calls no handler: a thread reads the signals instead.
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in noted}
    try:
        yield lambda: seen[0] if seen else None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.write(writing, END)
        watcher.join()
        os.close(reading)
        os.close(writing)
