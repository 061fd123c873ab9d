"""The results: every row is a configuration, what is stored is its own, and what is refused."""

import json
import math

import pytest

from src.results.comparing import compared, estimate, paired
from src.results.few_shot_cells import OF_EACH_CELL, OF_PAPERS
from src.results.few_shot_rows import OMNIGLOT
from src.results.intervention_rows import INTERVENTIONS
from src.results.overview import overview
from src.results.rerun import config_of as config_of_row
from src.results.row import Quoted
from src.results.rows import GROUPS, ROWS, named
from src.results.stored import (
    FORMAT,
    code_version,
    stored_of,
)
from src.results.tables import (
    comparison_lines,
    number,
    published_of,
    value_of,
)
from src.settings.build import build
from src.settings.checked import check_settings
from src.settings.config import NODES, check_node
from src.settings.errors import UserError
from tests.conftest import config_of

MAML_TWICE_AND_ANOTHER = "5w1s-maml-cosine", "5w1s-maml", "20w5s-fomaml"
ACCURACY = Quoted("test/accuracy", "accuracy", percent=True)


def one_of_each_kind(rows):
    """The first row of each set of overrides' keys: others differ in values alone."""
    kinds = {}
    for row in rows:
        groups = [text for text in row.overrides if text.split("=")[0] in (*NODES, "method")]
        kinds.setdefault((row.group, *groups), row)
    return list(kinds.values())


# ---- the overview ----


def store_result(store, row, *, validation, test):
    result = {
        "test/accuracy": test,
        "test/accuracy_ci95": 0.002,
        "validation/accuracy": validation,
        "seconds": 60.0,
        "versions": {"packages": {"bilevel": code_version()}},
    }
    content = {
        "format": FORMAT,
        "result": result,
        "machine": {"cores": 2, "devices": ["cpu"]},
        "config": {"seed": 0},
    }
    (store / row.name).mkdir()
    (store / row.name / "0.json").write_text(json.dumps(content))


def test_validation_chooses_the_line_of_a_cell(tmp_path):
    """The row whose test is better is not taken, where its validation is worse."""
    one, other, missing = (ROWS[f"omniglot-{name}"] for name in MAML_TWICE_AND_ANOTHER)
    store_result(tmp_path, one, validation=0.97, test=0.98)
    store_result(tmp_path, other, validation=0.96, test=0.99)
    _, _, *lines = overview(tmp_path, (other, one, missing))
    assert [line.split("|")[3].strip() for line in lines] == ["98 ± 0.2 %", "not run yet"]
    assert f"`{one.name}`" in lines[0]
    assert "| 0.7 % |" in lines[0]  # 98.7 % is published


# ---- rows ----


def test_rows_are_named_once_and_listed_once():
    rows = [row for group in GROUPS.values() for row in group.rows]
    assert len(ROWS) == len(rows)
    assert all(row.group in GROUPS and row.quoted and row.seeds for row in rows)
    # A name is a folder, and a word of make.
    assert all(set(row.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._") for row in rows)
    assert all("|" not in "".join((row.differs, *(q.label for q in row.quoted))) for row in rows)


@pytest.mark.parametrize("row", one_of_each_kind(ROWS.values()), ids=lambda row: row.name)
def test_a_row_is_a_configuration(row):
    """Keys and types; what is built needs data."""
    config = config_of_row(row, row.seeds[0])
    settings = check_settings(config)
    assert settings.seed == row.seeds[0]
    assert "wandb" not in config["logger"]
    for group in NODES:
        check_node(group, config[group])


@pytest.mark.parametrize("method", OF_PAPERS)
def test_rows_of_omniglot_are_built(method, omniglot_folder):
    """With six drawings of each character in place of twenty."""
    small = (f"data.root={omniglot_folder}", "data.split_sizes=[18,6,6]", "problem.queries=1")
    rows = [row for row in OMNIGLOT if row.name.endswith(f"s-{method}")]
    assert len(rows) == len(OF_PAPERS[method].cells)
    for row in (rows[0], rows[-1]):
        more = ()
        if any(text.startswith("problem.train_shots=") for text in row.overrides):
            more = ("problem.train_shots=5", "problem.train_queries=1")
            more += ("problem.train_shots_per_step=1",)
        config = config_of_row(row, 0, (*small, *more))
        assert (config["method"]["name"], config["data"]["rotations"]) == (method, True)
        build(config)


def test_features_are_centred_where_the_head_alone_adapts_to_them():
    for row in OF_EACH_CELL:
        assert ("model.centre=true" in row.overrides) == row.name.endswith(("bda", "rhg"))


def test_names_of_cleaning_say_what_is_run():
    for row in GROUPS["cleaning"].rows:
        data, pollution, noise, model, method = row.name.split("-")
        chosen = {text.partition("=")[0]: text.partition("=")[2] for text in row.overrides}
        assert chosen["problem.pollution"] == pollution
        assert chosen["problem.noise"] == noise
        assert chosen["model"] == {"linear": "flat", "mlp": "mlp300"}[model]
        assert chosen["method"] == {"rhg_validation_too": "bda"}.get(method, method)
        assert ("aggregation.law" in chosen) == (method == "rhg_validation_too")
        assert chosen.get("data", "mnist").startswith(data)
        assert (row.needs == "MNIST") == (data == "mnist")
        # Conjugate gradients stopped such a run: the Hessian of a network may be indefinite.
        assert ("hypergradient" in chosen) == ((model, method) == ("mlp", "hoag"))


def test_published_numbers_are_shares_and_say_their_source():
    for row in ROWS.values():
        for quoted in row.quoted:
            published = quoted.published
            if published is not None and quoted.percent:
                assert 0.5 < published.value < 1, row.name
            assert published is None or published.source
    assert "recalled" in published_of(ROWS["omniglot-5w1s-bda"])
    assert published_of(ROWS["omniglot-5w1s-maml"]).startswith("accuracy 98.7 ± 0.4 % (Finn")
    assert "recalled" not in published_of(ROWS["omniglot-5w1s-maml"])
    assert "F1 89.36 %" in published_of(ROWS["mnist-uniform-0.5-mlp-rhg"])


def test_an_unknown_row_lists_all_and_the_nearest_last():
    with pytest.raises(UserError) as error:
        named("omniglot-5w1s-mmal")
    first, *listed, last = str(error.value).splitlines()
    assert first == "row=omniglot-5w1s-mmal is not known; the rows are"
    assert " ".join(listed).split(", ") == list(ROWS)
    assert last.startswith("did you mean omniglot-5w1s-maml, ")
    with pytest.raises(UserError, match="row=# is not known; the rows are") as error:
        named("#")
    assert "did you mean" not in str(error.value)


# ---- comparing ----


def test_the_interval_is_that_over_seeds_or_of_the_one_seed():
    one = {0: {"test/accuracy": 0.9, "test/accuracy_ci95": 0.01}}
    assert estimate(one, "test/accuracy") == (0.9, 0.01)
    two = {0: {"a": 0.0}, 1: {"a": 2.0}}
    # Student's t of one degree of freedom at 97.5 %, times the deviation sqrt(2) / sqrt(2).
    assert estimate(two, "a") == pytest.approx((1.0, math.tan(math.pi * 0.475)))
    assert estimate({0: {"a": 1}}, "a") == (1.0, None)


@pytest.mark.parametrize(
    ("value", "tolerance", "agrees"),
    [
        (0.949, 0.0, True),  # hypot(0.03, 0.04) = 0.05
        (0.951, 0.0, False),
        (0.951, 0.06, True),
        (math.nan, 1.0, False),
    ],
)
def test_it_agrees_within_the_joint_interval_or_the_tolerance(value, tolerance, agrees):
    stored = {0: {"test/accuracy": 0.9, "test/accuracy_ci95": 0.03}}
    new = {0: {"test/accuracy": value, "test/accuracy_ci95": 0.04}, 1: {}}  # seed 1 has no partner
    found = compared(stored, new, ACCURACY._replace(tolerance=tolerance))
    assert found.agrees == agrees
    assert found.bound == pytest.approx(max(0.05, tolerance))
    assert ("agrees" if agrees else "DIFFERS") in comparison_lines([found])[1]


def test_a_paired_difference_is_of_the_seeds_that_both_have():
    """Of runs of several seeds and of one; a seed that failed is none."""
    several = {0: {"seeds": [0, 1, 2, 3], "per_seed": {"a": [1.0, 2.0, 4.0, None]}}}
    single = {seed: {"a": value} for seed, value in enumerate([0.5, 1.0, 1.5, 9.0])}
    found = paired(several, single, "a")
    differences = [0.5, 1.0, 2.5]
    assert found.value == pytest.approx(sum(differences) / 3)
    assert found.half_width == pytest.approx(4.302653 * (1.0408330 / math.sqrt(3)), rel=1e-6)
    assert paired(several, {7: {"a": 1.0}}, "a") is None
    assert paired(single, {0: {"a": 0.0}}, "a") == (0.5, None)


def test_an_intervention_shows_its_difference_from_the_base():
    row = ROWS["intervention-centre"]
    assert "from `intervention-base`, paired)" in value_of(row, stored_of(row))
    base = ROWS["intervention-base"]
    assert "paired" not in value_of(base, stored_of(base))


def test_an_intervention_changes_what_its_name_says_and_sees_as_many_tasks():
    base = dict(text.split("=", 1) for text in ROWS["intervention-base"].overrides)
    for row in INTERVENTIONS:
        options = dict(text.split("=", 1) for text in row.overrides)
        assert base.keys() <= options.keys()
        tasks = int(options.get("meta_batch_size", 8)) * int(options["num_iterations"])
        assert tasks * int(options.get("problem.train_ways", 5)) == 12000 * 5
        assert (options != base) == (row.name != "intervention-base")


def test_numbers_as_text():
    assert number(ACCURACY, 0.98765, 0.0043) == "98.77 ± 0.43 %"
    assert number(ACCURACY._replace(percent=False), 5.0741e-11, None) == "5.074e-11"


def test_the_shared_files_hold_for_every_method():
    """The method's own upper optimizer and step sizes are not replaced."""
    reptile = config_of("experiment=omniglot", "method=reptile")
    assert reptile["upper_optimizer"]["_target_"].endswith(".sgd")
    assert reptile["upper_optimizer"]["step_size"] == 1.0
    maml = config_of("experiment=omniglot", "method=maml")
    assert (maml["num_iterations"], maml["meta_batch_size"]) == (6000, 8)
    bda = config_of("experiment=cleaning", "method=bda", "model=flat")
    assert bda["problem"]["pollution"] == "uniform"
    assert bda["data"]["split_sizes"] == [5000, 5000, None]


@pytest.mark.parametrize(
    ("row", "preset"),
    [
        ("bda-20-ways", ("omniglot_20_ways", "method=bda")),
        ("rhg-20-ways", ("omniglot_20_ways", "method=rhg")),
        ("maml-20-ways-4-tasks", ("omniglot_20_ways_maml",)),
    ],
)
def test_presets_of_20_ways_are_what_their_rows_ran(row, preset):
    theirs = config_of_row(named(f"omniglot-5w1s-{row}-cosine"), 0)
    preset = config_of(f"experiment={preset[0]}", *preset[1:])
    assert {**preset, "logger": theirs["logger"]} == theirs
