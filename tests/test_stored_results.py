"""Stored results: read again or refused, shown, and run again by the program."""

import json
import shutil

import pytest

from src.results import __main__ as program
from src.results.keeping import LONGEST, keep, shortened
from src.results.rerun import config_of as config_of_row
from src.results.rerun import rerun
from src.results.row import Published, Quoted, Row
from src.results.rows import GROUPS, ROWS, named
from src.results.stored import (
    FORMAT,
    STORE,
    Stored,
    differing_keys,
    stored_of,
    usable,
)
from src.results.tables import (
    in_full,
    listing,
    published_of,
    table,
)
from src.running.stopping import Stopped
from src.settings.errors import UserError
from tests.conftest import QUIET, ROOT, message_of, python

QUICK = Row(
    "quick",
    "tiny",
    ("problem=counterexample", "method=bda", "num_iterations=3", "num_lower_steps=30", *QUIET),
    (Quoted("validation/upper_loss", "F", tolerance=1e-9),),
    seeds=(0, 1),
)


FILES = sorted(STORE.glob("*/*"))


def stored_at(path):
    row = named(path.parent.name)
    assert int(path.stem) in row.seeds, path
    return row, stored_of(row)[int(path.stem)]


def test_what_is_stored_can_be_read():
    """Every file belongs to a row and a seed, can be read, is small, and names no folder."""
    assert FILES
    for path in FILES:
        _, stored = stored_at(path)
        assert not stored.problem
        assert path.stat().st_size < 20_000, path
        text = path.read_text(encoding="utf-8")
        assert "/home/" not in text, path
        assert "/tmp/" not in text, path


@pytest.mark.parametrize("every", [4, 1])  # the row is composed: a quarter of a second each
def test_what_is_stored_has_the_options_of_its_row(every):
    for path in FILES[::every]:
        row, stored = stored_at(path)
        assert differing_keys(stored, config_of_row(row, int(path.stem))) == [], path


def test_every_tiny_row_is_stored():
    for row in GROUPS["tiny"].rows:
        assert usable(stored_of(row)).keys() == set(row.seeds), row.name


def test_long_lists_are_left_out():
    long, short = list(range(LONGEST + 1)), list(range(LONGEST))
    tree = {"a": long, "b": {"c": long, "d": short}, "e": [{"f": long}], "g": 1}
    assert shortened(tree) == {"b": {"d": short}, "e": [{}], "g": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Seed 0 of QUICK, run and stored."""
    folder = tmp_path_factory.mktemp("results")
    rerun(QUICK, 0, folder / "runs")
    keep(QUICK, 0, folder / "runs/quick/seed0", 2, folder / "store")
    return folder / "store"


def test_a_stored_result_is_read_again(store):
    (one,) = stored_of(QUICK, store).values()
    assert not one.problem
    assert one.minutes > 0
    assert one.machine == "2 CPU cores"
    assert one.result["overrides"] == list(QUICK.overrides)
    config = config_of_row(QUICK, 0)
    assert differing_keys(one, config) == []
    assert differing_keys(one, {**config, "num_lower_steps": 31, "new": 1}) == ["num_lower_steps"]
    nested = {**config, "aggregation": {**config["aggregation"], "alpha": 0.7}}
    assert differing_keys(one, nested) == ["aggregation.alpha"]
    elsewhere = {**config, "data": {**config["data"], "root": "/elsewhere"}}
    assert differing_keys(one, elsewhere) == []


def without(content, *keys):
    """A copy without the value under these keys."""
    copy = json.loads(json.dumps(content))
    node = copy
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    return copy


DAMAGE = {
    "is in format 0, this code reads format": lambda c: {**c, "format": FORMAT - 1},
    "is in format None": lambda c: without(c, "format"),
    "is of version 0.0 of the code": lambda c: {
        **c,
        "result": {**c["result"], "versions": {"packages": {"bilevel": "0.0"}}},
    },
    "lacks the versions": lambda c: without(c, "result", "versions"),
    "lacks 'validation/upper_loss'": lambda c: without(c, "result", "validation/upper_loss"),
    "lacks 'seconds'": lambda c: without(c, "result", "seconds"),
    "lacks 'cores'": lambda c: without(c, "machine", "cores"),
    "is damaged: a number in it is none": lambda c: {
        **c,
        "result": {**c["result"], "seconds": "long"},
    },
    "is no stored result": lambda c: [c],
}


@pytest.mark.parametrize("fragment", DAMAGE)
def test_a_stored_result_that_cannot_be_compared_says_why(fragment, store, tmp_path, monkeypatch):
    monkeypatch.setattr("src.results.stored.code_version", lambda: "0.1.0")
    content = json.loads((store / "quick/0.json").read_text())
    content["result"]["versions"]["packages"]["bilevel"] = "0.1.0"
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/0.json").write_text(json.dumps(DAMAGE[fragment](content)))
    stored = stored_of(QUICK, tmp_path)
    assert fragment in stored[0].problem
    assert usable(stored) == {}
    assert fragment in "\n".join(in_full(QUICK, stored))


def test_a_file_that_is_no_json_says_so(tmp_path):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/0.json").write_text("{")
    assert "cannot be read (JSONDecodeError)" in stored_of(QUICK, tmp_path)[0].problem


def test_an_unknown_version_of_the_code_is_no_other_version(store, monkeypatch):
    monkeypatch.setattr("src.results.stored.code_version", lambda: None)
    assert not stored_of(QUICK, store)[0].problem


def test_an_unfinished_run_is_not_stored(tmp_path):
    with pytest.raises(UserError, match="is no finished run"):
        keep(QUICK, 0, tmp_path, 2, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_score_that_the_result_lacks_is_named(store):
    wrong = QUICK._replace(quoted=(Quoted("test/accuracy", "accuracy"),))
    with pytest.raises(UserError, match=r"has no test/accuracy, .* it has validation/lower_loss"):
        rerun(wrong, 0, store.parent / "runs")


# ---- text ----


def test_a_row_that_was_never_run_says_so_with_its_command(tmp_path):
    row = ROWS["omniglot-20w5s-maml"]
    text = "\n".join(in_full(row, stored_of(row, tmp_path)))
    assert "not run yet" in text
    assert f"python -m src.train {' '.join(row.overrides)} data.root=FOLDER seed=0" in text
    assert "needs       the files of Omniglot: data.root=FOLDER, or BILEVEL_DATA" in text
    assert any(
        "omniglot-20w5s-maml" in line and "not run yet" in line for line in listing(tmp_path)
    )
    (line,) = [line for line in table("omniglot", tmp_path) if "`omniglot-20w5s-maml`" in line]
    assert line.count("|") == 8
    assert "not run yet" in line


def test_a_row_of_another_version_is_no_row_that_was_never_run(tmp_path):
    found = {0: Stored({}, "is in format 0")}
    assert "stored by another version" in "\n".join(in_full(QUICK, found))


def test_published_values_of_several_scores_share_a_source():
    of = Published(0.5, "A, 2000", recalled=True)
    row = QUICK._replace(
        quoted=(
            Quoted("test/accuracy", "accuracy", percent=True, published=of),
            Quoted("b", "b", published=of._replace(value=2)),
        )
    )
    assert published_of(row) == "accuracy 50 %; b 2 (A, 2000, recalled)"


# ---- the program ----


@pytest.fixture
def call(monkeypatch, capsys, store, tmp_path):
    """`python -m src.results *options` with QUICK as a row: exit status, and what is printed."""
    shutil.copytree(store, tmp_path / "store")
    monkeypatch.setitem(ROWS, "quick", QUICK)
    monkeypatch.setattr(
        "src.results.stored.stored_of",
        lambda row, folder=tmp_path / "store": stored_of(row, folder),
    )
    monkeypatch.setattr(
        "src.results.keeping.keep",
        lambda row, seed, folder, cores: keep(row, seed, folder, cores, tmp_path / "store"),
    )

    def run_it(*options):
        monkeypatch.setattr("sys.argv", ["results", *options, f"runs={tmp_path / 'runs'}"])
        with pytest.raises(SystemExit) as stop:
            program.main()
        return stop.value.code, capsys.readouterr().out

    return run_it


def test_a_row_is_run_again_and_compared(call, tmp_path):
    status, text = call("row=quick")
    assert status == 0
    assert "seed 0, in" in text
    assert "seed 1, in" not in text  # it has no stored result
    assert "agrees" in text
    _, text = call("row=quick")
    assert "it was run before: what it gave is read" in text

    path = tmp_path / "store/quick/0.json"
    content = json.loads(path.read_text())
    content["result"]["validation/upper_loss"] += 1.0
    path.write_text(json.dumps(content))
    status, text = call("row=quick")
    assert status == 1
    assert "DIFFERS" in text


def test_keep_runs_all_seeds_and_stores_them(call, tmp_path):
    status, text = call("row=quick", "keep=true")
    assert status == 0
    assert (tmp_path / "store/quick/1.json").exists()
    assert "make docs-tables" in text
    assert usable(stored_of(QUICK, tmp_path / "store")).keys() == {0, 1}


def test_nothing_is_run_where_there_is_nothing_to_compare_with(call, tmp_path):
    shutil.rmtree(tmp_path / "store")
    status, text = call("row=quick")
    assert status == 0
    assert 'make results ROW=quick ARGS="keep=true" runs it' in text
    assert not (tmp_path / "runs").exists()


def test_other_options_than_the_stored_ones_are_not_compared(call, monkeypatch):
    changed = QUICK._replace(overrides=(*QUICK.overrides, "aggregation.alpha=0.7"))
    monkeypatch.setitem(ROWS, "quick", changed)
    status, text = call("row=quick")
    assert status == 0
    assert "seed 0 was stored with other values of aggregation.alpha: it is not compared" in text
    assert "there is nothing to compare with" in text


def test_a_stopped_run_says_how_to_go_on(call, monkeypatch, capsys):
    def stopped(*_):
        raise Stopped(15, 3)

    monkeypatch.setattr("src.running.run.run", stopped)
    status, _ = call("row=quick")
    assert status == 128 + 15


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["row=nonsense"], ["row=nonsense is not known"]),
        (["row=quick", "seeds=7"], ["'7' is no seed of this row; choose some of 0,1"]),
        (["row=quick", "seeds="], ["seeds= is empty"]),
        (["row=quick", "seeds=1"], ["no stored result of seed 1", "choose some of 0", "keep=true"]),
        (["row=quick", "keep=yes"], ["keep=yes is not known; choose false or true"]),
        (["keep=true"], ["keep is of no use without a row", "row=tiny-counterexample-bda"]),
        (["rows=quick"], ["rows is not a key: did you mean row?"]),
        (["quick"], ["quick is not of the form key=value; the keys are row, seeds"]),
    ],
)
def test_what_is_refused(options, fragments, call):
    status, _ = call(*options)
    assert str(status).startswith("error: ")
    for fragment in fragments:
        assert fragment in str(status)


def test_missing_data_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    row = ROWS["omniglot-5w1s-bda"]
    message = message_of(lambda: rerun(row, 0, tmp_path))
    assert "data.root=FOLDER or the environment variable BILEVEL_DATA" in message
    assert "images_background.zip" in message
    message = message_of(lambda: rerun(row, 0, tmp_path, [f"data.root={tmp_path}"]))
    assert f"data.root={tmp_path} holds none of images_background" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_data_with_spaces_and_brackets_reaches_the_run(call, tmp_path):
    folder = tmp_path / "a (1),b=c"
    folder.mkdir()
    status, _ = call("row=omniglot-5w1s-bda", "seeds=0", "keep=true", f"data.root={folder}")
    assert f"data.root={folder} holds none of images_background" in str(status)


def test_the_list_as_a_program(tmp_path):
    done = python("-m", "src.results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "omniglot-5w1s-bda" in done.stdout
    assert "F 0.25" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_makefile_passes_the_row():
    assert "src.results $(if $(ROW),row=$(ROW)) $(ARGS)" in (ROOT / "Makefile").read_text("utf-8")
