"""Signals: the first is noted, the second ends the process, and afterwards all is as before."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from src.running.stopping import SIGNALS, stop_requests
from tests.conftest import ROOT


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_the_first_signal_is_noted(number, capsys):
    before = [signal.getsignal(n) for n in SIGNALS]
    with stop_requests() as requested:
        assert requested() is None
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 10
        while requested() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert requested() == number
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert "the same signal again stops at once" in capsys.readouterr().err


def test_the_second_signal_ends_a_process_that_hangs():
    script = (
        "import time\n"
        "from src.running.stopping import stop_requests\n"
        "with stop_requests():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped at once" in err
    assert "Traceback" not in err


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work():
        with stop_requests() as requested:
            seen.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
