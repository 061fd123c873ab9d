"""All runs of a folder tested again: each as by itself, what cannot be scored is named."""

import json
import shutil
import sys

import pytest

from src import evaluate
from src.running.run import run
from tests.conftest import QUIET, config_of

RUNS = {
    "a": ["problem=ridge", "num_iterations=2"],
    "b/deep": ["problem=quadratic", "num_iterations=1"],
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, {
        name: run(config_of(*options, *QUIET), folder / name) for name, options in RUNS.items()
    }


def printed(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    evaluate.main()
    return capsys.readouterr().out.splitlines()


def test_each_run_has_a_row_with_its_own_scores(sweep, capsys, monkeypatch):
    folder, results = sweep
    lines = printed(capsys, monkeypatch, f"run={folder}")
    for line, name in zip(lines, RUNS, strict=False):
        assert line.startswith(f"{name}: ")
        path = line.removeprefix(f"{name}: ")
        curve = json.loads((folder / name / "evaluations" / path.split("/")[-1]).read_text())
        assert curve["curve"] == results[name]["adaptation"]
    head, *rows = (line.split() for line in lines[3:])
    assert head[:2] == ["run", "iteration"]
    assert [row[:2] for row in rows] == [["a", "2"], ["b/deep", "1"]]
    for row, name in zip(rows, RUNS, strict=True):
        for column, cell in zip(head[2:], row[2:], strict=True):
            if cell == "-":
                assert column not in results[name]["adaptation"]
            else:
                assert float(cell) == pytest.approx(results[name][column], rel=1e-4)
    assert rows[0][2:].count("-") < len(head) - 2


def test_what_cannot_be_scored_is_named(sweep, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(sweep[0], tmp_path / "runs")
    shutil.rmtree(folder / "a" / "checkpoints")
    lines = printed(capsys, monkeypatch, f"run={folder}")
    assert lines[0].startswith("a: ")
    assert "checkpoint" in lines[0]
    assert lines[-1].split()[:2] == ["b/deep", "1"]
    with pytest.raises(SystemExit) as refused:
        printed(capsys, monkeypatch, f"run={folder}", "checkpoint=77")
    assert "none of its 2 runs could be scored" in str(refused.value)


def test_a_folder_without_runs(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as refused:
        printed(capsys, monkeypatch, f"run={tmp_path}")
    assert "is not a run folder: there is no config.json in it" in str(refused.value)
