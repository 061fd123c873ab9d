"""Sweeps by each launcher and by Optuna: killed, the same command does what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import QUIET, ROOT, python, read_metrics

SMALL = ["problem=ridge", "method=rhg", *QUIET, "num_lower_steps=5", "log_every=10"]
LONG = [*SMALL, "num_iterations=600", "checkpoint_every=10"]
LAUNCHERS = {
    "processes": ["hydra/launcher=processes"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "slurm_on_this_machine": [
        "hydra/launcher=slurm_on_this_machine",
        "hydra.sweeper.max_batch_size=2",
    ],
}


def train(*arguments):
    return [sys.executable, "-m", "src.train", *arguments]


def wait_until(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed_when(condition, command):
    """Run a command, and end it and all its jobs, once the condition holds."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        wait_until(condition, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def files_of(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def begun_at(folder):
    """The first iteration of each process that worked on a run."""
    processes = json.loads((folder / "provenance.json").read_text())["processes"]
    return [process["first_iteration"] for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_sweep_is_finished_by_the_same_command(launcher, tmp_path):
    """Two jobs at a time; the kill comes in the third, when the first two have ended."""
    command = ["-m", *LONG, *LAUNCHERS[launcher], "lower_optimizer.step_size=0.1,0.2,0.3"]
    command += [f"hydra.sweep.dir={tmp_path}"]
    first, second, third = (tmp_path / f"lower_optimizer.step_size={s}" for s in (0.1, 0.2, 0.3))

    def third_is_under_way():
        ended = (first / "result.json").exists() and (second / "result.json").exists()
        return ended and len(read_metrics(third)) >= 3

    killed_when(third_is_under_way, train(*command))
    assert not (third / "result.json").exists()
    before = files_of(first) | files_of(second)
    done = python("-m", "src.train", *command)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.parent for path in tmp_path.glob("*/result.json")) == [first, second, third]
    start, again = begun_at(third)
    assert (start, again > 0) == (0, True)


def job_process(folder, log):
    """The process of the one job that submitit runs: a child of its controller."""
    (controller,) = (path.name.partition("_")[0] for path in Path(folder).glob(f"*/*{log}"))
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[1] == controller:
                return int(stat.parent.name)
    raise AssertionError("the job's process was not found")


@pytest.mark.slow
def test_a_job_whose_time_is_up_starts_again_where_it_was(tmp_path):
    """As at a time-out of Slurm: the signal comes, a checkpoint is written, the job is queued."""
    command = ["-m", *SMALL, "num_iterations=1000", "checkpoint_every=900"]
    command += ["hydra/launcher=slurm_on_this_machine", "seed=3", f"hydra.sweep.dir={tmp_path}"]
    folder = tmp_path / "ridge-rhg"
    with subprocess.Popen(
        train(*command), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: len(read_metrics(folder)) >= 3, process)
        os.kill(job_process(tmp_path / ".submitit", "_0_log.out"), signal.SIGUSR2)
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads((folder / "result.json").read_text())["iterations"] == 1000
    (log,) = (tmp_path / ".submitit").glob("*/*_log.err")
    assert "stopped by SIGUSR2 after iteration" in log.read_text()
    start, again = begun_at(folder)
    assert start == 0
    assert 0 < again < 900  # of the checkpoint at the signal


def study(tmp_path, *more):
    return [*LONG, "sweep=study", "hydra.sweeper.n_trials=3", f"hydra.sweep.dir={tmp_path}", *more]


def trials_of(tmp_path):
    import optuna

    loaded = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path}/study.db")
    return [trial.state.name for trial in loaded.trials]


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    pytest.importorskip("optuna")

    def second_is_under_way():
        results = [path.parent for path in tmp_path.glob("*/result.json")]
        return results and any(
            len(read_metrics(folder)) >= 3
            for folder in tmp_path.glob("*=*")
            if folder not in results
        )

    killed_when(second_is_under_way, train(*study(tmp_path)))
    (first,) = tmp_path.glob("*/result.json")
    before = files_of(first.parent)
    done = python("-m", "src.train", *study(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "the study has 1 of 3 trials; 1 that a stop has cut go on first" in done.stderr
    assert f"resuming {tmp_path}" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.glob("*/result.json"))) == 3
    assert trials_of(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    again = python("-m", "src.train", *study(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "the study has 3 of 3 trials" in again.stderr
    assert len(trials_of(tmp_path)) == 4
