"""Whose statistics batch norm takes: the batch at hand, the support set, or a training sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import lower_only
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.hypergradients import unrolled
from bilevel.lower_optimizers import sgd
from bilevel.upper_optimizers import sgd as upper_sgd
from src.certification.cases import tiny_images
from src.certification.finite_differences import directional_error
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages
from src.models import layers
from src.models.conv4 import conv4
from src.models.mlp import linear, mlp
from src.models.residual import residual
from src.models.resnet12 import resnet12
from src.problems.adapting_network import Roles
from src.problems.few_shot import few_shot, training_sample
from src.problems.hyper_cleaning import hyper_cleaning
from src.problems.sine import sine
from src.running.run import run
from src.settings.build import build
from tests.conftest import config_of, message_of, small_few_shot, without_timings

NETWORKS = {
    "conv4": lambda **o: conv4(filters=3, num_blocks=2, **o),
    "t_layers": lambda **o: conv4(filters=3, num_blocks=1, extra="t_layers", **o),
    "residual": lambda **o: residual(
        block_filters=(3,), pooled_filters=4, num_features=5, last_activation="none", **o
    ),
    "resnet12": lambda **o: resnet12(block_filters=(2, 3), **o),
    "mlp": lambda **o: mlp(hidden_sizes=(5, 4), **o),
    "centred": lambda **o: mlp(hidden_sizes=(5, 4), centre=True, **o),
}
ROLES = {
    "head": Roles("head", False),
    "learned head": Roles("head", True),
    "network": Roles("all", True),
}
KEY = jax.random.key(3)


def moved(tree):
    """Off the special points that weights start from."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(KEY, len(leaves))
    return structure.unflatten(
        [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


def problem_with(batch_norm, roles="head", network="mlp", size=8):
    model = NETWORKS[network](batch_norm=batch_norm)
    return few_shot(tiny_images(size=size), model, ROLES[roles], ways=3, shots=1, queries=4)


def a_task(source):
    return jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, KEY, "train", 1))


def fewer_queries(task, number):
    return {**task, "query": jax.tree.map(lambda leaf: leaf[:number], task["query"])}


@pytest.mark.parametrize("network", NETWORKS)
def test_measured_statistics_give_the_same_features_to_the_same_images(network):
    model = NETWORKS[network]()
    one, other = jax.random.uniform(KEY, (2, 6, 8, 8, 1))
    weights = moved(model.init(KEY, one))
    features, statistics = model.measure(weights, one)
    np.testing.assert_array_equal(features, model.apply(weights, one))
    np.testing.assert_allclose(features, model.apply(weights, one, statistics), rtol=1e-12)
    assert not np.allclose(model.apply(weights, other), model.apply(weights, other, statistics))
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(statistics)}
    assert names - {"feature_mean"} == {"batch_norm_mean", "batch_norm_variance"}
    assert ("feature_mean" in names) == (network == "centred")


def test_statistics_are_the_mean_and_the_variance_of_each_channel():
    model, images = mlp(hidden_sizes=(4,)), jax.random.uniform(KEY, (6, 3, 3, 1))
    weights = model.init(KEY, images)
    hidden = np.asarray(images.reshape(6, -1) @ weights["layer_0"]["w"])
    (statistics,) = model.measure(weights, images)[1].values()
    np.testing.assert_allclose(statistics["batch_norm_mean"], hidden.mean(0))
    np.testing.assert_allclose(statistics["batch_norm_variance"], hidden.var(0))
    other = jax.random.uniform(jax.random.key(9), (2, 3, 3, 1))
    normal = (np.asarray(other.reshape(2, -1) @ weights["layer_0"]["w"]) - hidden.mean(0)) / (
        np.sqrt(hidden.var(0) + 1e-3)
    )
    given = model.measure(weights, images)[1]
    np.testing.assert_allclose(model.apply(weights, other, given), np.maximum(normal, 0))


@pytest.mark.parametrize(
    "options",
    [{"filters": 2, "num_blocks": 1}, {"filters": 2, "num_blocks": 1, "features": "mean"}],
)
def test_centred_features_are_the_same_less_their_mean(options):
    images, other = jax.random.uniform(KEY, (2, 5, 6, 6, 1))
    plain, model = conv4(**options), conv4(**options, centre=True)
    weights = model.init(KEY, images)
    features = np.asarray(plain.apply(weights, images))
    np.testing.assert_allclose(
        model.apply(weights, images), features - features.mean(0), atol=1e-14
    )
    assert features.mean() > 0.1  # after a ReLU
    # Of others: less the mean of those that were measured, with their batch norm.
    measured = model.measure(weights, images)[1]
    without = {name: of for name, of in measured.items() if "feature_mean" not in of}
    np.testing.assert_allclose(
        model.apply(weights, other, measured),
        np.asarray(plain.apply(weights, other, without)) - features.mean(0),
        atol=1e-14,
    )


def test_features_of_a_fixed_norm_have_it_in_each_image_after_they_are_centred():
    options: dict = {"filters": 2, "num_blocks": 1, "centre": True}
    images = jax.random.uniform(KEY, (5, 6, 6, 1))
    free, fixed = conv4(**options), conv4(**options, feature_norm="fixed")
    weights = free.init(KEY, images)
    features = np.asarray(free.apply(weights, images))
    expected = features * np.sqrt(18) / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(fixed.apply(weights, images), expected, rtol=1e-5)
    assert np.ptp(np.linalg.norm(features, axis=1)) > 0.1
    # Features that are all zero have a gradient.
    gradient = jax.grad(lambda x: layers.with_fixed_norm(x).sum())(jnp.zeros((2, 3)))
    np.testing.assert_allclose(gradient, 1e3)  # 1 / sqrt(epsilon)


def test_a_network_without_batch_norm_can_be_centred_on_the_support_set():
    images = jax.random.uniform(KEY, (2, 5, 3, 3, 1))
    model = mlp(hidden_sizes=(4,), normalise=False, centre=True, batch_norm="support")
    weights = model.init(KEY, images[0])
    measured = model.measure(weights, images[0])[1]
    assert model.batch_norm == "support"
    difference = model.apply(weights, images[1]) - model.apply(weights, images[1], measured)
    np.testing.assert_allclose(difference, jnp.broadcast_to(difference[:1], difference.shape))
    assert np.abs(difference).max() > 0.01


def test_networks_without_batch_norm_measure_nothing():
    images = jnp.ones((2, 3, 3, 1))
    for model in (linear(num_features=2), mlp(hidden_sizes=(2,), normalise=False)):
        features, statistics = model.measure(model.init(KEY, images), images)
        assert (model.batch_norm, jax.tree.leaves(statistics)) == (None, [])
        assert features.shape == (2, 2)


@pytest.mark.parametrize(
    ("roles", "network"),
    [*((roles, "mlp") for roles in ROLES), ("head", "conv4"), ("network", "t_layers")],
)
@pytest.mark.parametrize("batch_norm", ["batch", "support", "running"])
def test_what_is_said_of_a_query_depends_on_the_others_with_batch_alone(batch_norm, roles, network):
    problem, source = problem_with(batch_norm, roles, network)
    task = a_task(source)

    def said(queries):
        x = moved(problem.init_upper(KEY))
        y = moved(problem.init_lower(KEY, x))
        return problem.predict(x, fewer_queries(task, queries), y)["query"][:2]

    everything, two = jax.jit(said, static_argnums=0)(12), said(2)
    same = np.allclose(everything, two, rtol=1e-11, atol=1e-12)
    assert same == (batch_norm != "batch")


@pytest.mark.parametrize("roles", ROLES)
def test_the_support_part_is_that_of_its_own_batch(roles):
    said = {}
    for batch_norm in ("batch", "support", "running"):
        problem, source = problem_with(batch_norm, roles)
        x = moved(problem.init_upper(KEY))
        y = moved(problem.init_lower(KEY, x))
        task = a_task(source)
        said[batch_norm] = problem.predict(x, task, y)["support"]
        value = problem.lower_objective(problem.prepare(x, task), task, y)
        said[f"{batch_norm}, f"] = value
    for of in ("", ", f"):
        np.testing.assert_array_equal(said[f"batch{of}"], said[f"support{of}"])
        assert not np.allclose(said[f"batch{of}"], said[f"running{of}"])


@pytest.mark.parametrize("batch_norm", ["support", "running"])
@pytest.mark.parametrize("roles", ROLES)
def test_the_hypergradient_agrees_with_finite_differences(roles, batch_norm):
    """Through batch norm, its statistics, K = 2 lower steps and the start."""
    problem, source = problem_with(batch_norm, roles, size=3)
    dynamics, steps, size = compose(lower_only(), sgd(step_size=0.1)), 2, 0.5
    algorithm = hypergradient_descent(
        problem,
        dynamics,
        unrolled(),
        upper_sgd(step_size=size),
        num_lower_steps=steps,
        persistent=False,
        meta_batch_size=2,
    )
    tasks = source.sample(source.data, KEY, "train", 2)
    state = algorithm.init(KEY)
    x = moved(state.variables["problem"])
    state = state._replace(variables={**state.variables, "problem": x})
    after, _ = jax.jit(algorithm.step)(state, KEY, tasks)
    gradient = jax.tree.map(lambda a, b: (a - b) / size, x, after.variables["problem"])

    def phi(x):
        total = 0.0
        for i in range(2):
            task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
            context, y = problem.prepare(x, task), problem.init_lower(state.start, x)
            for _ in range(steps):
                slope = jax.grad(problem.lower_objective, argnums=2)(context, task, y)
                y = jax.tree.map(lambda a, g: a - 0.1 * g, y, slope)
            total += problem.upper_objective(context, task, y)[0]
        return total / 2

    assert float(directional_error(phi, x, gradient)) < 1e-7


def test_the_training_sample_is_fixed_and_of_training_alone():
    data = tiny_images()
    sample = training_sample(data, 5)
    assert sample.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(sample, training_sample(data, 5))
    known = {image.tobytes() for image in data.images[data.splits["train"]].reshape(-1, 64)}
    assert {image.tobytes() for image in training_sample(data, 10**6)} == known
    counts = np.arange(12) % 3 + 1
    fewer = data._replace(counts=counts)
    assert len(training_sample(fewer, 10**6)) == counts[data.splits["train"]].sum()


def test_in_cleaning_the_training_rows_are_the_support():
    images = tiny_images(classes=9, drawings=4, size=2)
    rows = {split: images.images[images.splits[split]].reshape(12, 2, 2, 1) for split in SPLITS}
    labels = dict.fromkeys(SPLITS, np.repeat(np.arange(3, dtype=np.int32), 4))
    options = {
        "noise": 0.5,
        "pollution": "exact",
        "weighting": "sigmoid",
        "initial": 0.0,
        "lower_l2": 0.1,
        "head_init": "xavier",
        "batch_size": None,
        "baseline": "none",
    }

    def alone_and_together(batch_norm):
        data = LabelledImages(rows, labels, 3)
        problem, source = hyper_cleaning(
            data, mlp(hidden_sizes=(4,), batch_norm=batch_norm), **options
        )
        task = jax.tree.map(
            lambda leaf: leaf[0],
            source.sample(source.seeded(source.data, KEY), KEY, "test", 1),
        )
        x = problem.init_upper(KEY)
        y = moved(problem.init_lower(KEY, x))
        context = problem.prepare(x, task)

        def loss(held_out):
            return problem.evaluate(x, context, {**task, "held_out": held_out}, y)["upper_loss"]

        each = [
            loss(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], task["held_out"]))
            for i in range(12)
        ]
        return np.mean(each), float(loss(task["held_out"]))

    alone, together = alone_and_together("support")
    assert alone == pytest.approx(together, rel=1e-12)
    alone, together = alone_and_together("batch")
    assert alone != pytest.approx(together, rel=1e-3)
    with pytest.raises(ValueError, match=r"^model.batch_norm=running .* choose model.batch_norm="):
        alone_and_together("running")


def test_sine_curves_have_the_same_choice():
    for batch_norm in ("support", "running"):
        problem, source = sine(
            mlp(hidden_sizes=(4,), batch_norm=batch_norm), ROLES["network"], shots=4, queries=3
        )
        x = moved(problem.init_upper(KEY))
        task = a_task(source)
        value, _ = problem.upper_objective(problem.prepare(x, task), task, x)
        one = {**task, "query": jax.tree.map(lambda leaf: leaf[:1], task["query"])}
        first, _ = problem.upper_objective(problem.prepare(x, one), one, x)
        assert np.isfinite(value)
        assert not np.allclose(value, first)


SMALL = ["model=mlp", "model.hidden_sizes=[6]"]
SHORT = ["num_iterations=4", "log_every=2", "eval_every=2", "checkpoint_every=2"]


def small(folder, batch_norm, method):
    kept = [option for option in small_few_shot(folder) if not option.startswith("model")]
    chosen = f"model.batch_norm={batch_norm}", f"method={method}"
    return config_of(*kept, *SMALL, *SHORT, *chosen)


@pytest.mark.parametrize(
    ("method", "batch_norm"),
    [
        ("rhg", "support"),
        ("maml", "running"),
        *(
            pytest.param(method, batch_norm, marks=pytest.mark.slow)
            for method in ("rhg", "bda", "maml", "imaml")
            for batch_norm in ("support", "running")
            if (method, batch_norm) not in {("rhg", "support"), ("maml", "running")}
        ),
    ],
)
def test_methods_run_and_resume_bit_for_bit(method, batch_norm, omniglot_folder, tmp_path):
    config = small(omniglot_folder, batch_norm, method)
    whole = run(config, tmp_path / "whole")
    run({**config, "num_iterations": 2}, tmp_path / "cut")
    resumed = run(config, tmp_path / "cut")
    assert np.isfinite(whole["test/accuracy"])
    assert without_timings(resumed) == without_timings(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["model.batch_norm=query"],
            "model.batch_norm='query': input should be 'batch', 'support'",
        ),
        (
            ["model.normalise=false", "model.batch_norm=support"],
            "model.batch_norm=support chooses the statistics of batch norm, and model.normalise=f",
        ),
        (["model=linear", "+model.batch_norm=support"], "model.batch_norm is not a key"),
    ],
)
def test_refusals(options, message, omniglot_folder):
    kept = [o for o in small_few_shot(omniglot_folder) if not o.startswith("model")]
    chosen = SMALL if "model=linear" not in options else []
    said = message_of(lambda: build(config_of(*kept, *chosen, *options)))
    assert said.startswith(message)
