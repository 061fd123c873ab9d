"""What is odd in usable data is said once, at the start."""

import numpy as np
import pytest

from src.data.arrays import arrays
from src.data.digits import digits
from src.data.labelled import LabelledImages, Table
from src.data.remarks import about_noise, remarks
from src.settings.build import build
from tests.conftest import QUIET, config_of

ROWS = np.array([[0.0, 2.0, 0.0], [0.0, 3.0, 1.0], [0.0, 4.0, 0.5]])
OTHERS = ROWS + 7


def table(inputs=ROWS, train=(0, 1, 1), test=(0, 1, 0), num_classes=3, others=OTHERS, **named):
    parts = {"train": inputs, "validation": OTHERS, "test": others}
    targets = {"train": train, "validation": train[:3], "test": test}
    arrays = {s: np.array(t, np.int32) for s, t in targets.items()}
    return Table(parts, arrays, num_classes, **named)


def images(test=OTHERS):
    labels = np.array([0, 1, 1], np.int32)
    parts = {"train": ROWS, "validation": OTHERS, "test": test}
    return LabelledImages(parts, dict.fromkeys(parts, labels), 2, ("no", "yes"))


GOOD = ROWS + np.array([[0.0], [1.0], [2.0]])
LOPSIDED = GOOD[[0, 1, 2, 2]]
NAMES = {"names": ("no", "yes", "so"), "features": ("a", "b", "c")}
CASES = {
    "nothing": (table(GOOD), "float32", []),
    "constant feature": (table(), "float32", ["1 of the 3 features is constant", "column 1)"]),
    "its name": (table(**NAMES), "float32", ["constant in the training rows (column a)"]),
    "a constant that is an intercept": (table(ROWS + np.array([1.0, 0, 0])), "float32", []),
    "constant table": (table(np.zeros((3, 3))), "float32", ["every one of the 3 features"]),
    "absent class": (
        table(GOOD, test=(0, 1, 2)),
        "float32",
        ["class 2 (counted from 0)", "test but in no training"],
    ),
    "its name too": (table(GOOD, test=(0, 2, 1), **NAMES), "float32", ["class so is in test"]),
    "a class that is not tested": (
        table(GOOD, test=(0, 0, 0), **NAMES),
        "float32",
        ["class yes is in no test row: the test says nothing about it"],
    ),
    "copies": (
        table(GOOD, others=GOOD),
        "float32",
        ["2 of the 3 test rows are in training, too"],
    ),
    "copies of rows with labels": (
        images(ROWS),
        "float32",
        ["3 of the 3 test rows are in training, too"],
    ),
    "no copies": (images(), "float32", []),
    "most are of one class": (
        table(LOPSIDED, train=(0, 1, 1, 1), **NAMES),
        "float32",
        ["75% of the training rows are of class yes, and a linear model without an intercept"],
    ),
    "most of one class, with an intercept": (
        table(LOPSIDED * [1, 0, 1] + np.array([0, 3.0, 0]), train=(0, 1, 1, 1)),
        "float32",
        [],
    ),
    "underflow": (table(GOOD * 1e-40), "float32", ["of the inputs of train are too small"]),
    "overflow": (table(GOOD * 1e40), "float32", ["some inputs of train are too large"]),
    "no underflow in float64": (table(GOOD * 1e-40), "float64", []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said(case):
    data, dtype, fragments = CASES[case]
    said = remarks(data, dtype)
    assert len(said) == bool(fragments)
    assert all(fragment in said[0] for fragment in fragments)


def test_a_run_says_it(tmp_path, capsys):
    path = tmp_path / "rows.svm"
    path.write_text("".join(f"{i % 2} 1:5 2:{i}\n" for i in range(10)))
    build(config_of("problem=regularisation", "data=libsvm", f"data.path={path}", *QUIET))
    message = capsys.readouterr().err
    assert message.startswith("warning: data: 1 of the 2 features is constant")
    assert "(column 1)" in message


NOISE = {"noise": 0.5, "pollution": "exact", "baseline": "none"}


@pytest.mark.parametrize(
    ("loader", "options", "said"),
    [
        (arrays, NOISE, "2 of the 3 training labels are made wrong on purpose (problem.noise=0.5)"),
        (arrays, {**NOISE, "pollution": "uniform"}, "2 of the 3 training labels are drawn anew at"),
        (arrays, {**NOISE, "noise": 0.0}, None),
        (arrays, {**NOISE, "baseline": "validation"}, None),
        (arrays, {}, None),
        (digits, NOISE, None),
    ],
)
def test_labels_that_are_made_wrong_are_told(loader, options, said):
    found = about_noise(images(), loader, options)
    assert len(found) == (said is not None)
    assert all(sentence.startswith(said) for sentence in found)
