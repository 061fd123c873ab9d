"""The gallery: what is judged solved, and its table."""

import numpy as np
import pytest

from src.data.bolib import instance
from src.gallery import bolib_table
from src.gallery.bolib_judge import judged
from tests.conftest import python

HATZ = instance("LamparielloSagratella2017Ex32")  # min x^2 + y^2, y = 1 - x: x = y = 1/2


@pytest.mark.parametrize(
    ("x", "y", "verdict"),
    [
        (0.5, 0.5, "solved"),
        (0.55, 0.45, "solved"),
        (0.65, 0.35, "nearly"),
        (0.9, 0.1, "no"),
        (0.5, 0.45, "nearly"),  # F is right, y is no lower solution
        (0.0, 0.0, "no"),
    ],
)
def test_verdicts(x, y, verdict):
    assert judged(HATZ, np.array([x]), np.array([y])).verdict == verdict


def test_a_better_lower_value_is_found_elsewhere():
    """f has its least value at the other end of the box than the start."""
    problem = instance("MitsosBarton2006Ex317")  # f = x y^2 / 2 + y^4 / 4: at x = -1, f* = -1/4
    found = judged(problem, np.array([-1.0]), np.array([0.0]))
    assert found.ended.lower_gap == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "verdict"),
    [
        (7.2, 1.6, "solved"),
        (7.0, 1.7, "no"),
        (7.2, 1.65, "no"),  # a smaller y is as feasible
        (7.2, 3.0, "no"),
    ],
)
def test_verdicts_with_constraints(x, y, verdict):
    """x = 7.2, y = 1.6 is the solution; f = y falls until a constraint stops it."""
    found = judged(instance("Bard1984b"), np.array([x]), np.array([y]))
    assert found.verdict == verdict, found


def test_the_table(monkeypatch):
    monkeypatch.setattr(bolib_table, "NUM_ITERATIONS", 200)
    monkeypatch.setattr(bolib_table, "TRIED_ON", ("LamparielloSagratella2017Ex32",))
    lines = bolib_table.table({HATZ.name: HATZ}, ["bome", "soba"])
    assert lines[0] == "| problem | `bome` | `soba` |"
    assert lines[2].startswith(f"| {HATZ.name} | ")
    assert lines[-1].startswith("Upper steps: `bome` 0.")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("methods=rgh", "methods=rgh: there are rhg, trhg"),
        ("problems=nothing", "instance=nothing is no problem of BOLIB; the nearest are"),
        (
            "method=rhg",
            "method=rhg: there are problems=boxes, problems=constrained, problems=kinds",
        ),
    ],
)
def test_mistakes(argument, message):
    ended = python("-m", "src.gallery", argument)
    assert ended.returncode == 1
    assert message in ended.stderr
