"""Which rows of a report are compared with which, as `baseline=` says."""

import pytest

from src.reporting.notes import notes
from src.reporting.report import make_report
from src.reporting.stored import find_runs
from src.reporting.table import rows
from src.settings.errors import UserError
from tests.test_report import store


def store_grid(folder, scores):
    """One run for each {(method, options): score}."""
    for i, ((method, options), score) in enumerate(scores.items()):
        store(folder / f"{i}", method, 0, score, config={"step": 1, "law": "-", **dict(options)})


def differences(report):
    """{what tells a row apart: its difference}."""
    keys = len(report.keys)
    at = rows(report)[0].index("difference")
    return {" ".join(row[:keys]): row[at] for row in rows(report)[1:]}


STEPS = {
    ("rhg", (("step", 1),)): 0.5,
    ("bda", (("step", 1),)): 0.6,
    ("rhg", (("step", 2),)): 0.1,
    ("bda", (("step", 2),)): 0.4,
}
LAWS = {
    ("rhg", (("step", 1),)): 0.5,
    ("rhg", (("step", 2),)): 0.1,
    ("bda", (("step", 1), ("law", "a"))): 0.6,
    ("bda", (("step", 2), ("law", "b"))): 0.4,
    ("bda", (("step", 3), ("law", "b"))): 0.4,
}


@pytest.mark.parametrize(
    ("scores", "baseline", "expected", "note"),
    [
        (
            STEPS,
            "method=rhg",
            {"rhg 1": "baseline", "bda 1": "0.1", "rhg 2": "baseline", "bda 2": "0.3"},
            "to the row of method=rhg of the same step (a dash: none).",
        ),
        (
            STEPS,
            "method=rhg,step=2",
            {"rhg 1": "0.4", "bda 1": "0.5", "rhg 2": "baseline", "bda 2": "0.3"},
            "to the row of method=rhg, step=2.",
        ),
        (  # what is alike in all that fit need not be so in the others
            LAWS,
            "method=rhg",
            {
                "rhg - 1": "baseline",
                "rhg - 2": "baseline",
                "bda a 1": "0.1",
                "bda b 2": "0.3",
                "bda b 3": "-",
            },
            "to the row of method=rhg of the same step (a dash: none).",
        ),
    ],
)
def test_each_row_has_the_baseline_of_its_own_options(scores, baseline, expected, note, tmp_path):
    store_grid(tmp_path, scores)
    report = make_report(find_runs([tmp_path]), baseline=baseline)
    found = {name: text.removesuffix(" (1 seed)") for name, text in differences(report).items()}
    assert found == expected
    assert f"difference, seed by seed: {note}" in notes(report)


def test_the_example_is_one_of_those_that_fit(tmp_path):
    others = {("bda", (("step", step),)): 0.1 for step in (5, 6)}
    store_grid(tmp_path, others | {key: of for key, of in STEPS.items() if key[0] == "rhg"})
    runs = find_runs([tmp_path])
    message = "fits 2 groups of runs, and no other row has one with the same step; name one, for e"
    with pytest.raises(UserError, match=message) as error:
        make_report(runs, baseline="method=rhg")
    assert str(error.value).endswith("baseline=method=rhg,step=1")


@pytest.mark.parametrize(
    ("baseline", "score"),
    [
        ("sizes=[8,4]", 0.6),
        ("sizes=[8,4],start_from=null", 0.6),
        ('start_from="runs/method=rhg,seed=0@best"', 0.7),
        ("sizes=[8],start_from='runs/method=rhg,seed=0@best'", 0.7),
    ],
)
def test_a_baseline_has_values_with_commas(baseline, score, tmp_path):
    start = "runs/method=rhg,seed=0@best"
    for name, sizes, start_from in (("a", [8], None), ("b", [8, 4], None), ("c", [8], start)):
        config = {"sizes": sizes, "start_from": start_from}
        store(tmp_path / name, "rhg", 0, {"a": 0.5, "b": 0.6, "c": 0.7}[name], config=config)
    runs = find_runs([tmp_path])
    chosen = make_report(runs, baseline=baseline).baseline
    assert chosen is not None
    assert [of.values("best/test/accuracy") for of in chosen.groups] == [{0: score}]
