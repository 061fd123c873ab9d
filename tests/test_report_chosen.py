"""What a report says of which scores are good, and of which row would be chosen."""

import pytest

from src.reporting.notes import notes
from src.reporting.page import as_page
from src.reporting.report import make_report
from src.reporting.stored import find_runs
from src.reporting.table import rows
from tests.test_report import store

VALIDATION, TEST = "best/validation/accuracy", "best/test/accuracy"


def study(folder, mode, scores, monitors=("validation/accuracy",), seeds=(0,), key="x"):
    """One run for each {method: (validation, test)}; the monitors take turns."""
    for i, (method, (validation, test)) in enumerate(scores.items()):
        name = monitors[i % len(monitors)]
        config = {"problem": {"name": "ridge", "monitor": {"metric": name, "mode": mode}}}
        config |= {"data": {key: i}} if key != "x" else {}
        more = {
            "monitor": name,
            VALIDATION: validation,
            "best/test/loss": 0.5,
            "overrides": [f"data.{key}={i}"],
        }
        store(folder / method, method, seeds[i % len(seeds)], test, config=config, **more)
    return find_runs([folder])


@pytest.mark.parametrize(
    ("mode", "marked", "direction"), [("max", "b", "higher"), ("min", "a", "lower")]
)
def test_validation_is_beside_the_test_score_and_the_best_row_is_marked(
    mode, marked, direction, tmp_path
):
    runs = study(tmp_path, mode, {"a": (0.5, 0.9), "b": (0.8, 0.1), "c": (0.7, 0.2)})
    report = make_report(runs)
    header, *found = rows(report)
    assert header[:4] == ["method", "seeds", TEST, VALIDATION]
    expected = {"a": "0.5", "b": "0.8", "c": "0.7"}
    expected[marked] += "*"
    assert {row[0]: row[3] for row in found} == expected
    assert [row[2] for row in found] == ["0.9", "0.1", "0.2"]
    assert f"{TEST}: {direction} is better." in notes(report)
    assert any("* best by validation" in note for note in notes(report))
    page = as_page(report, tmp_path)
    assert f'data-value="{expected[marked][:-1]}">{expected[marked]}</td>' in page


@pytest.mark.parametrize(
    ("metric", "marked", "direction"),
    [
        (VALIDATION, "0.8*", True),  # where it is compared itself there is no second column
        ("test/accuracy", None, True),  # of the last state: no state was chosen
        ("best/test/loss", "0.8*", False),
        ("seconds per seed", None, False),
    ],
)
def test_other_scores(metric, marked, direction, tmp_path):
    report = make_report(study(tmp_path, "max", {"a": (0.5, 0.9), "b": (0.8, 0.1)}), metric)
    assert rows(report)[0].count(VALIDATION) == (marked is not None)
    assert [cell for row in rows(report) for cell in row if cell.endswith("*")] == (
        [marked] if marked else []
    )
    assert ("is better" in "\n".join(notes(report))) is direction


def test_runs_that_other_scores_chose_are_not_ranked(tmp_path):
    monitors = ("validation/accuracy", "validation/loss")
    scores = {"a": (0.5, 0.9), "b": (0.8, 0.1)}
    report = make_report(study(tmp_path, "max", scores, monitors))
    assert VALIDATION not in rows(report)[0]
    assert "best by validation" not in "\n".join(notes(report))


def test_one_row_is_not_marked(tmp_path):
    report = make_report(study(tmp_path, "max", {"a": (0.5, 0.9)}))
    assert rows(report)[1][2] == "0.5"
    assert "*" not in "\n".join(notes(report))


@pytest.mark.parametrize(
    ("more", "marked", "minded"),
    [
        ({}, True, False),
        ({"seeds": (0, 1)}, True, True),
        ({"key": "data_seed"}, False, False),  # scores on other data say nothing of the methods
    ],
)
def test_rows_of_other_seeds_and_other_data(more, marked, minded, tmp_path):
    report = make_report(study(tmp_path, "max", {"a": (0.5, 0.9), "b": (0.8, 0.1)}, **more))
    text = "\n".join(notes(report))
    assert ("best by validation" in text) is marked
    assert ("Mind that the rows are of different seeds." in text) is minded
    assert any(cell.endswith("*") for row in rows(report) for cell in row) is marked
