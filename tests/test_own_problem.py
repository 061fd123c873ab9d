"""A user's own problem: mistakes are named with the mend, and no score is called what it is not."""

import json
import re
import sys
import types

import jax.numpy as jnp
import pytest
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import bilevel
from bilevel.from_objectives import persistent_source, problem_from_objectives
from src import evaluate
from src.running.run import run
from src.settings.build import build
from src.settings.cli import compose_config, message_of
from src.settings.config import resolve
from src.settings.errors import UserError
from src.train import summary
from tests.conftest import QUIET, ROOT, config_of, read_metrics


def mine(lower=None, upper=None, start=None, second=True):
    """A factory with one thing wrong."""

    def factory(*, size: int):
        problem = problem_from_objectives(
            lower or (lambda x, y, task: jnp.sum((y - x) ** 2)),
            upper or (lambda x, y, task: jnp.sum((y - task["target"]) ** 2)),
            init_upper=start or (lambda key: 0.0),
            init_lower=lambda key: 0.5,
        )
        return (problem, persistent_source({"target": 1, "size": size})) if second else problem

    factory.__module__ = "src.problems.mine"
    return factory


def config_with(factory, monkeypatch):
    module = types.ModuleType("src.problems.mine")
    module.mine = factory  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "src.problems.mine", module)
    config = config_of("problem=counterexample", *QUIET, "num_iterations=3")
    labels = {k: config["problem"][k] for k in ("name", "monitor", "recommended")}
    return {**config, "problem": {"_target_": "src.problems.mine.mine", "size": 3, **labels}}


def test_plain_numbers_are_fine(monkeypatch, tmp_path):
    result = run(config_with(mine(), monkeypatch), tmp_path)
    assert result["iterations"] == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"upper": lambda x, y, task: y * jnp.ones(3)}, r"F has shape \(3,\)"),
        ({"lower": lambda x, y, task: y * jnp.ones(3)}, r"f has shape \(3,\)"),
        ({"start": lambda key: 0}, "x holds int.*make it floats"),
        ({"second": False}, "must return two things"),
    ],
)
def test_mistakes_are_named(wrong, message, monkeypatch):
    with pytest.raises(UserError, match=message):
        build(config_with(mine(**wrong), monkeypatch))


def test_a_warm_start_leaves_a_learned_one_without_a_gradient(monkeypatch):
    plain = mine()

    def learning(*, size: int):
        problem, source = plain(size=size)
        started = problem._replace(init_lower=lambda key, x: 2.0 * x, learned_start=True)
        return started, source

    learning.__module__ = "src.problems.mine"
    config = config_with(learning, monkeypatch)
    build(config)
    with pytest.raises(UserError, match=r"lower_start=warm: .* learns the start"):
        build({**config, "lower_start": "warm"})


def test_an_option_needs_a_type(monkeypatch):
    def mine(*, size):
        return size

    with pytest.raises(UserError, match="must say its type"):
        build(config_with(mine, monkeypatch))


# What does not move is said, once, and the run goes on.

ROUNDED = {
    # x reaches f, but no gradient passes.
    "all": (0.4, lambda x: jnp.round(x), r"the hypergradient is exactly zero in the first iter"),
    "a part": (
        {"a": 0.1, "b": 0.4},
        lambda x: x["a"] + jnp.round(x["b"]),
        r"x\['b'\] has not moved in the first 2 iterations: the hypergradient there is exactly",
    ),
    "nothing": ({"a": 0.1, "b": 0.4}, lambda x: x["a"] + x["b"], None),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_x_that_stands_still_is_warned_of(case, monkeypatch, tmp_path, capsys):
    start, read, message = ROUNDED[case]
    wrong = mine(lower=lambda x, y, task: jnp.sum((y - read(x)) ** 2), start=lambda key: start)
    config = {**config_with(wrong, monkeypatch), "log_every": 2}
    run(config, tmp_path)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    if message is None:
        assert warnings == []
        return
    (warning,) = warnings
    assert re.match(rf"warning: {message}.*: check that x reaches f or F in floats", warning)
    assert "hypergradient=unrolled differentiates" in warning
    # And once in the life of a run.
    run({**config, "num_iterations": 5}, tmp_path)
    assert "warning" not in capsys.readouterr().err


# Without test data nothing is called a test.


def untested(*, size: int):
    """min over x of (y - 1)^2 on validation rows, y* = the mean of x times the training rows."""

    def f(x, y, rows):
        return jnp.mean((y - x * rows) ** 2)

    def F(x, y, rows):
        return jnp.mean((y - rows) ** 2), {"distance": jnp.abs(y).mean()}

    rows = jnp.linspace(0.5, 1.5, size)
    return bilevel.problem(
        f, F, upper_start=0.5, lower_start=0.0, train=rows, validation=rows + 0.1
    )


def test_without_test_data_nothing_is_called_a_test(monkeypatch, tmp_path, capsys):
    untested.__module__ = "src.problems.mine"
    config = config_with(untested, monkeypatch)
    result = run({**config, "eval_every": 1}, tmp_path)
    assert not [name for name in (*result, *result["adaptation"]) if "test" in name]
    assert result["best/validation/distance"] > 0
    printed = summary(result)
    assert "validation/upper_loss" in printed
    assert "test" not in printed
    assert (tmp_path / "adaptation_curve.png").exists()

    monkeypatch.setattr("sys.argv", ["evaluate", f"run={tmp_path}", "checkpoint=best"])
    evaluate.main()
    told, note, *lines = capsys.readouterr().out.splitlines()
    assert told.endswith("(best), 1 validation tasks")
    assert note == "the run has no test data: these are validation scores"
    scored = json.loads((tmp_path / "evaluations" / "best-K40-tasks1.json").read_text())
    assert lines[-1] == str(tmp_path / "evaluations" / "best-K40-tasks1.json")
    assert scored["num_validation_tasks"] == 1
    assert scored["curve"] == result["adaptation"]
    assert scored["curve"]["validation/distance"][-1] == pytest.approx(
        result["validation/distance"], rel=1e-6
    )
    assert not [name for name in (*scored, *scored["curve"]) if "test" in name]


def test_a_missing_monitor_is_named(monkeypatch):
    config = config_with(mine(), monkeypatch)
    del config["problem"]["monitor"]
    with pytest.raises(UserError, match=r"problem.monitor is missing"):
        build(config)


@pytest.mark.parametrize(
    ("missing", "reader"),
    [
        ("recommended", "num_iterations"),
        ("recommended.law", "aggregation.law"),
        ("recommended.lower_step_size", "lower_optimizer.step_size"),
    ],
)
def test_what_a_problems_file_lacks_is_named_with_the_file(missing, reader):
    config, _ = compose_config(["problem=ridge", "method=bda"])
    with open_dict(config):
        parent, _, name = f"problem.{missing}".rpartition(".")
        del OmegaConf.select(config, parent)[name]
        config.problem.name = "mine"
    with pytest.raises(UserError) as error:
        resolve(config)
    key = "recommended.num_iterations" if missing == "recommended" else missing
    assert str(error.value) == (
        f"problem.{key} is missing, from which {reader} takes its value: add it to "
        "conf/problem/mine.yaml (conf/problem/ridge.yaml shows all that a problem needs), "
        f"or give {reader}=..."
    )


def test_a_problem_without_a_name_is_told_where_it_belongs(tmp_path):
    (tmp_path / "conf/problem").mkdir(parents=True)
    text = (ROOT / "conf/problem/ridge.yaml").read_text(encoding="utf-8")
    file = tmp_path / "conf/problem/mine.yaml"
    file.write_text(text.replace("  name: ridge\n", ""), encoding="utf-8")
    with pytest.raises(OmegaConfBaseException) as error:
        compose_config([f"hydra.searchpath=[file://{tmp_path}/conf]", "problem=mine"])
    assert message_of(error.value) == (
        "problem.name is missing, from which hydra.run.dir takes its value: add it to the "
        "problem's file in conf/problem (conf/problem/ridge.yaml shows all that a problem needs)"
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_ridge_stays_stable_over_its_recommended_run(seed, tmp_path):
    run(config_of("problem=ridge", *QUIET, f"seed={seed}", "num_lower_steps=200"), tmp_path)
    losses = [row["train/upper_loss"] for row in read_metrics(tmp_path)]
    assert max(losses[1:]) <= losses[0]


def test_checkpoints_without_an_owner_are_left_alone(tmp_path):
    base = ["problem=counterexample", *QUIET]
    run(config_of(*base, "num_iterations=4"), tmp_path)
    (tmp_path / "identity.json").unlink()
    with pytest.raises(UserError, match=r"no identity.json"):
        run(config_of(*base, "num_iterations=6"), tmp_path)
