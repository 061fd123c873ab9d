"""A sweep: every job runs, the failures are listed, and the same command does only what is left."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from src.running.run import run
from tests.conftest import QUIET, ROOT, config_of, message_of, python, read_metrics, without_timings

RIDGE = ["problem=ridge", "method=rhg", *QUIET, "num_lower_steps=5"]


def test_a_refusal_a_divergence_and_a_kill_are_finished_by_the_same_command(tmp_path):
    """Six jobs: step sizes 0.3, 1e9 (diverges), 0.1, with rhg and reptile (refused)."""
    command = [
        *["-m", "src.train", "-m", *RIDGE, "method=rhg,reptile", "num_iterations=400"],
        *["lower_optimizer.step_size=0.3,1e9,0.1", "log_every=10", "checkpoint_every=10"],
        f"hydra.sweep.dir={tmp_path}",
    ]
    first, second, third = (
        tmp_path / f"lower_optimizer.step_size={size},method=rhg"
        for size in ("0.3", "1000000000.0", "0.1")
    )
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 200
        while len(read_metrics(third)) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (third / "result.json").exists()
    before = (first / "result.json").read_bytes(), (first / "provenance.json").read_bytes()
    done = python(*command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{first} is finished" in done.stderr
    assert f"resuming {third}" in done.stderr
    after = (first / "result.json").read_bytes(), (first / "provenance.json").read_bytes()
    assert after == before
    whole, again = (json.loads((of / "result.json").read_text()) for of in (first, third))
    assert again["iterations"] == 400
    assert whole["peak_memory_mib"] > 0
    assert again["peak_memory_mib"] is None  # the second job ran in this process before
    listed = done.stderr[done.stderr.index("4 jobs gave no result") :]
    assert listed.count("method=reptile learns the start") == 3
    assert listed.count("train/lower_loss became") == 1
    assert str(second) in listed
    assert {path.parent for path in tmp_path.glob("*/result.json")} == {first, third}


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    result = run(config_of(*RIDGE, "num_iterations=3"), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert run(config_of(*RIDGE, "num_iterations=3"), tmp_path) == result
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
    assert "is finished" in capsys.readouterr().err
    assert "resume=never" in message_of(
        lambda: run(config_of(*RIDGE, "num_iterations=3", "resume=never"), tmp_path)
    )


def test_the_last_state_is_validated_logged_and_drawn(tmp_path):
    """And a longer run of the same folder has no trace of it."""
    config = config_of(*RIDGE, "num_iterations=7", "eval_every=100", "log_every=5")
    result = run(config, tmp_path)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [5, 7]
    assert rows[1]["validation/upper_loss"] == result["validation/upper_loss"]
    assert rows[1]["end_of_run"] is True
    assert "train/upper_loss" in rows[1]
    run({**config, "num_iterations": 10}, tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path)] == [5, 10, 10]


def test_iterations_after_the_last_row_are_logged_at_the_end(tmp_path):
    """Also where the last validation is at the end; and a longer run has no trace of it."""
    overrides = [*RIDGE, "log_every=7", "eval_every=20", "checkpoint_every=20"]
    run(config_of(*overrides, "num_iterations=20"), tmp_path / "cut")
    *rows, end = read_metrics(tmp_path / "cut")
    assert [row["step"] for row in rows] == [7, 14, 20]
    assert "train/upper_loss" not in rows[-1]
    assert (end["step"], end["end_of_run"]) == (20, True)
    assert "train/upper_loss" in end
    assert "validation/upper_loss" not in end
    for folder in ("cut", "whole"):
        run(config_of(*overrides, "num_iterations=21"), tmp_path / folder)
    cut, whole = (
        [without_timings(row) for row in read_metrics(tmp_path / folder)]
        for folder in ("cut", "whole")
    )
    assert cut == whole
    assert [row["step"] for row in whole] == [7, 14, 20, 21, 21]


# start_from


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier") / "a@run"
    overrides = ["num_iterations=4", "checkpoint_every=2", "eval_every=2"]
    run(config_of(*RIDGE, *overrides, "lower_optimizer.learn=scalar"), folder)
    return folder


def first_row(folder, *overrides):
    run(config_of(*RIDGE, "num_iterations=2", "log_every=1", *overrides), folder)
    return read_metrics(folder)[0]


@pytest.mark.parametrize("checkpoint", ["", "@last", "@4", "@2", "@best"])
def test_x_is_that_of_the_other_run(checkpoint, earlier, tmp_path):
    """At a tiny step x stays where it starts: where the other run stood."""
    tiny = "upper_optimizer.step_size=1e-12"
    row = first_row(tmp_path / "b", f"start_from={earlier}{checkpoint}", tiny, "dtype=float64")
    x = json.loads((tmp_path / "b/result.json").read_text())["upper_variable"]
    last = json.loads((earlier / "result.json").read_text())["upper_variable"]
    assert (x == pytest.approx(last, abs=1e-8)) == (checkpoint != "@2")
    assert row["step"] == 1


@pytest.mark.parametrize("left", ["nothing", "half", "deleted"])
def test_a_run_that_resumes_before_its_first_checkpoint_starts_from_there_again(
    left, earlier, tmp_path
):
    """The folder of checkpoints is made long before a checkpoint is in it."""
    config = config_of(*RIDGE, "num_iterations=2", f"start_from={earlier}")
    whole = run(config, tmp_path / "b")["upper_variable"]
    assert whole != run(config_of(*RIDGE, "num_iterations=2"), tmp_path / "c")["upper_variable"]
    (step,) = (tmp_path / "b" / "checkpoints").iterdir()
    if left == "half":
        step.rename(step.with_name("2.orbax-checkpoint-tmp"))
    else:
        shutil.rmtree(step)
    (tmp_path / "b" / "result.json").unlink()
    if left == "nothing":
        (tmp_path / "b" / "checkpoint_digests.json").unlink()
    assert run(config, tmp_path / "b")["upper_variable"] == whole
    # With a checkpoint the other run is not read again.
    (tmp_path / "b" / "result.json").unlink()
    earlier.rename(earlier.with_name("away"))
    try:
        assert run(config, tmp_path / "b")["upper_variable"] == whole
    finally:
        earlier.with_name("away").rename(earlier)


def test_learned_scalars_are_taken_where_both_learn_them(earlier, tmp_path):
    tiny = "upper_optimizer.step_size=1e-12"
    learn = "lower_optimizer.learn=scalar"
    fresh = first_row(tmp_path / "a", tiny, learn)
    taken = first_row(tmp_path / "b", tiny, learn, f"start_from={earlier}")
    assert taken["train/step_size"] != fresh["train/step_size"]
    several = first_row(tmp_path / "c", tiny, learn, f"start_from={earlier}", "seeds=2")
    assert several["train/step_size"] == pytest.approx(taken["train/step_size"])


WRONG = {
    "no run": ("{tmp}/none", [], ["start_from={tmp}/none", "no such folder"]),
    "no such checkpoint": ("{run}@3", [], ["checkpoint=3 is not kept", "2, 4"]),
    "another size": ("{run}", ["data.num_features=7"], ["(20,)", "(7,)", "choose the same"]),
    "another problem": ("{run}", ["problem=counterexample"], ["x is", "this one"]),
    "per-step step sizes": (
        "{run}",
        ["lower_optimizer.learn=per_step"],
        ["step_size", "of shape ()", "of shape (5,)"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_the_folder_stays_free(case, earlier, tmp_path):
    text, overrides, fragments = WRONG[case]
    start, *fragments = (
        part.replace("{tmp}", str(tmp_path)).replace("{run}", str(earlier))
        for part in (text, *fragments)
    )
    config = config_of(*RIDGE, *overrides, "num_iterations=2", f"start_from={start}")
    message = message_of(lambda: run(config, tmp_path / "b"))
    assert all(fragment in message for fragment in fragments), message
    assert not (tmp_path / "b").exists()


def test_a_diverged_run_names_the_way_to_start_from_it(tmp_path):
    overrides = ["problem=counterexample", *QUIET, "upper_optimizer.step_size=1e14"]
    overrides += ["checkpoint_every=1", "log_every=10"]
    message = message_of(lambda: run(config_of(*overrides, "num_iterations=30"), tmp_path / "a"))
    _, found, start = message.partition("start_from=")
    assert found, message
    assert start.startswith(f"{tmp_path / 'a'}@")


def test_what_starts_from_a_folder_of_a_sweep_is_printed_in_quotes(tmp_path):
    folder = tmp_path / "method=rhg,seed=0"
    overrides = ["problem=counterexample", *QUIET, "upper_optimizer.step_size=1e14"]
    overrides += ["checkpoint_every=1", "log_every=10", "num_iterations=30"]
    message = message_of(lambda: run(config_of(*overrides), folder))
    assert f"'start_from=\"{folder}@" in message


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_the_chunk_and_the_run_goes_on_to_the_same_end(number, tmp_path):
    overrides = [*RIDGE, "num_iterations=5000", "log_every=50", "checkpoint_every=4000"]
    command = ["-m", "src.train", *overrides, f"hydra.run.dir={tmp_path / 'a'}"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(read_metrics(tmp_path / "a")) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} after iteration" in err
    assert f"hydra.run.dir={tmp_path / 'a'}" in err
    assert "Traceback" not in err
    kept = max(int(path.name) for path in (tmp_path / "a/checkpoints").iterdir())
    assert 0 < kept < 5000
    done = python(*command)
    assert f"resuming {tmp_path / 'a'} from iteration {kept}" in done.stderr
    run(config_of(*overrides), tmp_path / "b")
    ours, theirs = (
        json.loads((tmp_path / name / "result.json").read_text())["upper_variable"]
        for name in ("a", "b")
    )
    assert ours == theirs
