"""Reports in which the values of another option take the place of seeds."""

import csv
import io

import pytest

from src.reporting.curves import adaptation_curves
from src.reporting.notes import notes
from src.reporting.page import as_page
from src.reporting.report import as_csv, make_report
from src.reporting.stored import find_runs
from src.reporting.table import rows
from src.settings.errors import UserError
from tests.test_report import store

KEY = "data.data_seed"
HARD = {0: 0.0, 1: 0.1, 10: 0.3}


def study(folder, values=HARD, seeds=(0,), result=None):
    """Two methods on the same data, which are harder or easier."""
    for value in values:
        for seed in seeds:
            for method, gain in (("rhg", 0.0), ("bda", 0.05)):
                score = 0.9 - HARD.get(value, 0.2) + gain
                config = {"data": {"data_seed": value, "_target_": "x.rows"}}
                curve = {"test/accuracy": [score]}
                path = folder / f"{method}{value}{seed}"
                store(path, method, seed, score, config=config, adaptation=curve, **(result or {}))
    return find_runs([folder])


def test_rows_are_means_over_the_option_and_differences_are_paired_over_it(tmp_path):
    report = make_report(study(tmp_path), baseline="method=rhg", over=KEY)
    header, bda, rhg = rows(report)
    assert header[:4] == ["method", KEY, "best/test/accuracy", "difference"]
    assert bda[:2] == ["bda", "0, 1, 10"]
    assert bda[3].endswith("(3 values)")
    assert bda[3].startswith("0.05 +- ")
    assert float(bda[3].split(" +- ")[1].split()[0]) < 1e-6
    assert float(rhg[2].split(" +- ")[1]) > 0.3
    text = "\n".join(notes(report))
    assert f"interval over {KEY} (Student's t)" in text
    assert f"difference, {KEY} by {KEY}: to the row of method=rhg." in text
    assert "over seeds" not in text
    assert {line[KEY] for line in csv.DictReader(io.StringIO(as_csv(report)))} == {"0", "1", "10"}
    curve = adaptation_curves(report.groups[1])["test/accuracy"]
    assert (curve.values[0], curve.numbers[0]) == (pytest.approx(0.9 - 0.4 / 3), 3)
    assert f'<button type="button">{KEY}</button>' in as_page(report, tmp_path)


def test_values_may_be_words(tmp_path):
    report = make_report(study(tmp_path, ("b.csv", "a.csv")), over=KEY)
    assert [row[1] for row in rows(report)[1:]] == ["a.csv, b.csv"] * 2


@pytest.mark.parametrize(
    ("more", "over", "message"),
    [
        ({}, "data.dataseed", f"no run has this option; did you mean over={KEY}?"),
        ({}, "data_seed", f"no run has this option; did you mean over={KEY}?"),
        ({}, "xyz", "no run has this option; write it in full"),
        ({}, "seed", "a row is a mean over its seeds anyway; leave over= out"),
        ({"values": [1]}, KEY, "it is 1 in all runs, .*; leave over= out"),
        (
            {"seeds": (0, 1)},
            KEY,
            r"several seeds too \(0, 1\).*alone \(python -m src.report \S+bda00 \S+bda10 \S+bda100 "
            rf"\S+rhg00 \S+rhg10 \S+rhg100 over={KEY}\), or leave over= out",
        ),
    ],
)
def test_what_over_refuses(more, over, message, tmp_path):
    runs = study(tmp_path, **more)
    with pytest.raises(UserError, match=f"over={over}: .*{message}"):
        make_report(runs, over=over)


def test_runs_of_several_seeds_in_one_program_are_refused(tmp_path):
    listed = {"best/test/accuracy": [0.1, 0.2]}
    runs = study(tmp_path, result={"per_seed": listed, "seeds": [0, 1]})
    with pytest.raises(
        UserError, match=r"several seeds too \(0, 1\).*of one kind; leave over= out"
    ):
        make_report(runs, over=KEY)


@pytest.mark.parametrize(
    ("baseline", "warned"), [("method=rhg", False), (f"method=rhg,{KEY}=0", True)]
)
def test_a_baseline_of_other_data_is_warned_of(baseline, warned, tmp_path):
    report = make_report(study(tmp_path), baseline=baseline)
    said = [note for note in notes(report) if "the difference is one of data too" in note]
    assert [f"over={KEY}" in note for note in said] == [True] * warned
