"""A stored run used: suspected labels, and the fitted model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.prediction.fitted import fitted_model
from src.prediction.suspects import suspected_labels
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.build import build
from tests.conftest import QUIET, SHORT, config_of

CLEANING = [
    "problem=hyper_cleaning",
    "data.split_sizes=[40,20,20]",
    "num_lower_steps=3",
    *QUIET,
    *SHORT,
]


@pytest.fixture(scope="module")
def cleaning(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleaning")
    return folder, run(config_of(*CLEANING, "method=rhg"), folder)


# ---- suspected labels ----


def test_suspects_are_the_samples_of_small_weights(cleaning, command):
    folder, result = cleaning
    printed, rows = command(f"run={folder}")
    assert printed[-1] == str(folder / "predictions" / "suspects-last.csv")
    with stored_run(folder) as stored:
        found = suspected_labels(stored)
        experiment = stored.experiment
        key = jax.random.key(0)
        data = experiment.source.seeded(experiment.source.data, key)
        task = jax.tree.map(lambda a: a[0], experiment.source.sample(data, key, "train", 1))
    assert [int(row["index"]) for row in rows] == list(range(40))
    np.testing.assert_array_equal(found.labels, task["train"]["labels"])
    np.testing.assert_array_equal(found.wrong, task["wrong"])
    np.testing.assert_array_equal(found.suspected, found.weights < 0.5)
    for name, values in (("suspected", found.suspected), ("wrong", found.wrong)):
        assert [row[name] for row in rows] == [str(int(value)) for value in values]
    np.testing.assert_allclose([float(row["weight"]) for row in rows], found.weights, rtol=1e-6)
    hits = (found.suspected & found.wrong).sum()
    assert hits / found.wrong.sum() == pytest.approx(result["test/detection_recall"])
    assert f"{int(found.wrong.sum())} labels are wrong" in "\n".join(printed)


@pytest.mark.slow
def test_of_several_seeds_one_is_chosen(tmp_path, command):
    run(config_of(*CLEANING, "method=rhg", "seeds=2"), tmp_path)
    _, first = command(f"run={tmp_path}")
    _, other = command(f"run={tmp_path}", "seed=1")
    assert (tmp_path / "predictions" / "suspects-last-seed1.csv").exists()
    assert [row["label"] for row in first] != [row["label"] for row in other]
    with pytest.raises(SystemExit, match="error: seed=2: the run has seeds 0 to 1"):
        command(f"run={tmp_path}", "seed=2")


@pytest.mark.slow
def test_without_pollution_nobody_knows_what_is_wrong(tmp_path, command):
    run(config_of(*CLEANING, "method=rhg", "problem.noise=0.0"), tmp_path)
    _, rows = command(f"run={tmp_path}")
    assert "wrong" not in rows[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["support=x"], "support=x: problem=hyper_cleaning takes no images; leave support out"),
        (["num_lower_steps=3"], "num_lower_steps: the weights of the samples are the upper"),
    ],
)
def test_what_cleaning_does_not_take(options, message, cleaning, command):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        command(f"run={cleaning[0]}", *options)


@pytest.mark.slow
def test_a_baseline_has_no_weights(tmp_path, command):
    run(config_of(*CLEANING, "method=rhg", "problem.baseline=everything"), tmp_path)
    with pytest.raises(SystemExit, match=r"error: .*learned no weights"):
        command(f"run={tmp_path}")


# ---- fitted models ----


@pytest.mark.parametrize(
    ("options", "shape", "standardised"),
    [
        (["problem=ridge"], (20,), False),
        (["problem=regularisation"], (30,), True),
        pytest.param(
            ["problem=regularisation", "data.name=wine", "problem.penalty=per_feature"],
            (13, 3),
            True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["problem=regularisation", "data.name=wine", "problem.penalty=per_class"],
            (13, 3),
            True,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_fitted_model_has_the_scores_of_the_run(
    options, shape, standardised, tmp_path, command
):
    config = config_of(*options, "method=rhg", *QUIET, *SHORT, "num_lower_steps=4")
    result = run(config, tmp_path)
    printed, rows = command(f"run={tmp_path}")
    arrays = np.load(tmp_path / "predictions" / "model-last.npz")
    weights = arrays["weights"]
    assert weights.shape == arrays["penalties"].shape == shape
    assert not arrays["bias"].any()
    assert arrays["mean"].shape == arrays["deviation"].shape == shape[:1]
    assert arrays["mean"].any() == standardised
    assert len(rows) == weights.size
    np.testing.assert_allclose([float(r["weight"]) for r in rows], weights.ravel(), rtol=1e-6)
    assert ("standardised features" in "\n".join(printed)) == standardised
    with jax.enable_x64(False):
        experiment = build(config)
        key = jax.random.key(0)
        task = jax.tree.map(
            lambda a: a[0], experiment.source.sample(experiment.source.data, key, "test", 1)
        )
        x = jnp.asarray(arrays["log_penalties"])
        context = experiment.problem.prepare(x, task)
        scores = experiment.problem.evaluate(x, context, task, jnp.asarray(weights))
    for name, value in scores.items():
        # Distances from the exact solution lose digits in float32.
        assert result[f"test/{name}"] == pytest.approx(float(value), rel=1e-3, abs=1e-5), name
    by_penalty = {"per_feature": x[:, None] if weights.ndim == 2 else x}.get(
        config["problem"].get("penalty"), x
    )
    np.testing.assert_allclose(
        arrays["penalties"], np.broadcast_to(np.exp(by_penalty), shape), rtol=1e-6
    )
    with stored_run(tmp_path) as stored:
        assert not np.array_equal(fitted_model(stored, num_lower_steps=9).weights, weights)


def test_the_classes_of_a_fitted_model_have_their_names(tmp_path, command):
    (tmp_path / "a.csv").write_text("a,y\n" + "".join(f"{i},{'xz'[i % 2]}\n" for i in range(20)))
    chosen = "problem=regularisation", "data=table", f"data.path={tmp_path / 'a.csv'}"
    run(config_of(*chosen, "data.target=y", "method=rhg", *QUIET, *SHORT), tmp_path / "run")
    printed, _ = command(f"run={tmp_path / 'run'}")
    assert "a row is of the class z where its score is at least 0, else of the class x" in printed
    arrays = np.load(tmp_path / "run" / "predictions" / "model-last.npz")
    assert arrays["classes"].tolist() == ["x", "z"]
