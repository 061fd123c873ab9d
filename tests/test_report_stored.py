"""Reports read sweeps wherever they lie: refused jobs below a folder, copies, repetitions."""

import json

import pytest

from src.reporting.notes import notes
from src.reporting.report import as_lines, make_report
from src.reporting.stored import find_runs
from tests.test_report import store


def fail(sweep, folder, reason="refused", *overrides):
    """A line of failures.jsonl as a job of the sweep leaves it."""
    line = {"folder": str(folder), "overrides": list(overrides), "reason": reason}
    with open(sweep / "failures.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def text_of(*folders):
    return "\n".join(as_lines(make_report(find_runs(folders))))


@pytest.mark.parametrize("sweep", ["", "a", "a/b"])
def test_refused_jobs_of_sweeps_below_a_folder_are_listed(sweep, tmp_path):
    store(tmp_path / sweep / "job", "rhg", 0, 0.5)
    fail(tmp_path / sweep, tmp_path / sweep / "other", "no such thing", "method=x")
    text = text_of(tmp_path)
    assert "1 without a result:" in text
    assert f"{tmp_path / sweep / 'other'}: no such thing (method=x)" in text


@pytest.mark.parametrize("depth", ["", "more/"])
def test_a_copied_sweep_names_its_own_folders(depth, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for sweep in (old, new):  # the copy lies beside it, and both have the failed run's folder
        store(sweep / f"{depth}a", "rhg", 0, 0.5)
        store(sweep / f"{depth}b", "rhg", 1, None)
        fail(sweep, old / f"{depth}b", "diverged")
        fail(sweep, old / "c", "refused")
    missing = [(run.folder, run.problem) for run in find_runs([new]) if run.problem]
    assert missing == sorted([(new / f"{depth}b", "diverged ()"), (new / "c", "refused ()")])


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (["method=rhg", "step=2"], True),
        (["method=rhg"], True),
        (["step=1", "method=rhg"], False),  # the same run, as where another process held its lock
        (["method=rhg", "step=1", "resume=never"], False),
    ],
)
def test_old_results_of_a_sweep_whose_repetition_was_refused_are_said_to_be_old(
    later, said, tmp_path
):
    store(tmp_path / "a", "rhg", 0, 0.5, overrides=["method=rhg", "step=1"])
    fail(tmp_path, tmp_path / "a", "belongs to a run of another configuration", *later)
    note = f"{tmp_path / 'a'}: a later command was refused: belongs to a run of another config"
    assert (note in text_of(tmp_path)) is said
    assert "without a result" not in text_of(tmp_path)


def test_many_refused_repetitions_are_counted(tmp_path):
    for seed in range(5):
        store(tmp_path / f"{seed}", "rhg", seed, 0.5, overrides=["method=rhg"])
        fail(tmp_path, tmp_path / f"{seed}", "belongs to another", "method=rhg", "step=2")
    said = [note for note in notes(make_report(find_runs([tmp_path]))) if "refused" in note]
    assert len(said) == 3
    assert "So it was in 2 other folders: failures.jsonl has the reasons." in text_of(tmp_path)
