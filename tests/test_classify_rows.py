"""Few-shot classification of rows of numbers: a run to its end, and new rows under it."""

import numpy as np
import pytest

from src.prediction.classify import classify
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.errors import UserError
from tests.conftest import QUIET, SHORT, config_of

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat(np.arange(9), 8)
CENTRES = GENERATOR.standard_normal((9, 5))
ROWS = CENTRES[LABELS] + 0.05 * GENERATOR.standard_normal((72, 5))
UNITS, OFFSET = np.array([1e3, 1.0, 1e-2, 5.0, 40.0]), 7.0


def trained_on(folder, rows):
    np.savez(folder / "rows.npz", x=rows, y=LABELS)
    chosen = ["problem=few_shot", "method=rhg", "data=arrays", f"data.path={folder / 'rows.npz'}"]
    chosen += [
        "model=linear",
        "model.num_features=8",
        "problem.ways=3",
        "problem.queries=4",
        "num_lower_steps=2",
    ]
    chosen += ["meta_batch_size=2", "num_validation_tasks=2", "num_test_tasks=2"]
    run(config_of(*chosen, *QUIET, *SHORT), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """On the same rows, in other units."""
    folders = [tmp_path_factory.mktemp(name) for name in ("a", "b")]
    return [
        trained_on(f, rows) for f, rows in zip(folders, (ROWS, ROWS * UNITS + OFFSET), strict=True)
    ]


def test_a_run_on_rows_ends_without_a_picture_of_tasks(two_runs):
    assert (two_runs[0] / "result.json").exists()
    assert (two_runs[0] / "learning_curves.png").exists()
    assert not (two_runs[0] / "tasks.png").exists()


def test_new_rows_are_in_the_units_of_the_files(two_runs):
    kept = np.arange(24)
    said = []
    for folder, rows in zip(two_runs, (ROWS[kept], ROWS[kept] * UNITS + OFFSET), strict=True):
        with stored_run(folder) as stored:
            found = classify(stored, rows[::2], LABELS[kept][::2], rows[1::2], num_lower_steps=50)
        said.append(found.query)
    np.testing.assert_allclose(*said, atol=1e-4)
    assert (said[0].argmax(1) == LABELS[kept][1::2]).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 4)), r"support: an array of shape \(2, 4\), .* this is \(n, columns\)"),
        (np.full((2, 5), np.nan), "support: some values are infinite or NaN; leave these rows out"),
        (np.full((2, 5), "a"), "support: rows of <U1; give numbers, as in the run's files"),
    ],
)
def test_rows_that_are_refused(rows, message, two_runs):
    with stored_run(two_runs[0]) as stored, pytest.raises(UserError, match=message):
        classify(stored, rows, np.arange(2), rows)
