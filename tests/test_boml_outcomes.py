"""What BOML refused or failed on is said; what the command line replaces is no longer described."""

import json

import pytest

from src.boml.command import overrides_of_rows, replaced, table
from src.boml.file import read, translate
from src.boml.options import Options
from tests.conftest import config_of

# Every key that says something of the method, with BOML's default.
METHOD = (
    *("method", "inner_method", "outer_method", "truncate_iter", "first_order", "use_t"),
    *("use_warp", "reptile", "inner_opt", "learn_lr", "learn_st", "learn_alpha"),
    *("learn_alpha_itr", "alpha", "xavier"),
)
DEFAULTS = {key: Options()._asdict()[key] for key in METHOD}
MAML = {"method": "MetaInit", "inner_method": "Simple", "outer_method": "Simple"}
WARP = {**MAML, "use_warp": True, "first_order": True}


def rows_of(folder, options, parity=False):
    path = folder / "options.json"
    path.write_text(json.dumps(options), encoding="utf-8")
    return translate(str(path), read(str(path)), parity)


def told(folder, options, typed=(), parity=False):
    """{key: its line's end} of a file with these keys, the others at their defaults."""
    rows = rows_of(folder, {**DEFAULTS, "examples_test": 15, **options}, parity)
    lines = table(rows, replaced(rows, typed))
    values = {row.key: row.value for row in rows}
    return {
        key: line.split(values[key], 1)[1].strip() for line in lines for key in [line.split()[0]]
    }


@pytest.mark.parametrize(
    ("options", "key", "fragments"),
    [
        ({"inner_method": "Simple"}, "inner_method", ["refused Simple with outer_method=Reverse"]),
        (
            {"inner_method": "Simple", "outer_method": "Darts"},
            "inner_method",
            ["refused Simple with outer_method=Darts", "as Trad"],
        ),
        (
            {"inner_method": "Simple", "outer_method": "Simple"},
            "inner_method",
            ["failed on Simple with method=MetaFeat", "as Trad"],
        ),
        (
            {"inner_method": "Aggr", "outer_method": "Simple"},
            "outer_method",
            ["refused Simple with inner_method=Aggr", "unrolled, as Reverse"],
        ),
        (
            {"outer_method": "Simple", "first_order": True},
            "outer_method",
            ["hypergradient=first_order", "refused Simple with inner_method=Trad", "first order"],
        ),
        (
            {"inner_method": "Aggr", "outer_method": "Implicit"},
            "outer_method",
            ["refused Implicit with inner_method=Aggr", "so does src.train"],
        ),
        ({"outer_method": "Forward"}, "outer_method", ["BOML had none", "exact"]),
        ({"method": "MetaInit"}, "outer_method", ["failed", "Reverse did not", "differentiated"]),
        (
            {"method": "MetaInit", "outer_method": "Implicit"},
            "outer_method",
            ["failed", "src.train refuses it", "zero"],
        ),
        ({**MAML, "inner_opt": "Adam"}, "inner_opt", ["failed on Adam with inner_method=Simple"]),
        (
            {"outer_method": "Darts", "inner_opt": "Momentum"},
            "inner_opt",
            ["failed on Momentum with outer_method=Darts", "tests take it too"],
        ),
        (WARP, "first_order", ["BOML dropped", "warp_grad keeps those of each single step"]),
    ],
    ids=str,
)
def test_what_boml_did_not_run_is_said(options, key, fragments, tmp_path):
    text = told(tmp_path, options)[key]
    assert text.startswith("corrected: ")
    assert all(fragment in text for fragment in fragments), text


@pytest.mark.parametrize(
    "options",
    [{}, MAML, {"outer_method": "Darts"}, {"inner_method": "Aggr"}, {"inner_opt": "Adam"}],
    ids=str,
)
def test_what_boml_ran_is_used(options, tmp_path):
    outcomes = told(tmp_path, options)
    assert all(outcomes[key].startswith("used: ") for key in ("inner_method", "outer_method"))


@pytest.mark.parametrize(
    ("options", "typed", "gone", "kept"),
    [
        (
            {},
            "method=hoag",
            [key for key in METHOD if key not in ("inner_opt", "xavier")],
            {"inner_opt": "used: lower_optimizer=sgd"},
        ),
        (
            {**WARP, "learn_lr": True},
            "method=rhg",
            ["method", "inner_method", "outer_method", "truncate_iter", "first_order", "xavier"],
            {
                "use_warp": "used: model.extra=warp_layers; method=rhg on the command line",
                "learn_lr": "corrected: lower_optimizer.learn=scalar; tests take the learned",
            },
        ),
        ({"method": "MetaInit", "reptile": True}, "method=maml", ["reptile", "inner_method"], {}),
        (
            {"method": "MetaInit", "outer_method": "Implicit"},
            "method=rhg",
            ["method", "inner_method", "outer_method"],
            {},
        ),
        (
            WARP,
            "hypergradient=unrolled",
            ["outer_method", "truncate_iter", "first_order"],
            {
                "inner_method": "used: part of method=warp_grad",
                "use_warp": "used: model.extra=warp_layers; hypergradient=unrolled on the",
                "use_t": "used: off",
            },
        ),
        (
            {"inner_method": "Simple", "inner_opt": "Adam"},
            "hypergradient=truncated",
            ["inner_method", "outer_method"],
            {"inner_opt": "used: lower_optimizer=adam; hypergradient=truncated on the"},
        ),
        (
            {"inner_method": "Aggr", "outer_method": "Simple"},
            "aggregation=lower_only",
            ["inner_method", "alpha"],
            {"outer_method": "used: hypergradient=unrolled; aggregation=lower_only on the"},
        ),
        ({}, "aggregation=descent", ["inner_method", "alpha", "learn_alpha"], {}),
        (
            {"inner_opt": "Adam"},
            "lower_optimizer=momentum",
            ["inner_opt", "learn_lr"],
            {"outer_method": "used: hypergradient=unrolled", "method": "used: method=rhg"},
        ),
        ({}, "model.extra=t_layers", ["use_t", "use_warp"], {"first_order": "used: off"}),
    ],
    ids=str,
)
def test_what_the_command_line_replaces_is_not_described(options, typed, gone, kept, tmp_path):
    outcomes = told(tmp_path, options, [typed])
    by = f"replaced: {typed} on the command line"
    assert {key: outcomes[key] for key in gone} == dict.fromkeys(gone, by)
    assert all(outcomes[key].startswith(start) for key, start in kept.items()), outcomes


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], "used: problem.queries=15 problem.overlap=true; as in BOML: support and query"),
        (["problem.queries=3"], "used: problem.overlap=true; as in BOML: support and query"),
        (["problem.overlap=false"], "used: problem.queries=15; problem.overlap=false on the"),
    ],
)
def test_overlap_is_called_what_it_is_while_it_lasts(typed, expected, tmp_path):
    text = told(tmp_path, {}, typed, parity=True)["examples_test"]
    assert text.startswith(expected)
    assert ("inflates scores" in text) == ("problem.overlap=false" not in typed)


def test_a_method_of_the_command_line_brings_its_own_roles(tmp_path):
    rows = rows_of(tmp_path, {"method": "MetaInit", "outer_method": "Implicit"})
    by = replaced(rows, ["method=rhg"])
    kept = [text for text in overrides_of_rows(rows) if text not in by]
    method = config_of(*kept, "method=rhg")["method"]
    assert (method["lower_variable"], method["learn_start"]) == ("head", False)
