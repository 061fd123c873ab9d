"""The figure of hyper-cleaning against time: its runs, what it draws and prints."""

import json

import numpy as np
import pytest

from src.figures import cleaning_time
from src.figures.cleaning_time import Curve, draw, overrides, table
from tests.conftest import QUIET, config_of

# Runs of the same shape on digits, which every checkout has.
SMALL = ("data=digits", "data.split_sizes=[200,200,200]", "checkpoint_every=2")


@pytest.fixture
def _small(monkeypatch):
    def few(noise, method, *more):
        return [*overrides(noise, method, *more), *SMALL, *QUIET]

    monkeypatch.setattr(cleaning_time, "overrides", few)
    for name, value in {"NUM_SEEDS": 2, "NUM_ITERATIONS": 20, "TIMED": 2}.items():
        monkeypatch.setattr(cleaning_time, name, value)


@pytest.mark.parametrize("method", cleaning_time.METHODS)
def test_what_is_typed_is_a_configuration(method):
    assert config_of(*overrides(0.7, method, "seeds=10"))["problem"]["noise"] == 0.7


@pytest.mark.usefixtures("_small")
def test_seeds_in_one_program_and_one_by_one_give_the_same_kind_of_curve(tmp_path):
    together = cleaning_time.curve(tmp_path, 0.5, "soba", ())
    alone = cleaning_time.curve(tmp_path, 0.5, "srba", ())
    for one in (together, alone):
        np.testing.assert_array_equal(one.steps, np.arange(1, 21))
        assert one.error.shape == one.half.shape == (20,)
        assert one.accuracy.shape == one.f1.shape == (2,)
        assert 0 < one.error[-1] < 1
    rows = (tmp_path / "0.5-srba-s1" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])["validation/accuracy"]
    first = json.loads((tmp_path / "0.5-srba-s0" / "result.json").read_text())
    mean = (first["validation/accuracy"] + last) / 2
    assert alone.error[-1] == pytest.approx(1 - mean)


def test_picture_and_table(tmp_path):
    steps = np.array([200, 400])
    one = Curve(
        steps, np.array([0.3, 0.2]), np.array([0.01, 0.01]), np.array([0.8, 0.82]), np.ones(2)
    )
    found = {(noise, method): one for noise in (0.5, 0.9) for method in cleaning_time.METHODS}
    rates = dict.fromkeys(cleaning_time.METHODS, 0.01)
    draw(found, rates, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    lines = table(found, rates)
    assert lines[2].startswith("| 50% | `soba` | 81.0 +- ")
    assert lines[2].endswith("| 100 |")
