"""Mistakes in a user's own problem: one message each that names the problem and the mend."""

import sys
import types

import jax.numpy as jnp
import pytest

from bilevel.from_objectives import persistent_source, problem_from_objectives
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, read_metrics


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


def test_a_missing_monitor_is_named(monkeypatch):
    config = config_with(mine(), monkeypatch)
    del config["problem"]["monitor"]
    with pytest.raises(UserError, match=r"problem.monitor is missing"):
        build(config)


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
