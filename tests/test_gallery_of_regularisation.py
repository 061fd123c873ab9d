"""Penalties by every method against gradients: what a curve is, and the report, in small."""

import jax
import numpy as np
import pytest

from src.figures import regularisation
from src.figures.regularisation import Case, table, truth
from src.gallery import regularisation_table
from src.gallery.kinds_table import WAYS
from src.gallery.regularisation_table import (
    beyond,
    curve,
    names_without_constraints,
    report,
    rounds,
)
from tests.conftest import python

CASE: Case = table(100)


@pytest.fixture(autouse=True)
def in_small(monkeypatch):
    monkeypatch.setattr(regularisation_table, "BUDGET", 3000)
    monkeypatch.setattr(regularisation_table, "PARTS", 5)


def test_a_curve_is_h_at_what_the_method_has_spent():
    with jax.enable_x64(True):
        one = curve(CASE, "hoag", rounds(CASE))
        start = np.full(CASE.num_penalties, regularisation.START)
        at_start, _, _ = truth(CASE, start, np.zeros(22))
        least = regularisation.least(CASE)
    assert one.gradients[-1] <= 3000 < one.gradients[-1] * (1 + 1 / one.iterations)
    assert one.values[0] < at_start
    assert (np.diff(one.values) < 1e-9).all(), "Adam in small steps on the true hypergradient"
    gaps = beyond(least, {"hoag": one})["hoag"].values
    assert 0 < gaps[-1] < 0.5 * (at_start - least)


def test_mini_batches_count_as_their_share_of_the_rows():
    with jax.enable_x64(True):
        few, all_rows = (curve(CASE, name, rounds(CASE)) for name in ("saba", "soba"))
    # The same directions but for what is logged, on a fifth of the rows.
    assert few.iterations == pytest.approx(5 * all_rows.iterations, rel=0.3)


def test_a_report_has_a_row_for_each_method_and_says_why_some_do_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(regularisation, "table", lambda: CASE)
    monkeypatch.setattr(regularisation, "texts", lambda: CASE._replace(name="other"))
    lines = report(["hoag", "alternating"], tmp_path / "picture.png")
    assert "other: h - h*" in lines[0]
    (row,) = [line for line in lines if line.startswith("| `hoag`")]
    assert row.count("|") == lines[0].count("|")
    assert lines[-1].startswith("- `alternating`: ")
    assert "x would never be learned" in lines[-1]
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_methods_for_constraints_have_no_place_here():
    assert set(WAYS) - set(names_without_constraints()) == {"kkt", "lv_hba"}
    refused = python("-m", "src.gallery", "problems=regularisation", "methods=kkt")
    assert refused.returncode == 1
    assert "methods=kkt: there are alternating, rhg" in refused.stderr
