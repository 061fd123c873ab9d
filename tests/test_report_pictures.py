"""Pictures of a report: their axes and bands show what can be, and no more."""

import re

import numpy as np
import pytest

from src.reporting import pictures
from src.reporting.curves import Curve
from src.reporting.page import named
from src.reporting.report import make_report
from src.reporting.stored import find_runs
from tests.test_report import store

STYLE = pictures.styles(1)[0]


def numbers_at_axes(svg):
    return [float(text.replace("\u2212", "-")) for text in re.findall(r">(\u2212?[\d.]+)<", svg)]


def drawn(values, half=np.nan, name="validation/accuracy", steps=None):
    values = np.array(values, float)
    steps = np.arange(len(values)) if steps is None else np.array(steps)
    curve = Curve(steps, values, np.full(len(values), half), np.ones(len(values)))
    return pictures.curves([(STYLE, curve)], "iteration", name)


@pytest.mark.parametrize(
    ("name", "clipped"),
    [
        ("validation/accuracy", True),
        ("train/accuracy_labels_seen", True),
        ("test/detection_f1", True),
        ("test/detection_auc", True),
        ("test/upper_loss", False),
    ],
)
def test_bands_of_shares_end_at_0_and_1(name, clipped):
    at = numbers_at_axes(drawn([0.4, 0.5, 0.6], half=2.0, name=name))
    assert (min(at) >= 0 and max(at) <= 2) is clipped  # iterations 0 to 2 are at the other axis


def test_a_share_in_percent_is_none():
    assert max(numbers_at_axes(drawn([40.0, 50.0], half=70.0))) > 100


@pytest.mark.parametrize(("name", "logarithmic"), [("accuracy", False), ("upper_loss", True)])
def test_shares_have_no_logarithm(name, logarithmic):
    svg = drawn([0.01, 0.5, 0.9], name=f"validation/{name}")
    assert (">0.6<" not in svg) is logarithmic


@pytest.mark.parametrize("steps", [[0, 1], [3, 4, 5], [5], [0, 700]])
def test_iterations_are_whole_numbers(steps):
    svg = drawn([7.5] * len(steps), steps=steps)
    ticks = re.findall(r'id="xtick_.*?>([\u2212\d.]+)<', svg, flags=re.DOTALL)
    assert ticks
    assert not any("." in tick for tick in ticks)


def test_seconds_are_a_range_that_is_never_below_0():
    groups = [({0: 0.1, 1: 9.0}, 0.5, 0.2), ({0: 2.0}, 0.9, 0.4)]
    of = [(STYLE, *group) for group in groups]
    at = numbers_at_axes(pictures.against_seconds(of, "best/test/accuracy"))
    assert min(at) >= 0
    assert max(at) <= 10
    assert 1.2 not in at  # an accuracy is no more than 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.012345678, 0.5], ["step=0.01235", "step=0.5"]),
        ([0.012345678, 0.012345679], ["step=0.012345678", "step=0.012345679"]),
        ([123456, 5], ["step=123456", "step=5"]),
        (["a1.23456", [0.123456, 1]], ["step=a1.23456", "step=[0.1235,1]"]),
    ],
)
def test_numbers_in_legends_have_four_digits(values, expected, tmp_path):
    for i, value in enumerate(values):
        store(tmp_path / f"{i}", "rhg", 0, 0.5, config={"step": value})
    report = make_report(find_runs([tmp_path]))
    assert [named(report, group) for group in report.groups] == expected
