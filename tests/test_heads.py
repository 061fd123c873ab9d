"""What other heads make of the features of a run: by hand, the table, and what is refused."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from src.figures import heads
from src.figures.heads import HEADS, means, nearest, nearest_of_others
from src.running.run import run
from tests.conftest import config_of, linear_few_shot


def test_means_and_nearest():
    features = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    shares = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    centres = means(features, shares)
    np.testing.assert_allclose(centres[:2], [[1.0, 0.0], [0.0, 3.0]])
    assert jnp.isinf(centres[2]).all()
    logits = nearest(jnp.array([[1.0, 1.0]]), centres)
    np.testing.assert_allclose(logits, [[-1.0, -5.0, -np.inf]])


def test_a_row_is_left_out_of_its_own_mean():
    features = np.random.default_rng(0).normal(size=(7, 3))
    classes = np.array([0, 0, 0, 1, 1, 1, 2])
    found = nearest_of_others(jnp.asarray(features), jnp.eye(3)[classes])
    for i in range(7):
        others = np.arange(7) != i
        for c in range(3):
            rows = features[others & (classes == c)]
            distance = ((features[i] - rows.mean(0)) ** 2).sum() if len(rows) else np.inf
            np.testing.assert_allclose(found[i, c], -distance, rtol=1e-10)


@pytest.mark.parametrize("more", [[], ["problem.ways=2", "problem.train_ways=3"]])
def test_the_table_of_a_run(more, omniglot_folder, tmp_path, capsys, monkeypatch):
    """The head as scored scores as the run did; the bound is above what uses the support set."""
    typed = [*linear_few_shot(omniglot_folder), *more, "method=bda", "num_iterations=2"]
    typed += ["num_validation_tasks=40", "dtype=float64"]
    result = run(config_of(*typed), tmp_path)
    found = heads.heads(tmp_path, 40)["validation"]
    assert found["as scored"][0] == pytest.approx(result["validation/accuracy"], abs=1e-12)
    assert found["means of others"][0] > found["nearest mean"][0]

    monkeypatch.setattr(sys, "argv", ["heads", f"run={tmp_path}", "num_tasks=3"])
    heads.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| head | validation, % | training classes, % |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(HEADS)


def test_a_network_that_adapts_has_no_features(omniglot_folder, tmp_path, monkeypatch):
    typed = [*linear_few_shot(omniglot_folder), "method=maml", "num_iterations=1"]
    run(config_of(*typed), tmp_path)
    for arguments, reason in (
        ([f"run={tmp_path}"], "method=maml adapts to each task"),
        ([f"run={tmp_path}", "num_tasks=1"], "num_tasks=1 must be at least 2"),
        ([], "run is missing"),
    ):
        monkeypatch.setattr(sys, "argv", ["heads", *arguments])
        with pytest.raises(SystemExit) as refusal:
            heads.main()
        assert reason in str(refusal.value)


def test_one_fixed_task_has_none(tmp_path, monkeypatch):
    typed = ["problem=ridge", "logger=[jsonl]", "compilation_cache=false", "num_iterations=1"]
    run(config_of(*typed), tmp_path)
    monkeypatch.setattr(sys, "argv", ["heads", f"run={tmp_path}"])
    with pytest.raises(SystemExit) as refusal:
        heads.main()
    assert "no few-shot tasks" in str(refusal.value)
