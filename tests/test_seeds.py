"""Several seeds in one program are the runs of those seeds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.output.plots import learning_curves
from src.running import run as run_module
from src.running.run import run
from src.running.seeds import across, chosen
from src.running.stored_run import evaluate_again, stored_run
from src.settings.build import build
from src.settings.checked import named_seeds
from src.settings.errors import UserError
from src.train import summary
from tests.conftest import QUIET, config_of, linear_few_shot, read_metrics, without_timings

CLEANING = [
    *["problem=hyper_cleaning", *QUIET, "method=rhg", "data.split_sizes=[40,30,50]"],
    *["num_iterations=6", "num_lower_steps=4", "lower_optimizer.step_size=0.5"],
    *["upper_optimizer.step_size=1.0", "log_every=2", "eval_every=2", "checkpoint_every=3"],
    *["dtype=float64", "problem.batch_size=10", "problem.head_init=xavier"],
]
SCORES = ("accuracy", "upper_loss", "lower_loss")


def cases(folder):
    return {
        "cleaning": CLEANING,
        "few_shot": [
            *linear_few_shot(folder),
            *["num_iterations=6", "log_every=2", "eval_every=2", "dtype=float64"],
        ],
    }


@pytest.mark.parametrize("case", ["cleaning", "few_shot"])
def test_each_seed_has_the_numbers_of_its_own_run(case, omniglot_folder, tmp_path):
    overrides = cases(omniglot_folder)[case]
    together = run(config_of(*overrides, "seed=3", "seeds=3"), tmp_path / "together")
    assert together["seeds"] == [3, 4, 5]
    assert together["failed_seeds"] == {}
    alone = [run(config_of(*overrides, f"seed={seed}"), tmp_path / str(seed)) for seed in (3, 4, 5)]
    for name, values in together["per_seed"].items():
        expected = [result[name] for result in alone]
        np.testing.assert_allclose(values, expected, rtol=1e-8, atol=1e-10, err_msg=name)
        assert together[name] == pytest.approx(np.mean(expected))
    assert together["best/step"] == [result["best/step"] for result in alone]
    assert len({result["test/upper_loss"] for result in alone}) == 3
    mean, half = across(np.array([r["test/upper_loss"] for r in alone]), [True] * 3)
    assert together["test/upper_loss"] == pytest.approx(mean)
    assert together["test/upper_loss_ci95"] == pytest.approx(half)
    rows = read_metrics(tmp_path / "together")
    for ours, *theirs in zip(
        rows, *(read_metrics(tmp_path / str(s)) for s in (3, 4, 5)), strict=True
    ):
        for name in ("train/upper_loss", "validation/accuracy"):
            assert ours[name] == pytest.approx(np.mean([row[name] for row in theirs]))
            assert f"{name}_ci95" in ours


def test_in_pieces_they_are_the_same_bit_by_bit(tmp_path):
    run(config_of(*CLEANING, "seeds=2"), tmp_path / "whole")
    for stop in (1, 4, 6):
        run(config_of(*CLEANING, "seeds=2", f"num_iterations={stop}"), tmp_path / "pieces")
    whole, pieces = (
        [without_timings(row) for row in read_metrics(tmp_path / name)]
        for name in ("whole", "pieces")
    )
    assert whole == pieces
    results = [
        without_timings(json.loads((tmp_path / name / "result.json").read_text()))
        for name in ("whole", "pieces")
    ]
    assert results[0] == results[1]


def with_bad_seeds(bad):
    """`build`, but the images of these seeds are no numbers."""

    def build_spoilt(config):
        experiment = build(config)
        source = experiment.source

        def seeded(data, key):
            seed = jax.random.key_data(key)[1]
            factor = jnp.where(jnp.isin(seed, jnp.array(bad)), jnp.nan, 1.0)
            found = source.seeded(data, key)
            train = {**found["train"], "images": found["train"]["images"] * factor}
            return {**found, "train": train}

        return experiment._replace(source=source._replace(seeded=seeded))

    return build_spoilt


def test_seeds_of_a_run_without_randomness_have_no_interval(tmp_path):
    few = ["problem=ridge", "method=hoag", *QUIET, "num_iterations=1", "seeds=2"]
    shown = summary(run(config_of(*few), tmp_path / "ridge"))
    assert "all 2 seeds have the same scores" in shown
    assert "+-" not in shown
    assert "means of 2 of 2 seeds" in summary(run(config_of(*CLEANING, "seeds=2"), tmp_path / "c"))


def test_a_seed_that_fails_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    expected = run(config_of(*CLEANING, "seeds=3"), tmp_path / "good")["per_seed"]
    monkeypatch.setattr(run_module, "build", with_bad_seeds([1]))
    result = run(config_of(*CLEANING, "seeds=3"), tmp_path / "run")
    assert "warning: seed 1 is left out from here: train/lower_loss became nan" in (
        capsys.readouterr().err
    )
    assert list(result["failed_seeds"]) == ["1"]
    assert "at iteration 1" in result["failed_seeds"]["1"]
    for name, values in result["per_seed"].items():
        kept = [expected[name][0], expected[name][2]]
        np.testing.assert_allclose([values[0], values[2]], kept, rtol=1e-9, err_msg=name)
        assert result[name] == pytest.approx(np.mean(kept))
    assert result["per_seed"]["test/upper_loss"][1] is None
    assert result["per_seed"]["best/test/upper_loss"][1] is None
    shown = summary(result)
    assert "means of 2 of 3 seeds" in shown
    assert "seed 1 is left out: train/lower_loss became nan" in shown
    with stored_run(tmp_path / "run") as stored:
        again = evaluate_again(stored, "best", None)
    assert list(again.step) == [result["best/step"][0], result["best/step"][2]]
    assert result["best/step"][1] is None
    assert all(row["failed_seeds"] == 1 for row in read_metrics(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_curves_are_drawn_when_the_interval_ends(tmp_path):
    """As where all seeds but one have failed."""
    rows = [
        {"step": 1, "validation/accuracy": 0.5, "validation/accuracy_ci95": 0.1},
        {"step": 2, "validation/accuracy": 0.6},
    ]
    assert learning_curves(rows, tmp_path / "curves.png", "title")


def test_when_no_seed_is_left_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "build", with_bad_seeds([0, 1]))
    with pytest.raises(
        UserError, match="train/lower_loss became nan at iteration 1; no checkpoint"
    ):
        run(config_of(*CLEANING, "seeds=2"), tmp_path)


def test_a_stored_run_of_several_seeds_is_tested_again(tmp_path):
    result = run(config_of(*CLEANING, "seeds=2"), tmp_path)
    with stored_run(tmp_path) as stored:
        last, best = (evaluate_again(stored, which, None) for which in ("last", "best"))
    assert last.step == (6, 6)
    assert last.curve == result["adaptation"]
    assert list(best.step) == result["best/step"]
    found = {name: values[-1] for name, values in best.curve.items()}
    assert found["test/accuracy"] == result["best/test/accuracy"]


def test_seeds_have_a_name():
    assert named_seeds(3, 1) == "seed 3"
    assert named_seeds(3, 4) == "seeds 3 to 6"


def test_choosing_seed_by_seed():
    ours, others = (
        {"a": jnp.full((3, 2), v), "k": jax.random.split(jax.random.key(v), 3)} for v in (1, 2)
    )
    found = chosen(np.array([True, False, True]), ours, others)
    assert found["a"].tolist() == [[1, 1], [2, 2], [1, 1]]
    assert (found["k"] == jnp.stack([ours["k"][0], others["k"][1], ours["k"][2]])).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=0"], "seeds=0 must be at least 1"),
        (["seeds=two"], "seeds='two'"),
        (["seed=4294967295", "seeds=2"], r"seed=4294967295 is outside 0\.\.4294967294"),
    ],
    ids=str,
)
def test_bad_seeds_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        build(config_of(*CLEANING, *overrides))
