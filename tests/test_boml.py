"""BOML's files run from where they are, and every key of them is accounted for."""

import json
import math
import shlex

import jax
import pytest

from src.boml.__main__ import translated
from src.boml.command import overrides_of_rows, replaced, table
from src.boml.file import read, translate
from src.boml.options import Options
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import ROOT, config_of, linear_few_shot, message_of, python, small_few_shot

FILES = sorted((ROOT / "tests/boml_configs").glob("*.json"))
BY_NAME = {path.stem: path for path in FILES}


def overrides_for(path, parity=False, typed=()):
    """What `python -m src.boml` would hand to src.train."""
    rows = translate(str(path), read(str(path)), parity)
    by = replaced(rows, typed)
    return [text for text in overrides_of_rows(rows) if text not in by] + list(typed)


def written(folder, options):
    """A BOML file with these keys."""
    path = folder / "options.json"
    path.write_text(options if isinstance(options, str) else json.dumps(options), encoding="utf-8")
    return path


def outcome_of(path, key, parity=False):
    return next(r.outcome for r in translate(str(path), read(str(path)), parity) if r.key == key)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_a_file_has_one_line_and_the_command_composes(path, capsys):
    overrides = translated(str(path), [], parity=False)
    printed = capsys.readouterr().out
    lines = printed.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(json.loads(path.read_text(encoding="utf-8")))
    pasted = shlex.split(printed.splitlines()[-1])
    assert pasted == ["python", "-m", "src.train", *overrides]
    config = config_of(*overrides, "data=glyphs")
    content = read(str(path))
    assert config["num_lower_steps"] == content["T"]
    assert config["problem"]["ways"] == content["classes"]
    assert config["num_iterations"] == content["meta_train_iterations"]
    assert config["lower_optimizer"]["step_size"] == content["lr"]
    assert config["upper_optimizer"]["decay"] == 1e-5
    assert config["lower_optimizer"]["learn"] == "none"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_runs(path, omniglot_folder, tmp_path):
    small = [*linear_few_shot(omniglot_folder), "num_iterations=2", "log_every=1"]
    result = run(config_of(*overrides_for(path, typed=small)), tmp_path / "run")
    assert math.isfinite(result["test/upper_loss"])


def test_bomls_own_network_runs(omniglot_folder, tmp_path):
    small = [*small_few_shot(omniglot_folder), "num_iterations=2", "log_every=1"]
    overrides = overrides_for(BY_NAME["maml_simple_version"], parity=True, typed=small)
    assert {"model.offset=zero", "model.features=mean", "problem.overlap=true"} <= set(overrides)
    assert (
        "inflates scores" in outcome_of(BY_NAME["maml_simple_version"], "examples_test", True).note
    )
    result = run(config_of(*overrides), tmp_path / "run")
    assert math.isfinite(result["test/upper_loss"])


def test_the_file_with_every_key_runs_as_a_program(tmp_path):
    typed = [
        "data=glyphs",
        f"data.root={tmp_path}",
        "data.num_drawings=4",
        "problem.queries=3",
        "model=linear",
        "num_iterations=2",
        "num_validation_tasks=4",
        "num_test_tasks=4",
        "logger=[jsonl]",
        "compilation_cache=false",
        f"hydra.run.dir={tmp_path}/run",
    ]
    done = python("-m", "src.boml", str(BY_NAME["test"]), *typed)
    assert done.returncode == 0, done.stderr
    assert "python -m src.train " in done.stdout
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/run/result.json"
    config = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert config["num_iterations"] == 2
    assert config["num_lower_steps"] == 9
    assert config["problem"]["ways"] == 9


def test_a_dry_run_only_prints_and_waits_for_no_jax(tmp_path):
    program = (
        "import sys; from src.boml.__main__ import main; main(); assert 'jax' not in sys.modules"
    )
    done = python("-c", program, str(BY_NAME["test"]), "seed=3", "--dry", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" seed=3")
    assert list(tmp_path.iterdir()) == []
    told = " ".join(python("-m", "src.boml", "--help").stdout.split("--parity")[-1].split())
    assert "support and query that overlap, in tests too, which inflates scores" in told


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["method=rhg", "meta_batch_size=2", "num_lower_steps=3"]),
        ({"dataset": "miniimagenet"}, ["data=mini_imagenet", "model=conv4_mini"]),
        ({"clip_value": 10}, ["upper_optimizer.clip_value=10.0"]),
        ({"outer_opt": "Momentum"}, ["upper_optimizer=momentum"]),
        ({"inner_opt": "Adam"}, ["lower_optimizer=adam"]),
        ({"xavier": True}, ["problem.head_init=xavier", "lower_start=redrawn"]),
        ({"use_t": True, "method": "MetaInit"}, ["method=maml", "model.extra=t_layers"]),
        ({"use_warp": True}, ["method=rhg", "model.extra=warp_layers", "hypergradient=unrolled"]),
        (
            {"use_warp": True, "method": "MetaInit", "first_order": True},
            ["method=warp_grad", "model.extra=warp_layers", "hypergradient=warp_grad"],
        ),
        ({"reptile": True, "method": "MetaInit", "learn_lr": True}, ["method=reptile"]),
        ({"reptile": True}, ["method=rhg"]),
        (
            {"inner_method": "Aggr", "alpha": 0.3, "bda_s": 2},
            [
                "method=bda",
                "aggregation.law=harmonic",
                "aggregation.alpha=0.3",
                "aggregation.s=2.0",
            ],
        ),
        (
            {"inner_method": "Aggr", "method": "MetaInit", "learn_alpha_itr": "true"},
            ["method=maml_bda", "aggregation.law=per_step", "aggregation.learn=[alpha]"],
        ),
        ({"truncate_iter": 2, "T": 4}, ["method=trhg", "hypergradient.keep_last=2"]),
        ({"truncate_iter": 4, "T": 4}, ["method=rhg", "hypergradient=unrolled"]),
        ({"print_interval": 1}, ["log_every=1", "eval_every=10"]),
        ({"resume": False}, ["resume=never"]),
        ({"method": "MetaInit", "outer_method": "Implicit"}, ["method=hoag"]),
        ({"learn_lr": "TRUE", "gpu_to_use": 0}, ["lower_optimizer.learn=scalar"]),
    ],
    ids=json.dumps,
)
def test_keys_become_ours(options, expected, tmp_path):
    if options.get("first_order") or options.get("use_warp"):
        options = {"inner_method": "Simple", "outer_method": "Simple", **options}
    overrides = overrides_for(written(tmp_path, options))
    assert set(expected) <= set(overrides)
    config_of(*overrides)  # composes


@pytest.mark.parametrize(
    ("options", "parity", "default"),
    [
        ({}, ["problem.overlap=true", "data.rotations=true"], []),
        ({"learn_lr": True}, ["test_step_size=initial"], ["lower_optimizer.learn=scalar"]),
        ({"outer_method": "Implicit"}, ["model.features=mean"], []),
        (
            {"method": "MetaInit"},
            ["model.offset=zero", "model.features=mean", "problem.head_init=normal"],
            ["method=maml"],
        ),
        (
            {"method": "MetaInit", "dataset": "miniimagenet"},
            ["model.offset=zero", "problem.head_init=xavier"],
            ["model=conv4_mini"],
        ),
    ],
    ids=json.dumps,
)
def test_parity_is_asked_for(options, parity, default, tmp_path):
    path = written(tmp_path, options)
    ours, theirs = overrides_for(path), overrides_for(path, parity=True)
    assert {*parity, *default} <= set(theirs)
    assert set(default) <= set(ours)
    assert not set(parity) & set(ours)


def test_parity_tests_with_the_first_step_size(omniglot_folder, tmp_path):
    path = written(tmp_path, {"learn_lr": True, "method": "MetaInit"})
    with jax.enable_x64(False):
        config = config_of(*overrides_for(path, True, linear_few_shot(omniglot_folder)))
        assert build(config).settings.test_step_size == "initial"


@pytest.mark.parametrize(
    ("key", "kind", "fragment"),
    [
        *((key, "dead in BOML", "") for key in ("alpha_decay", "regularization", "reptile")),
        *((key, "dead in BOML", "") for key in ("batch_norm", "log", "bda_s", "bda_t")),
        ("alpha", "no effect", "Aggr"),
        ("examples_test", "corrected", "overlapped"),
        ("logdir", "corrected", "in a folder named ..."),
        ("iterations_to_test", "corrected", "python -m src.evaluate run=DIR num_lower_steps=9"),
        ("resume", "corrected", "another configuration's checkpoint"),
        ("save_interval", "corrected", "checkpoint"),
        ("print_interval", "corrected", "test tasks"),
    ],
)
def test_what_boml_ignored_or_did_wrong_is_said(key, kind, fragment):
    outcome = outcome_of(BY_NAME["test"], key)
    assert outcome.kind == kind
    assert fragment in " ".join((*outcome.overrides, outcome.note))


def test_text_is_read_as_the_boolean_that_it_says():
    outcome = outcome_of(BY_NAME["maml_simple_version"], "learn_lr")
    assert outcome.kind == "corrected"
    assert 'the text "false" is read as false' in outcome.note


def test_reptile_is_said_to_be_dead(tmp_path):
    assert outcome_of(written(tmp_path, {"reptile": True}), "reptile").kind == "dead in BOML"
    options = {"reptile": True, "method": "MetaInit", "truncate_iter": 1}
    path = written(tmp_path, options)
    assert "dead in BOML" in outcome_of(path, "reptile").note
    assert outcome_of(path, "truncate_iter").kind == "no effect"


@pytest.mark.parametrize(
    ("typed", "kept", "gone"),
    [
        (["num_iterations=3"], ["num_iterations=3"], "num_iterations=2000"),
        (["data=glyphs"], ["data=glyphs"], "data=omniglot"),
        (["method=hoag"], ["method=hoag"], "hypergradient=unrolled"),
        (["problem=ridge"], ["problem=ridge"], "problem.ways=9"),
        (["debug=short"], ["debug=short", "num_lower_steps=9"], "num_iterations=2000"),
        (["upper_optimizer=sgd"], ["upper_optimizer.step_size=0.001"], "upper_optimizer=adam"),
    ],
)
def test_the_command_line_wins(typed, kept, gone):
    overrides = overrides_for(BY_NAME["test"], typed=typed)
    assert set(kept) <= set(overrides)
    assert gone not in overrides
    config_of(*overrides)
    rows = translate("", read(str(BY_NAME["test"])), False)
    assert f"{typed[0]} on the command line" in "\n".join(table(rows, replaced(rows, typed)))


def test_the_options_of_a_network_go_with_it(tmp_path):
    path = written(tmp_path, {"method": "MetaInit", "use_t": True})
    overrides = overrides_for(path, parity=True, typed=["model=linear"])
    assert not [text for text in overrides if text.startswith("model.")]


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"lern_lr": True}, ["lern_lr is not a key: did you mean learn_lr?"]),
        ({"gamma": 1.0}, ["gamma is not a key"]),
        ({"use_t": True, "use_warp": True}, ["use_t and use_warp", "silently took T-layers"]),
        ({"T": "five"}, ["T='five'", "valid integer", '"T": 3']),
        ({"T": True}, ["T=true", "integer"]),
        ({"lr": None}, ["lr=null", "number", '"lr": 0.1']),
        ({"learn_lr": "maybe"}, ["learn_lr='maybe'", "boolean", '"learn_lr": false']),
        ({"dataset": "cifar"}, ["dataset='cifar'", "'omniglot' or 'miniimagenet'"]),
        ({"method": "MetaMeta"}, ["method=MetaMeta is none of BOML's", "MetaInit"]),
        ({"outer_method": "Darts", "truncate_iter": 2}, ["truncate_iter=2 belongs to"]),
        ({"mode": "test", "T": 7}, ["python -m src.evaluate run=DIR num_lower_steps=7"]),
        ("{\n'T': 5}", ["line 2, column 1", "not JSON", "double quotes"]),
        ('{"T": 5, "T": 6}', ["T stands there twice"]),
        ("[5]", ["no object", '{"method"']),
        ('{"lr": NaN}', ["lr=NaN", "no JSON", "finite"]),
        ('{"T": 5, "Notes": [1, [-Infinity]]}', ["Notes=[1, [-Infinity]]", "finite"]),
        ('{"lr": 1e999}', ["lr=Infinity", "overflow"]),
        ('{"T": ' + "1" * 5000 + "}", ["not JSON", "digits; write a smaller one"]),
        ("[" * 5000, ["not JSON: nested too deeply", "double quotes"]),
        ('{"Notes": ' + "[" * 900 + "]" * 900 + "}", ["not JSON: nested too deeply"]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_file_is_refused_by_name(options, fragments, tmp_path):
    path = written(tmp_path, options)
    message = message_of(lambda: translated(str(path), [], parity=False))
    assert message.startswith(str(path))
    assert all(fragment in message for fragment in fragments), message


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        assert "cannot be read" in message_of(lambda path=path: read(str(path)))
    (tmp_path / "latin.json").write_bytes(b'{"Notes": "\xe9"}')
    assert "UTF-8" in message_of(lambda: read(str(tmp_path / "latin.json")))


def test_an_experiment_and_a_file_are_refused():
    with pytest.raises(UserError, match="experiment=rhg_simple and the file"):
        overrides_for(BY_NAME["test"], typed=["experiment=rhg_simple"])


def test_every_key_has_an_outcome():
    from src.boml.outcomes import outcomes

    assert set(outcomes(Options(), parity=False)) == set(Options._fields)
