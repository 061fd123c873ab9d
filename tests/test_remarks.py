"""What is odd in usable data is said once, at the start."""

import numpy as np
import pytest

from src.data.labelled import Table
from src.data.remarks import remarks
from src.settings.build import build
from tests.conftest import QUIET, config_of

ROWS = np.array([[1.0, 2.0, 0.0], [1.0, 3.0, 1.0], [1.0, 4.0, 0.5]])


def table(inputs=ROWS, train=(0, 1, 1), test=(0, 1, 0), num_classes=3):
    parts = {"train": inputs, "validation": ROWS, "test": ROWS}
    targets = {"train": train, "validation": train, "test": test}
    return Table(parts, {s: np.array(t, np.int32) for s, t in targets.items()}, num_classes)


GOOD = ROWS + np.array([[0.0], [1.0], [2.0]])
CASES = {
    "nothing": (table(GOOD), "float32", []),
    "constant feature": (table(), "float32", ["1 of the 3 features is constant", "column 1)"]),
    "constant table": (table(np.ones((3, 3))), "float32", ["every one of the 3 features"]),
    "absent class": (
        table(GOOD, test=(0, 2, 2)),
        "float32",
        ["class 2", "test but in no training"],
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
