"""Reports: what differs, seeds as one row, paired differences, and what gave no result."""

import csv
import io
import json

import pytest

from src.report import main
from src.reporting.differences import differing, shared, typed_keys
from src.reporting.report import as_csv, as_lines, as_markdown, make_report
from src.reporting.stored import find_runs
from src.reporting.table import rows
from src.running.run import run
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of


def store(folder, method, seed, score, **more):
    """A run folder as a run leaves it, with one score."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "num_iterations": 10,
        "problem": {"name": "ridge"},
        "method": {"name": method, "reference": method},
        "hypergradient": {"_target_": f"x.{method}_estimator", "damping": None},
        **more.pop("config", {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "identity.json").write_text("{}")
    result = {
        "monitor": "validation/accuracy",
        "best/test/accuracy": score,
        "test/accuracy": 0.0,
        "seconds": 2.0,
        "peak_memory_mib": 300.0,
        **more,
    }
    if score is not None:
        (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def study(tmp_path):
    """Three seeds of two methods, which share the seeds' difficulty; two runs without a result."""
    for seed, hard in enumerate((0.0, 0.1, 0.3)):
        store(tmp_path / f"a{seed}", "rhg", seed, 0.9 - hard)
        store(tmp_path / f"b{seed}", "bda", seed, 0.91 - hard + 0.001 * seed)
    store(tmp_path / "c", "hoag", 0, None)
    (tmp_path / "c/checkpoints/4").mkdir(parents=True)
    failure = {"folder": str(tmp_path / "d"), "overrides": ["method=x"], "reason": "refused"}
    (tmp_path / "failures.jsonl").write_text(json.dumps(failure) + "\n{torn")
    return tmp_path


def test_seeds_are_one_row_and_differences_are_paired(study):
    report = make_report(find_runs([study]), baseline="method=rhg")
    header, first, second = rows(report)
    assert header == [
        "method",
        "seeds",
        "best/test/accuracy",
        "difference",
        "seconds per seed",
        "MiB",
    ]
    assert first[:2] == ["rhg", "0 to 2"]
    assert first[3] == "baseline"
    mean, half = (float(part) for part in second[3].partition(" (")[0].split(" +- "))
    assert mean == pytest.approx(0.011)
    # 4.303 s / sqrt(3) with s = 0.001: the seeds' own spread of 0.15 is not in it.
    assert half == pytest.approx(4.302653 * 0.001 / 3**0.5, rel=0.02)
    assert float(second[2].split(" +- ")[1]) > 0.3


def test_what_gave_no_result_is_listed_with_its_reason(study):
    text = "\n".join(as_lines(make_report(find_runs([study]))))
    assert "2 without a result:" in text
    assert "unfinished: a checkpoint of 4 of 10 iterations" in text
    assert f"{study / 'd'}: refused (method=x)" in text


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("start_from", [None, "runs/a@best"]),
        ("eval_every", [10, 100]),
        ("num_validation_tasks", [5, 50]),
        ("num_test_tasks", [5, 50]),
    ],
)
def test_options_that_change_scores_tell_rows_apart(key, values, tmp_path):
    for i, value in enumerate(values):
        store(tmp_path / f"{i}", "rhg", 0, 0.5 + 0.1 * i, config={key: value})
    header, *found = rows(make_report(find_runs([tmp_path])))
    assert header[0] == key
    assert [row[2] for row in found] == ["0.5", "0.6"]


def test_a_start_of_the_same_seed_is_one_option_of_all_seeds(tmp_path):
    starts = ("runs/seed={},a@best", "runs/b/seed{}", "runs/seed=1/c@last")
    for i, start in enumerate(starts):
        for seed in (1, 12):
            config = {"start_from": start.format(seed)}
            store(tmp_path / f"{i}{seed}", "rhg", seed, 0.1 * i + 0.01 * seed, config=config)
    report = make_report(find_runs([tmp_path]))
    found = {row[0]: row[1] for row in rows(report)[1:]}
    assert found == dict.fromkeys(
        ("runs/seed=*,a@best", "runs/b/seed*", "runs/seed=1/c@last"), "1, 12"
    )


def test_a_seed_that_was_run_twice_counts_once_and_the_other_folder_is_named(tmp_path):
    store(tmp_path / "a", "rhg", 0, 0.5)
    store(tmp_path / "b", "rhg", 0, 0.7, config={"log_every": 3})
    store(tmp_path / "c", "rhg", 1, 0.6)
    report = make_report(find_runs([tmp_path]))
    assert [group.values(report.metric) for group in report.groups] == [{0: 0.5, 1: 0.6}]
    assert [run.folder.name for run in report.groups[0].runs] == ["a", "c"]
    said = f"{tmp_path / 'b'} is left out for seed 0: {tmp_path / 'a'} has the same"
    assert said in "\n".join(as_lines(report))
    assert said in "\n".join(as_markdown(report))


def test_runs_that_do_not_depend_on_the_seed_have_no_interval(study):
    for seed in range(3):
        store(study / f"e{seed}", "hoag", seed, 0.25, seconds=2.0 + seed)
        store(study / f"f{seed}", "darts", seed, 0.5)
    report = make_report(find_runs([study]), baseline="method=darts")
    text = "\n".join(as_lines(report))
    assert [row[2] for row in rows(report)[3:]] == [
        "0.25 (all seeds the same)",
        "0.5 (all seeds the same)",
    ]
    assert "-0.25 (all seeds the same)" in text
    assert "these runs do not depend on the seed" in text
    assert "+- is half of a 95 % interval over seeds" in text  # of the other rows
    assert "do not depend" not in "\n".join(as_lines(make_report(find_runs([study / "a0"]))))


def test_markdown_and_csv(study):
    report = make_report(find_runs([study, study / "a0"]))  # a folder that is named twice
    assert (
        as_markdown(report)[0] == "| method | seeds | best/test/accuracy | seconds per seed | MiB |"
    )
    table = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert len(table) == 6
    assert [row["best/test/accuracy"] for row in table[:3]] == ["0.9", "0.8", "0.6000000000000001"]
    assert {row["method.name"] for row in table} == {"rhg", "bda"}


def test_what_differs():
    def config(**changed):
        base = {"seed": 1, "num_iterations": 5, "method": {"name": "rhg"}, "h": {"damping": 0.0}}
        return {**base, **changed}

    assert differing([config(), config(seed=2)]) == []
    other = config(method={"name": "hoag"}, h={"damping": 1.0})
    assert differing([config(), other]) == ["method.name"]  # damping follows from it
    assert differing([config(), other, config(h={"damping": 1.0})]) == ["method.name", "h.damping"]
    # A number of its own is never hidden behind a name.
    longer = config(method={"name": "hoag"}, num_iterations=7)
    assert differing([config(), longer]) == ["method.name", "num_iterations"]
    # Nor is what was typed, though it follows from another.
    typed = typed_keys(["+h.damping=1.0", "num_iterations=7"])
    assert differing([config(), other], typed) == ["method.name", "h.damping"]
    assert shared([config(), longer], ["method.name", "h.damping"]) == {"h.damping": "0.0"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "metric=accuracy is in no result; choose one of best/test/acc"),
        ({"baseline": "rhg"}, "rhg does not differ here; there is method"),
        ({"baseline": "method=x"}, r"fits 0 groups of runs; name one, .* baseline=method=rhg"),
    ],
)
def test_wrong_choices(study, options, message):
    with pytest.raises(UserError, match=message):
        make_report(find_runs([study]), **options)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "result.json").write_text("[1"), "result.json cannot be read"),
        (lambda folder: (folder / "result.json").write_text("[]"), "result.json cannot be read"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json cannot be rea"),
    ],
)
def test_damaged_files_are_named(damage, reason, tmp_path):
    store(tmp_path / "a", "rhg", 0, 0.5)
    damage(tmp_path / "a")
    with pytest.raises(UserError, match=f"no finished run was found.*{reason}"):
        make_report(find_runs([tmp_path]))


def test_as_a_program(tmp_path, monkeypatch, capsys):
    """On real runs: two seeds in one program, and one alone."""
    ridge = ["problem=ridge", "num_iterations=2", "num_lower_steps=5", *QUIET]
    run(config_of(*ridge, "method=rhg", "seeds=2"), tmp_path / "method=rhg")
    run(config_of(*ridge, "method=darts"), tmp_path / "method=darts")
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "baseline=method=darts"])
    main()
    printed = capsys.readouterr().out
    assert "rhg" in printed
    assert "0, 1" in printed
    assert "(1 seed)" in printed
    assert (tmp_path / "report.md").read_text().startswith("| method | seeds | best/test/upper")
    for arguments, message in (
        ([str(tmp_path / "none")], "is not a folder, and no key=value"),
        (["metric=x"], "no folder is named"),
        ([str(tmp_path), "metrik=x"], "is not a folder, and no key=value of metric"),
        ([str(tmp_path / "method=rhg/checkpoints")], "no finished run was found"),
        ([str(tmp_path), f"out={tmp_path / 'report.md'}"], "cannot be made a folder"),
    ):
        monkeypatch.setattr("sys.argv", ["report", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert message in str(stop.value.code)
        assert "hydra.run.dir" not in str(stop.value.code)
