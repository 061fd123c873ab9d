"""The figure of the eigenvalue of the lower Hessian: its runs, what it draws and prints."""

import json

import pytest

from src.figures import eigenvalue
from src.figures.eigenvalue import Curve, Point, curve, draw, table
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, linear_few_shot


@pytest.mark.parametrize("name", eigenvalue.WAYS)
def test_what_is_typed_is_a_configuration(name):
    typed = eigenvalue.chosen(name)[name][1]
    assert config_of(*eigenvalue.overrides(*typed))["num_lower_steps"] == 5


def test_a_curve_by_its_name():
    assert [*eigenvalue.chosen(None)] == ["plain", "centred", "half-step"]
    assert eigenvalue.default_picture(None) == "docs/eigenvalue.png"
    assert eigenvalue.default_picture("20-ways") == "docs/eigenvalue_20_ways.png"
    with pytest.raises(UserError, match=r"^only=all is no curve; choose one of plain, centred"):
        eigenvalue.chosen("all")


def test_the_lower_step_is_that_of_the_tasks_that_are_measured(
    omniglot_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(eigenvalue, "AT", (1,))
    typed = [*linear_few_shot(omniglot_folder), "method=bda", *QUIET, "log_every=1"]
    one = curve(tmp_path, [*typed, "lower_optimizer.step_size=0.4", "test_step_size=0.05"])
    assert one.lower_step == 0.05


def test_a_run_goes_on_from_point_to_point(omniglot_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(eigenvalue, "AT", (1, 2))
    typed = [*linear_few_shot(omniglot_folder), "method=bda", *QUIET, "log_every=1"]
    one = curve(tmp_path, typed)
    assert [point.iteration for point in one.points] == [1, 2]
    assert all(0 <= point.accuracy <= 1 and point.eigenvalue > 0 for point in one.points)
    assert sorted(one.norms) == [1, 2]
    assert one.lower_step == 0.1

    # A third point goes on from what is there; the first two are read.
    known = [[1, 0.1, 0.0, 1.0, 0.0], [2, 0.2, 0.0, 2.0, 0.0]]
    (tmp_path / "eigenvalues.json").write_text(json.dumps(known))
    monkeypatch.setattr(eigenvalue, "AT", (1, 2, 3))
    again = curve(tmp_path, typed)
    assert [point.accuracy for point in again.points[:2]] == [0.1, 0.2]
    assert again.points[2].iteration == 3
    assert sorted(again.norms) == [1, 2, 3]


def test_picture_and_table(tmp_path):
    points = [Point(100, 0.9, 0.01, 30.0, 1.0), Point(250, 0.95, 0.01, 15.0, 1.0)]
    norms = {1: 0.5, 2: 0.4}
    found = {label: Curve(points, norms, 0.1) for label, _ in eigenvalue.WAYS.values()}
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    lines = table(found)
    assert lines[2] == "| 100 |" + 4 * " 90.0 +- 1.0 | 3.00 |"
