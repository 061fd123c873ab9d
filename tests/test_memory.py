"""The memory of an iteration, and the plan that fits a budget."""

import re

import jax
import numpy as np
import pytest

from src.running.memory import bytes_of, needed_memory, within_budget
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, SHORT, config_of, python


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("500MiB", 500 * 2**20), ("0.5 GiB", 2**29)]
)
def test_amounts(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["4GB", "-1GiB", "0GiB", "much"])
def test_what_is_no_amount(text, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"memory_budget={text} is no amount")):
        run(config_of("problem=ridge", *QUIET, f"memory_budget={text}"), tmp_path / "run")


def test_the_plan_that_fits_gives_the_same_numbers(tmp_path, capsys):
    overrides = ["problem=hyper_cleaning", "data=digits", "model=mlp300", "method=rhg"]
    overrides += ["num_lower_steps=30", *QUIET, *SHORT, "dtype=float64"]
    needed = {}
    for checkpoints in ("none", "steps", "sqrt"):
        config = config_of(*overrides, f"hypergradient.checkpoints={checkpoints}")
        with jax.enable_x64(True):
            needed[checkpoints] = needed_memory(build(config))
    assert needed["sqrt"] < needed["steps"] < 0.5 * needed["none"]
    budget = f"{needed['none'] / 2**20 - 1:.2f}MiB"
    config = config_of(*overrides, f"memory_budget={budget}")
    plan, size = within_budget(config, budget)
    assert dict(plan.changed) == {"hypergradient.checkpoints": "steps"}
    assert size == needed["steps"]
    planned = run(config, tmp_path / "planned")
    assert "hypergradient.checkpoints=steps; an iteration takes" in capsys.readouterr().err
    plain = run(config_of(*overrides), tmp_path / "plain")
    for name in ("validation/upper_loss", "best/test/accuracy"):
        np.testing.assert_allclose(planned[name], plain[name], rtol=1e-9)
    with pytest.raises(UserError, match="at least") as refused:
        within_budget(config, "1MiB")
    assert re.search(r"at least \d+MiB; choose that", str(refused.value))
    assert "implicit_cg" in str(refused.value)


def test_the_devices_are_those_that_were_asked_for(tmp_path):
    """Of a process in which nothing has asked jax for its devices before."""
    options = ["problem=ridge", "seeds=2", "devices=2", "memory_budget=4GiB", *QUIET, *SHORT]
    ended = python("-m", "src.train", *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert "memory_budget=4GiB: the configuration as it is; an iteration takes" in ended.stderr


def test_describe_says_how_much():
    ended = python("-m", "src.describe", "problem=ridge", "--memory")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"an iteration takes \d+MiB of memory on a device", ended.stdout)
