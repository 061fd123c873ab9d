"""One run in several processes on this machine: the same numbers, a stop, a kill, and refusals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from src.running.meeting import meet
from src.running.run import run
from src.running.stored_run import stored_run, stored_state
from src.settings.checked import check_settings, identity_of
from src.settings.devices import Sharing, sharing_of
from src.settings.errors import UserError
from src.settings.hosts import Hosts, hosts_of
from tests.conftest import QUIET, ROOT, config_of, message_of, python, read_metrics, small_few_shot
from tests.devices_script import NAMES, difference

OFTEN = ["dtype=float64", "log_every=2", "eval_every=4", "checkpoint_every=4"]
RIDGE = ["problem=ridge", *QUIET, *OFTEN, "seeds=4"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def two_processes(folder, overrides):
    """Both of them started; killed at the end where they still run."""
    keys = [f"coordinator=127.0.0.1:{free_port()}", "num_processes=2", f"hydra.run.dir={folder}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "src.train", *overrides, *keys, f"process_id={index}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def wait_for_a_checkpoint(folder, started):
    deadline = time.monotonic() + 240
    while not (folder / "checkpoint_digests.json").exists():
        assert all(process.poll() is None for process in started)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ends_of(started):
    """[(exit status, stdout, stderr)]"""
    spoken = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, spoken, strict=True)]


def numbers(folder):
    """The last and the best state, the logged losses, and the scores at the end."""
    result = json.loads((folder / "result.json").read_text())
    with stored_run(folder) as stored:
        states = [stored_state(stored, which).state for which in ("last", "best")]
    leaves = jax.tree.leaves([(state.variables, state.upper_state) for state in states])
    rows = [row[name] for row in read_metrics(folder) for name in NAMES if name in row]
    scores = [value for name, value in result.items() if name.startswith(("test/", "best/v"))]
    return [*map(np.asarray, leaves), np.array(rows), np.array(scores)]


def test_seeds_on_four_devices_of_two_processes_stopped_and_continued_on_one(tmp_path):
    """A signal to one process stops both; one process on one device goes on with the run."""
    folder, alone = tmp_path / "two", tmp_path / "alone"
    endless = [*RIDGE, "num_iterations=1000000"]
    with two_processes(folder, [*endless, "devices=4"]) as started:
        wait_for_a_checkpoint(folder, started)
        started[1].send_signal(signal.SIGTERM)
        ends = ends_of(started)
    assert [status for status, *_ in ends] == [128 + signal.SIGTERM] * 2, ends
    stops = {re.findall(r"after iteration (\d+), with a checkpoint", end[2])[0] for end in ends}
    assert len(stops) == 1
    (stop,) = map(int, stops)
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir())[-1] == stop
    last = f"num_iterations={stop + 8 - stop % 4}"
    run(config_of(*RIDGE, "devices=1", last), folder)
    run(config_of(*RIDGE, "devices=1", last), alone)
    assert difference(numbers(folder), numbers(alone)) < 1e-12


def test_tasks_in_two_processes_go_on_with_a_run_of_one(tmp_path, omniglot_folder):
    """Process 0 tells the other the checkpoint, and alone writes: the other has no folder."""
    few_shot = [*small_few_shot(omniglot_folder), *OFTEN, "method=bda", "meta_batch_size=4"]
    few_shot += ["lower_optimizer.learn=scalar", "num_validation_tasks=5", "model.num_blocks=1"]
    folder, alone = tmp_path / "two", tmp_path / "alone"
    run(config_of(*few_shot, "devices=1", "num_iterations=4"), folder)
    with two_processes(folder, [*few_shot, "num_iterations=8"]) as started:
        ends = ends_of(started)
    assert [status for status, *_ in ends] == [0, 0], ends
    assert ends[0][1].splitlines()[-1] == str(folder / "result.json")
    assert "result.json" not in ends[1][1]
    assert (folder / "tasks.png").exists()
    assert "resuming" in ends[1][2]
    run(config_of(*few_shot, "devices=1", "num_iterations=8"), alone)
    assert difference(numbers(folder), numbers(alone)) < 1e-12
    # The folder is read by one process, though its configuration names two.
    assert json.loads((folder / "config.json").read_text())["num_processes"] == 2


@pytest.mark.parametrize("what", ["killed", "disk"])
def test_no_process_waits_for_one_that_has_failed(what, tmp_path):
    folder = tmp_path / "run"
    with two_processes(folder, [*RIDGE, "num_iterations=1000000"]) as started:
        wait_for_a_checkpoint(folder, started)
        if what == "killed":
            started[1].kill()
        else:
            (folder / "checkpoints").rename(tmp_path / "away")
            (folder / "checkpoints").touch()
        ends = ends_of(started)
    says = [re.findall("^error: (.*)$", error, re.MULTILINE) for *_, error in ends]
    if what == "killed":
        assert ends[0][0] == 1
        assert "another process of this run has ended" in says[0][0]
        assert "the last checkpoint is kept" in says[0][0]
    else:
        assert [status for status, *_ in ends] == [1, 1], ends
        assert "cannot be written" in says[0][0]
        assert says[1][0] == f"process 0 of 2: {says[0][0]}"


# What is said of keys that do not go together, before anything is started.
KEYS = {
    "no port": (["coordinator=node1", "num_processes=2"], ["no HOST:PORT", "node1:29500"]),
    "a wrong port": (["coordinator=node1:70000", "num_processes=2"], ["1 to 65535"]),
    "process_id": (
        ["coordinator=node1:2000", "num_processes=2", "process_id=2"],
        ["process_id=2 is outside 0..1", "num_processes=2"],
    ),
    "negative": (
        ["coordinator=node1:2000", "num_processes=2", "process_id=-1"],
        ["process_id=-1 is outside 0..1"],
    ),
    "no processes": (["num_processes=0"], ["num_processes=0 must be at least 1"]),
    "no coordinator": (["num_processes=2"], ["needs coordinator=HOST:PORT"]),
    "one process": (["coordinator=node1:2000"], ["num_processes=1", "coordinator=null"]),
    "slurm and a number": (
        ["coordinator=slurm", "num_processes=2"],
        ["leave out num_processes", "--ntasks=2"],
    ),
    "slurm without Slurm": (["coordinator=slurm"], ["SLURM_JOB_ID is not set", "srun"]),
    "connect_seconds": (["connect_seconds=0"], ["connect_seconds=0", "connect_seconds=60"]),
    "nobody answers": (
        ["coordinator=127.0.0.1:1", "num_processes=2", "process_id=1", "connect_seconds=0.3"],
        ["coordinator=127.0.0.1:1: nobody answers", "start process 0", "connect_seconds"],
    ),
    "no such machine": (
        ["coordinator=nowhere.invalid:9", "num_processes=2", "process_id=1", "connect_seconds=0.3"],
        ["coordinator=nowhere.invalid:9: nobody answers", "correct the address"],
    ),
    "nobody comes": (
        ["coordinator=127.0.0.1:PORT", "num_processes=3", "connect_seconds=0.3"],
        ["process 1, 2 of num_processes=3 has not come", "process_id"],
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_keys_that_are_refused(case, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    overrides, words = KEYS[case]
    overrides = [text.replace("PORT", str(free_port())) for text in overrides]
    config = config_of("problem=ridge", *QUIET, *overrides)
    message = message_of(lambda: run(config, tmp_path / "run"))
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def meeting(*notes, numbers=None, ids=None, seconds=10):
    """What each of the processes with these notes is told: "" where the run may begin."""
    port = free_port()
    hosts = [
        Hosts("127.0.0.1", port, (numbers or [len(notes)] * len(notes))[i], (ids or range(9))[i])
        for i in range(len(notes))
    ]

    def one(i):
        try:
            meet(hosts[i], {"configuration": notes[i]}, seconds)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(notes)) as pool:
        return list(pool.map(one, range(len(notes))))


def test_processes_that_agree_begin():
    assert meeting({"seed": 1}, {"seed": 1}, {"seed": 1}) == ["", "", ""]


def test_processes_that_differ_are_told_where():
    for told in meeting({"seed": 1, "model": {"f": 4}}, {"seed": 2, "model": {"f": 8}}):
        assert "process 1 was started with another configuration than process 0" in told
        assert "seed is 1 there, 2 here; model.f is 4 there, 8 here" in told
        assert "but for process_id" in told
    for told in meeting({}, {}, numbers=[2, 3]):
        assert "num_processes=3 in process 1, 2 in process 0" in told
    told = sorted(meeting({}, {}, ids=[0, 0], seconds=0.5))
    assert "cannot listen" in told[0]
    assert "give process_id=0 to one alone" in told[0]
    assert "process 1 of num_processes=2 has not come" in told[1]
    assert any(
        "process_id=1 was given twice" in told for told in meeting({}, {}, {}, ids=[0, 1, 1])
    )


def test_a_stranger_at_the_port_is_not_heard():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, Hosts("127.0.0.1", port, 2, 0), {}, 10)
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port), timeout=5)
                break
            except OSError:
                time.sleep(0.05)
        with stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n")
        meet(Hosts("127.0.0.1", port, 2, 1), {}, 10)
        first.result(10)


def test_what_slurm_says():
    def asked(nodes, number="4"):
        said = {"SLURM_JOB_ID": "5000", "SLURM_STEP_NODELIST": nodes}
        said |= {"SLURM_NTASKS": number, "SLURM_PROCID": "3"}
        return hosts_of("slurm", 1, 0, said)

    assert asked("gpu[007-009,12]") == Hosts("gpu007", 62344, 4, 3)
    assert asked("a1,b[2-3]") == Hosts("a1", 62344, 4, 3)
    assert asked("alone") == Hosts("alone", 62344, 4, 3)
    assert asked("alone", number="1") is None
    assert hosts_of("[::1]:80", 2, 1) == Hosts("::1", 80, 2, 1)


# devices, seeds, tasks, there, on a CPU: what two processes share out
SHARED = {
    ("auto", 4, 1, 8, True): Sharing("seeds", 4, 2),
    ("auto", 6, 1, 8, False): Sharing("seeds", 6, 2),
    ("auto", 1, 8, 8, True): Sharing("tasks", 2, 2),
    ("auto", 1, 8, 8, False): Sharing("tasks", 8, 2),
    ("auto", 3, 2, 8, True): Sharing("tasks", 2, 2),
    (4, 4, 8, 8, True): Sharing("seeds", 4, 2),
}


@pytest.mark.parametrize(("asked", "sharing"), SHARED.items())
def test_what_two_processes_share_out(asked, sharing):
    devices, seeds, tasks, there, on_cpu = asked
    settings = check_settings(config_of("problem=ridge", *QUIET))
    settings = settings._replace(devices=devices, seeds=seeds, meta_batch_size=tasks)
    assert sharing_of(settings, False, there, on_cpu, processes=2) == sharing


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"devices": 3, "seeds": 3}, ["devices=3 counts those of all processes", "devices=2"]),
        ({"devices": 1}, ["choose devices=2"]),
        ({"seeds": 3}, ["num_processes=2 divides neither seeds=3 nor", "choose seeds=2"]),
        ({"devices": 2, "seeds": 3}, ["num_processes=2 divides neither seeds=3"]),
        ({"devices": 4, "seeds": 6}, ["devices=4 divides neither seeds=6", "devices=2"]),
    ],
)
def test_what_two_processes_cannot_share_out(changed, words):
    settings = check_settings(config_of("problem=ridge", *QUIET))._replace(**changed)
    with pytest.raises(UserError) as refused:
        sharing_of(settings, True, 4, on_cpu=True, processes=2)
    assert all(word in str(refused.value) for word in words), refused.value


def test_the_processes_are_no_part_of_the_identity():
    several = ["coordinator=a:1", "num_processes=2", "process_id=1", "connect_seconds=5"]
    ours, theirs = (identity_of(config_of("problem=ridge", *more)) for more in ([], several))
    assert ours == theirs


@pytest.mark.parametrize("coordinator", ["a:1", "slurm"])
def test_a_sweep_is_refused(coordinator, tmp_path):
    ended = python(
        *["-m", "src.train", "-m", "problem=ridge", "seed=0,1", f"coordinator={coordinator}"],
        f"hydra.sweep.dir={tmp_path}",
    )
    assert ended.returncode == 1
    assert f"error: coordinator={coordinator} is for one run, not for a sweep (-m)" in ended.stderr
    assert "without -m" in ended.stderr
