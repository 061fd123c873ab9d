"""Reports of runs with several seeds in one program, beside runs of one: each seed counts once."""

import csv
import io
import json

import numpy as np
import pytest

from src.reporting.curves import adaptation_curves, learning_curves
from src.reporting.notes import notes
from src.reporting.page import as_page
from src.reporting.report import as_csv, make_report
from src.reporting.stored import find_runs
from src.reporting.table import rows
from src.running.intervals import mean_and_half_width
from tests.test_report import store

SCORE = "best/test/accuracy"
LOSS = "validation/loss"


def store_run(folder, seeds, scores, failed=(), **more):
    """A run of these seeds, as one program; more: of result.json. scores: (seeds, rows).

    In each row the seeds count whose score is a number, as in a run; the last row is the result.
    """
    scores = np.array(scores, float)
    several = len(seeds) > 1
    lines = []
    for step, row in enumerate(scores.T):
        alive = row[np.isfinite(row)]
        mean, half = mean_and_half_width(alive, 0)
        half = half if several else 0.9  # of one seed it is over its tasks
        line = {"step": step, LOSS: float(mean)}
        line |= {f"{LOSS}_ci95": float(half)} if half is not None else {}
        line |= {"failed_seeds": len(seeds) - len(alive)} if len(alive) < len(seeds) else {}
        lines.append(line)
    last = lines[-1]
    if several:
        last_row = scores[:, -1]
        own = [
            None if seed in failed else float(s) for seed, s in zip(seeds, last_row, strict=True)
        ]
        steps = [7 + seed for seed in seeds]
        more = {"best/step": steps, "seeds": list(seeds), "per_seed": {SCORE: own}} | more
        more["failed_seeds"] = {str(seed): "diverged" for seed in failed}
    else:
        more = {"best/step": 7 + seeds[0], f"{SCORE}_ci95": 0.9} | more
    more["adaptation"] = {name: [last[name]] for name in last if name.startswith(LOSS)}
    store(folder, "rhg", seeds[0], last[LOSS], **more)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "parts",
    [
        [((0, 1, 2), ()), ((3,), ())],
        [((0, 1), ()), ((2, 3, 4), ())],
        [((5,), ()), ((0, 1, 2, 3), (1,))],
        [((5,), ()), ((0, 1), (1,))],  # of two seeds one is left: no spread of its own
        [((0, 1, 2), ())],
    ],
)
def test_pictures_are_means_over_seeds_and_not_over_runs(parts, tmp_path):
    drawn = np.random.default_rng(0).normal(size=(6, 2))
    alive = []
    for i, (seeds, failed) in enumerate(parts):
        scores = drawn[list(seeds)]
        scores[[seed in failed for seed in seeds], 1] = np.nan
        store_run(tmp_path / f"{i}", seeds, scores, failed)
        alive += [scores]
    group = make_report(find_runs([tmp_path])).groups[0]
    curve = learning_curves(group)[LOSS]
    ends = adaptation_curves(group)[LOSS]
    whole = np.concatenate(alive)
    for step in (0, 1):
        of = whole[:, step][np.isfinite(whole[:, step])]
        mean, half = mean_and_half_width(of, 0)
        assert curve.values[step] == pytest.approx(mean)
        assert curve.half_widths[step] == pytest.approx(half)
    assert (ends.values[0], ends.half_widths[0]) == (curve.values[1], curve.half_widths[1])


def test_pictures_leave_out_a_run_that_shares_seeds_and_the_notes_say_so(tmp_path):
    store_run(tmp_path / "a", (0, 1), [[1.0], [2.0]])
    store_run(tmp_path / "b", (1, 2, 3), [[2.0], [3.0], [4.0]])
    store_run(tmp_path / "c", (4,), [[9.0]])
    report = make_report(find_runs([tmp_path]))
    assert report.groups[0].values(SCORE) == {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 9.0}
    assert learning_curves(report.groups[0])[LOSS].values[0] == np.mean([2, 3, 4, 9])
    said = [note for note in notes(report) if "is not in the pictures" in note]
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path / 'a'} is not in the pictures: it shares seeds")


def test_a_run_of_two_seeds_beside_single_ones_without_randomness_has_no_interval(tmp_path):
    store_run(tmp_path / "a", (0, 1), [[0.5], [0.5]], **{"best/step": [4, 4]})
    store_run(tmp_path / "b", (2,), [[0.5]], **{"best/step": 4})
    report = make_report(find_runs([tmp_path]))
    assert rows(report)[1][1] == "0.5 (all seeds the same)"
    assert "interval over seeds" not in "\n".join(notes(report))


def test_the_best_step_is_of_each_seed_that_has_one(tmp_path):
    store_run(tmp_path / "a", (0, 1), [[0.5], [0.6]])
    store_run(tmp_path / "b", (2,), [[0.7]])
    store_run(tmp_path / "c", (3, 4), [[0.7], [0.6]], **{"best/step": None})
    report = make_report(find_runs([tmp_path]), metric="best/step")
    assert report.groups[0].values("best/step") == {0: 7.0, 1: 8.0, 2: 9.0}
    assert rows(report)[1][1] == "8 +- 2.5 (3 of 5 seeds)"
    said = "\n".join(notes(report))
    assert "best/step is the iteration of the state that was best in validation" in said
    assert "is the score of the state" not in said


def test_seconds_are_those_of_a_seed_everywhere(tmp_path):
    store_run(tmp_path / "a", (0, 1, 2), [[0.1], [0.2], [0.3]], seconds=30.0)
    store_run(tmp_path / "b", (3,), [[0.5]], seconds=14.0)
    report = make_report(find_runs([tmp_path]))
    table = dict(zip(*rows(report), strict=True))
    assert (table["seconds per seed"], table["MiB"]) == ("11", "300")
    lines = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [line["seconds per seed"] for line in lines] == ["10.0", "10.0", "10.0", "14.0"]
    assert "seconds" not in lines[0]
    page = as_page(report, tmp_path)
    assert '<button type="button">seconds per seed</button>' in page
    assert '<button type="button">seconds</button>' not in page


def test_one_seed_has_its_interval_over_tasks(tmp_path):
    store_run(tmp_path / "a", (3,), [[0.5]])
    report = make_report(find_runs([tmp_path]))
    assert rows(report)[1][1] == "0.5 +- 0.9 (tasks)"
    assert any(note.startswith("(tasks): +- of one seed is") for note in notes(report))
    store_run(tmp_path / "b", (4,), [[0.7]])
    report = make_report(find_runs([tmp_path]))
    assert rows(report)[1][1] == "0.6 +- 1.3"
    assert not any("tasks" in note for note in notes(report))
