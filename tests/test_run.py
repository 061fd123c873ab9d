"""Whole runs: what they find, what they leave behind, and that interruptions leave no trace."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from src import train
from src.reporting.stored import read_run
from src.running import run as run_module
from src.running.checkpoint import open_checkpoints
from src.running.loop import fresh_snapshot
from src.running.run import run
from src.running.snapshot import Progress
from src.settings.build import build
from src.settings.cli import CONF, compose_config
from src.settings.errors import UserError
from tests.conftest import (
    QUIET,
    ROOT,
    TIMINGS,
    config_of,
    python,
    read_metrics,
    small_few_shot,
    without_timings,
)

COUNTEREXAMPLE = ["problem=counterexample", *QUIET]
# No two of the cadences divide each other, so chunks have all lengths.
CADENCES = ["checkpoint_every=4", "log_every=3", "eval_every=5"]


def test_the_files_and_the_result_of_a_run(tmp_path):
    config = config_of(*COUNTEREXAMPLE, "num_iterations=12", *CADENCES)
    result = run(config, tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text())
    metrics = ("upper_loss", "lower_loss", "upper_variable_error", "lower_variable_error")
    scores = {f"validation/{name}" for name in metrics}  # without held-out data no test
    others = {"iterations", "monitor", "upper_variable", "best/step", "adaptation"}
    others |= {"problem", "method", "seed", "overrides", "cite", "versions"}
    timings = set(TIMINGS)
    assert set(result) == scores | {f"best/{name}" for name in scores} | others | timings
    assert (result["iterations"], result["monitor"]) == (12, "validation/upper_loss")
    assert len(result["upper_variable"]) == 1
    # This process has most likely done other runs before, whose peak hides that of this one.
    assert all(result[name] is None or result[name] > 0 for name in timings)
    assert {name for name in timings if result[name] is None} <= {"peak_memory_mib"}
    for file in (
        "config.json",
        "identity.json",
        "provenance.json",
        "learning_curves.png",
        "citations.bib",
    ):
        assert (tmp_path / file).stat().st_size > 0
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["12", "8"]

    *rows, end = read_metrics(tmp_path)
    assert (end["step"], end["end_of_run"]) == (12, True)
    assert end["validation/upper_loss"] == result["validation/upper_loss"]
    assert [row["step"] for row in rows] == [3, 5, 6, 9, 10, 12]
    for row in rows:
        assert ("train/upper_loss" in row) == (row["step"] % 3 == 0)
        assert ("train/upper_variable" in row) == (row["step"] % 3 == 0)
        assert ("validation/upper_loss" in row) == (row["step"] % 5 == 0)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


# Where each method ends on the counter-example: x, and F / n (src/problems/counterexample.py).
ENDS = {"rhg": (0.5, 0.25), "bda": (1.0, 0.0)}


@pytest.mark.parametrize("dimension", [1, 100])
@pytest.mark.parametrize("method", ENDS)
def test_where_the_counterexample_ends(method, dimension, tmp_path):
    overrides = [f"method={method}", f"problem.dimension={dimension}", "num_iterations=300"]
    result = run(config_of(*COUNTEREXAMPLE, *overrides), tmp_path)
    x, loss = ENDS[method]
    np.testing.assert_allclose(result["upper_variable"], np.full(dimension, x), atol=1e-3)
    assert result["validation/upper_loss"] / dimension == pytest.approx(loss, rel=1e-3, abs=1e-6)


# Interruptions. Everything that a state can hold is in one of these runs.


def interrupted_cases(folder):
    return {
        "few_shot": small_few_shot(folder),
        "ridge": [
            *["problem=ridge", *QUIET, "lower_start=warm", "upper_optimizer=momentum"],
            *["aggregation.learn=[alpha,t]", "lower_optimizer.learn=per_step"],
        ],
    }


@pytest.fixture(scope="module", params=["few_shot", "ridge"])
def whole(request, omniglot_folder, tmp_path_factory):
    """(overrides of a run, the folder of that run uninterrupted)"""
    overrides = [*interrupted_cases(omniglot_folder)[request.param], *CADENCES]
    folder = tmp_path_factory.mktemp("whole")
    run(config_of(*overrides, "num_iterations=12"), folder)
    return overrides, folder


def assert_same_run(folder, expected):
    """Bit for bit, but for the clock."""
    for ours, theirs in zip(read_metrics(folder), read_metrics(expected), strict=True):
        assert without_timings(ours) == without_timings(theirs)
    results = [json.loads((f / "result.json").read_text()) for f in (folder, expected)]
    assert without_timings(results[0]) == without_timings(results[1])


# 4: a checkpoint; 7: within all three cadences; 10: a validation; 12: the end.
@pytest.mark.parametrize("stops", [(4,), (7, 10), (12,)], ids=str)
def test_a_run_in_pieces_is_the_run(whole, stops, tmp_path):
    overrides, expected = whole
    for stop in (*stops, 12):
        run(config_of(*overrides, f"num_iterations={stop}"), tmp_path)
    assert_same_run(tmp_path, expected)


def test_rows_past_the_checkpoint_are_cut(whole, tmp_path):
    overrides, expected = whole
    run(config_of(*overrides, "num_iterations=8"), tmp_path)
    rows = len(read_metrics(tmp_path))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "train/upper_loss": 7.0}\n{"step": 12, "train/upp')
    run(config_of(*overrides, "num_iterations=12"), tmp_path)
    assert len(read_metrics(tmp_path)) > rows
    assert_same_run(tmp_path, expected)


def test_killed_three_times_a_run_is_the_run(tmp_path):
    overrides = ["problem=ridge", *QUIET, "lower_start=warm", "num_iterations=60", *CADENCES]
    run(config_of(*overrides), tmp_path / "whole")
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "src.train", *overrides, f"hydra.run.dir={folder}"]
    for rows in (1, 9, 18):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 120
            while len(read_metrics(folder)) < rows:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "result.json").exists()
    done = python(*command[1:])
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "result.json")
    assert_same_run(folder, tmp_path / "whole")


# Divergence: (what is too large, the last good checkpoint)
DIVERGING = {
    "lower step": (["lower_optimizer.step_size=1e3"], None),
    "upper step": (["upper_optimizer.step_size=1e14"], 2),
    "first validation": (["upper_optimizer.step_size=1e30", "eval_every=1"], None),
}


@pytest.mark.parametrize("case", DIVERGING)
def test_divergence_is_named_and_the_checkpoint_before_it_is_usable(case, tmp_path):
    overrides, last_good = DIVERGING[case]
    overrides = [*COUNTEREXAMPLE, "checkpoint_every=1", "log_every=10", *overrides]
    with pytest.raises(UserError) as refused:
        run(config_of(*overrides, "num_iterations=30"), tmp_path)
    kept = f"the checkpoint of {last_good} is kept" if last_good else "no checkpoint was written"
    message = str(refused.value)
    assert kept in message
    assert message.startswith(("train/", "validation/"))
    assert f"at iteration {(last_good or 0) + 1};" in message
    assert "upper_optimizer.step_size" in message
    assert not (tmp_path / "result.json").exists()
    assert read_run(tmp_path).problem == message  # what a report says of it
    if last_good is None:
        return
    with jax.enable_x64(False):
        checkpoints = open_checkpoints(tmp_path)
        restored = checkpoints.restore(fresh_snapshot(build(config_of(*overrides))))
        checkpoints.close()
    assert restored is not None
    last, _, progress = restored
    assert isinstance(progress, Progress)
    assert progress.step == last_good
    assert np.isfinite(np.asarray(last.variables["problem"])).all()


@pytest.mark.parametrize("whole", ["few_shot"], indirect=True)
def test_another_seed_gives_other_numbers(whole, tmp_path):
    """That the same seed gives the same numbers is what the interruptions above show."""
    overrides, expected = whole
    run(config_of(*overrides, "num_iterations=3", "seed=1"), tmp_path)
    ours, theirs = read_metrics(tmp_path)[0], read_metrics(expected)[0]
    assert ours["step"] == theirs["step"] == 3
    assert ours["train/upper_loss"] != theirs["train/upper_loss"]


def test_a_run_traces_each_program_once(tmp_path, monkeypatch):
    """Chunks of every length are one program; so are validations of the last and the best state."""
    calls = {"step": 0, "adapt": 0}

    def counted(name, function):
        def wrapped(*arguments):
            calls[name] += 1
            return function(*arguments)

        return wrapped

    def build_counted(config):
        experiment = build(config)
        algorithm = experiment.algorithm
        return experiment._replace(
            algorithm=algorithm._replace(
                step=counted("step", algorithm.step), adapt=counted("adapt", algorithm.adapt)
            )
        )

    monkeypatch.setattr(run_module, "build", build_counted)
    config = config_of(*COUNTEREXAMPLE, "method=rhg", "num_iterations=31", *CADENCES)
    result = run(config, tmp_path)
    assert result["best/step"] != 31  # so that a best state, too, was scored
    assert calls["step"] <= 2  # the shapes of the metrics, then the loop
    assert calls["adapt"] <= 2  # validation and test


# As a program.


def test_a_sweep_is_independent_runs(tmp_path):
    done = python(
        *["-m", "src.train", "-m", *COUNTEREXAMPLE, "num_iterations=5"],
        *["method=bda,rhg", "seed=0,1", "dtype=float64,float32", "upper_optimizer.step_size=0.3"],
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("*/result.json"))
    assert len(folders) == 8
    seen = set()
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (x,) = json.loads((folder / "result.json").read_text())["upper_variable"]
        # What a float32 run reports fits into a float32; five irregular steps in float64 do not.
        assert (float(np.float32(x)) == x) == (config["dtype"] == "float32"), folder.name
        seen.add((config["method"]["name"], config["seed"], config["dtype"], x))
        step = "upper_optimizer.step_size=0.3"  # the same in all, so in no name
        assert step not in folder.name
        ours = f"dtype={config['dtype']},method={config['method']['name']},seed={config['seed']}"
        assert folder.name == ours
    assert len({case[:3] for case in seen}) == 8
    assert len({case[3] for case in seen}) == 4  # the seed decides nothing here


def test_main_returns_the_monitored_score_of_the_best_state(tmp_path, monkeypatch, capsys):
    """F grows under a step this large, so the best state is not the last."""
    overrides = [
        *COUNTEREXAMPLE,
        "num_iterations=4",
        "eval_every=1",
        "upper_optimizer.step_size=20",
    ]
    with initialize_config_dir(CONF, version_base="1.3"):
        hydra_config = compose(
            "config",
            overrides=[*overrides, f"hydra.runtime.output_dir={tmp_path}"],
            return_hydra_config=True,
        )
    monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra_config)
    value = train.main(compose_config(overrides)[0])
    result = json.loads((tmp_path / "result.json").read_text())
    assert value == result["best/validation/upper_loss"] < result["validation/upper_loss"]
    assert result["best/step"] < 4
    printed = capsys.readouterr().out
    assert "validation/upper_loss" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "result.json")
