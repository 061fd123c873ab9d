"""Data hyper-cleaning: objectives by hand, batches, baselines, runs, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.mini_batches import rows
from bilevel.shapes import one_task
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages
from src.models.mlp import flat, mlp
from src.problems.hyper_cleaning import hyper_cleaning
from src.running.run import run
from src.settings.build import build
from tests.conftest import QUIET, config_of, message_of

KEY = jax.random.key(5)
OPTIONS = {
    "noise": 0.5,
    "pollution": "exact",
    "weighting": "sigmoid",
    "initial": 0.0,
    "lower_l2": 0.0,
    "head_init": "zeros",
    "batch_size": None,
    "baseline": "none",
}
ROWS = {"train": 20, "validation": 12, "test": 9}


def labelled(classes=3):
    generator = np.random.default_rng(0)
    images = {s: generator.integers(0, 256, (n, 2, 2, 1), np.uint8) for s, n in ROWS.items()}
    labels = {s: generator.integers(0, classes, n).astype(np.int32) for s, n in ROWS.items()}
    return LabelledImages(images, labels, classes)


def made(model=None, data=None, **options):
    problem, source = hyper_cleaning(data or labelled(), model or flat(), **{**OPTIONS, **options})
    return problem, one_task(source, source.seeded(source.data, KEY), KEY, "test")


def cross_entropies(y, images, labels):
    """Each row's loss, in numpy, for the linear network."""
    flat_images = np.asarray(images, np.float64).reshape(len(images), -1) / 255
    logits = flat_images @ np.asarray(y["head"]["weights"]) + np.asarray(y["head"]["bias"])
    logits -= logits.max(1, keepdims=True)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels]


WEIGHTS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "clip": lambda x: x,
    "softmax": lambda x: len(x) * np.exp(x) / np.exp(x).sum(),
}


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_objectives_and_weights_by_hand(weighting):
    problem, task = made(weighting=weighting, lower_l2=0.3)
    data = labelled()
    x = jax.random.uniform(KEY, (20,))
    y = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), problem.init_lower(KEY, x))
    context = problem.prepare(x, task)
    weights = WEIGHTS[weighting](np.asarray(x))
    each = cross_entropies(y, data.images["train"], np.asarray(task["train"]["labels"]))
    size = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(y))
    expected = (weights * each).mean() + 0.15 * size
    assert float(problem.lower_objective(context, task, y)) == pytest.approx(expected)
    clean = cross_entropies(y, data.images["validation"], data.labels["validation"])
    assert float(problem.upper_objective(context, task, y)[0]) == pytest.approx(clean.mean())

    lower_rows, upper_rows = jnp.array([3, 3, 7]), jnp.array([0, 11])
    of_batch = (
        rows(context, lower_rows),
        {
            "train": rows(task["train"], lower_rows),
            "validation": rows(task["validation"], upper_rows),
        },
    )
    part = (weights * each)[[3, 3, 7]].mean() + 0.15 * size
    assert float(problem.lower_objective(*of_batch, y)) == pytest.approx(part)
    upper = problem.upper_objective(*of_batch, y)[0]
    assert float(upper) == pytest.approx(clean[[0, 11]].mean())

    scores = problem.evaluate(x, context, task, y)
    flat_images = data.images["test"].reshape(9, -1) / 255
    logits = flat_images @ np.asarray(y["head"]["weights"]) + np.asarray(y["head"]["bias"])
    right = logits.argmax(1) == data.labels["test"]
    assert float(scores["accuracy"]) == pytest.approx(right.mean())
    assert set(problem.formulas) == {"f", "F"}


def test_validation_and_test_labels_stay_clean():
    data = labelled()
    _, task = made()
    np.testing.assert_array_equal(task["validation"]["labels"], data.labels["validation"])
    np.testing.assert_array_equal(task["held_out"]["labels"], data.labels["test"])
    polluted = np.asarray(task["train"]["labels"]) != data.labels["train"]
    np.testing.assert_array_equal(task["wrong"], polluted)
    assert polluted.sum() == 10


def test_clip_keeps_weights_in_their_bounds_and_they_can_come_back():
    problem, task = made(weighting="clip", initial=0.5)
    kept = problem.project_upper(jnp.array([-0.3, 0.4, 1.7]))
    assert kept.tolist() == [0.0, 0.4, 1.0]
    y = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), problem.init_lower(KEY, ()))
    slope = jax.grad(lambda x: problem.lower_objective(problem.prepare(x, task), task, y))(
        jnp.zeros(20)
    )
    assert (np.abs(slope) > 0).all(), "a weight of 0 still has a gradient"


@pytest.mark.parametrize("baseline", ["everything", "clean", "validation"])
def test_baselines_train_on_what_they_say(baseline):
    problem, task = made(baseline=baseline)
    data = labelled()
    x = problem.init_upper(KEY)
    assert jax.tree.leaves(x) == []
    y = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), problem.init_lower(KEY, x))
    labels = np.asarray(made()[1]["train"]["labels"])  # polluted, whatever is trained on them
    each = cross_entropies(y, data.images["train"], labels)
    assert baseline == "validation" or (labels == task["train"]["labels"]).all()
    expected = {
        "everything": each.mean(),
        "clean": each[~np.asarray(task["wrong"])].mean(),
        "validation": cross_entropies(
            y, data.images["validation"], data.labels["validation"]
        ).mean(),
    }
    found = problem.lower_objective(problem.prepare(x, task), task, y)
    assert float(found) == pytest.approx(expected[baseline])
    assert "detection_f1" not in problem.evaluate(x, {}, task, y)


def test_detection_is_reported_where_there_is_something_to_detect():
    for options, expected in (
        ({}, {"detection_f1"}),
        ({"pollution": "uniform"}, {"detection_f1", "detection_f1_ceiling", "wrong_share"}),
        ({"noise": 0.0}, set()),
    ):
        problem, task = made(**options)
        x = problem.init_upper(KEY)
        y = problem.init_lower(KEY, x)
        scores = problem.evaluate(x, problem.prepare(x, task), task, y)
        names = {"detection_f1", "detection_f1_ceiling", "wrong_share"}
        assert names & set(scores) == expected


def test_mini_batches_are_unbiased_and_differ_from_step_to_step():
    problem, task = made(batch_size=6)
    # Every row says which one it is, and so does its weight.
    numbered = {
        **task,
        "train": {"row": jnp.arange(20)},
        "validation": {"row": jnp.arange(12)},
    }
    context = {"weights": jnp.arange(20.0)}
    batches = jax.vmap(problem.mini_batch, (None, None, 0))(context, numbered, jnp.arange(1, 4001))
    drawn_of = {part: np.asarray(batches[1][part]["row"]) for part in ("train", "validation")}
    for part, size in (("train", 20), ("validation", 12)):
        drawn = drawn_of[part]
        assert drawn.shape == (4000, 6)
        shares = np.bincount(drawn.ravel(), minlength=size) / drawn.size
        assert len(shares) == size
        assert np.abs(shares * size - 1).max() < 0.12  # over three standard deviations
    np.testing.assert_array_equal(batches[0]["weights"], drawn_of["train"])
    assert (drawn_of["train"][0] != drawn_of["train"][1]).any()
    again = problem.mini_batch(context, numbered, 2)
    np.testing.assert_array_equal(again[1]["train"]["row"], drawn_of["train"][1])
    assert made()[0].mini_batch is None


SMALL = [
    "problem=hyper_cleaning",
    *QUIET,
    "data.split_sizes=[60,40,80]",
    "num_iterations=4",
    "num_lower_steps=5",
    "lower_optimizer.step_size=0.5",
    "eval_every=2",
    "log_every=2",
]


@pytest.mark.parametrize(
    "overrides",
    [
        ["problem.batch_size=8"],
        ["method=bda", "problem.batch_size=8", "lower_start=warm"],
        ["model=mlp", "model.hidden_sizes=[5]", "model.normalise=false", "lower_start=redrawn"],
        ["problem.weighting=clip", "problem.initial=0.5"],
        ["problem.weighting=softmax", "method=hoag"],
        ["problem.baseline=clean", "hypergradient=first_order"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_variants_run_and_leave_their_pictures(overrides, tmp_path):
    if "model=mlp" in overrides:
        overrides.append("problem.head_init=xavier")
    result = run(config_of(*SMALL, "method=rhg", *overrides), tmp_path)
    assert 0 <= result["test/accuracy"] <= 1
    learned = "problem.baseline=clean" not in overrides
    for name in ("weights.png", "trusted.png"):
        assert (tmp_path / name).exists() == learned
    assert ("upper_variable" in result) == learned


@pytest.mark.parametrize("overrides", [["problem.batch_size=8"], ["lower_start=redrawn"]], ids=str)
def test_both_splits_score_one_and_the_same_lower_variable(overrides, tmp_path):
    result = run(config_of(*SMALL, "problem.head_init=xavier", *overrides), tmp_path)
    assert result["test/lower_loss"] == result["validation/lower_loss"]
    assert result["test/upper_loss"] != result["validation/upper_loss"]


def test_cleaning_beats_training_on_everything(tmp_path):
    """On the bundled digits, in a tiny protocol: the numbers of README are another matter."""
    longer = [*SMALL, "num_iterations=30", "num_lower_steps=40", "method=rhg"]
    found = {
        name: run(config_of(*longer, *extra), tmp_path / name)
        for name, extra in {
            "cleaned": ["upper_optimizer.step_size=0.3"],
            "everything": ["problem.baseline=everything"],
        }.items()
    }
    assert found["cleaned"]["test/detection_auc"] > 0.7
    assert found["cleaned"]["test/accuracy"] > found["everything"]["test/accuracy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.0}, r"^noise=1.0 must be in \[0, 1\)"),
        ({"noise": -0.1}, r"^noise=-0.1 must be in \[0, 1\)"),
        ({"noise": float("nan")}, "^noise=nan"),
        ({"noise": 0.99}, "^noise=0.99 of 20 training labels is all of them"),
        ({"lower_l2": -1.0}, "^lower_l2=-1.0"),
        ({"batch_size": 0}, "^batch_size=0 must be at least 1"),
        ({"weighting": "clip", "initial": -2.0}, r"^initial=-2.0 is outside 0\.\.1"),
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_labels_outside_the_classes_are_refused():
    data = labelled()
    data.labels["validation"][3] = 3
    with pytest.raises(ValueError, match=r"validation labels are in 0\.\.3, but there are 3"):
        made(data=data)


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (["method=maml"], "learns the start"),
        (["method=fomaml"], "learns the start"),
        (["hypergradient=first_order"], "never be learned"),
        (
            ["method=hoag", "problem.batch_size=4", "hypergradient.lower_tolerance=0.1"],
            "come to rest",
        ),
        (["method=hoag", "hypergradient.damping=0"], "singular"),
        (["meta_batch_size=2"], "one fixed task"),
        (["model=conv4_mini"], "does not fit inputs of shape (8, 8, 1)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(overrides, fragment):
    with jax.enable_x64(False):
        assert fragment in message_of(lambda: build(config_of(*SMALL, *overrides)))


def test_a_network_of_any_kind_is_the_lower_variable():
    problem, task = made(mlp(hidden_sizes=(4,), normalise=True), head_init="xavier")
    y = problem.init_lower(KEY, problem.init_upper(KEY))
    assert jax.tree.map(jnp.shape, y["head"]) == {"weights": (4, 3), "bias": (3,)}
    assert set(SPLITS) == set(ROWS)
    value, slope = jax.value_and_grad(problem.lower_objective, argnums=2)(
        problem.prepare(jnp.zeros(20), task), task, y
    )
    assert np.isfinite(value)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(slope["network"]))
