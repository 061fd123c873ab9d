"""Images of new classes under a stored few-shot run: probabilities, heads, numbers of classes."""

import json
import re

import jax
import numpy as np
import pytest

from src.prediction.classify import (
    classify,
    image_shape,
    num_ways,
    refuse_other_ways,
    training_images,
)
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import ROOT, SHORT, config_of, linear_few_shot, small_few_shot
from tests.few_shot_runs import MLP, few_shot_run, some_images

# ---- classes of images ----


def test_probabilities_are_those_of_a_plain_loop(rhg):
    """Features of the stored x, then gradient descent on a softmax head, by hand."""
    support, labels = some_images(3, 2)
    query, _ = some_images(3, 4, seed=1)
    with stored_run(rhg) as stored:
        found = classify(stored, support, labels, query, num_lower_steps=4)
        floats = classify(stored, support / 255.0, labels, query / 255.0, num_lower_steps=4)
        assert (image_shape(stored.experiment), num_ways(stored.experiment)) == ((28, 28, 1), 3)
        assert training_images(stored.experiment).shape == (3, 28, 28, 1)
    np.testing.assert_allclose(found.query, floats.query, rtol=1e-5)
    x = found.state.state.variables["problem"]
    matrix = np.asarray(jax.tree.leaves(x)[0], dtype=float)
    a, b = (images.reshape(len(images), -1) / 255 @ matrix for images in (support, query))
    weights, bias = np.zeros((matrix.shape[1], 3)), np.zeros(3)

    def softmax(z):
        shares = np.exp(z - z.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    for _ in range(4):
        residual = (softmax(a @ weights + bias) - np.eye(3)[labels]) / len(labels)
        weights, bias = weights - 0.1 * a.T @ residual, bias - 0.1 * residual.sum(0)
    np.testing.assert_allclose(found.query, softmax(b @ weights + bias), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.support, softmax(a @ weights + bias), rtol=1e-4, atol=1e-5)
    assert (found.state.step, found.num_lower_steps) == (3, 4)


@pytest.mark.parametrize("number", [2, 5, 7])
def test_a_head_from_zeros_takes_any_number_of_classes(number, rhg):
    support, labels = some_images(number, 3)
    query, truth = some_images(number, 2, seed=1)
    with stored_run(rhg) as stored:
        found = classify(stored, support, labels, query, num_lower_steps=20)
    assert found.query.shape == (2 * number, number)
    np.testing.assert_allclose(found.query.sum(1), 1, rtol=1e-5)
    assert (found.query.argmax(1) == truth).mean() > 0.7


def test_classes_may_have_different_numbers_of_images(rhg):
    support, labels = some_images(3, 3)
    kept = [0, 1, 2, 3, 6, 7]
    with stored_run(rhg) as stored:
        found = classify(stored, support[kept], labels[kept], support)
    assert found.query.shape == (9, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["method=maml", *MLP], "the start of its head was learned for 3 classes"),
        (["method=rhg", "problem.head_init=xavier"], "random numbers for 3 classes"),
        (["method=rhg", "proximal_weight=0.1"], "its proximal term pulls to a start of 3 classes"),
        (["method=rhg", "lower_optimizer.learn=per_weight"], "for each weight of a head of 3"),
    ],
)
def test_other_heads_say_why_they_do_not(options, reason, omniglot_folder):
    base = linear_few_shot(omniglot_folder)
    if MLP[0] in options:
        base = [option for option in base if not option.startswith("model")]
    experiment = build(config_of(*base, *options))
    message = f"support has 4 classes, but .* for 3, and .*{reason}.*; choose 3 classes, or train"
    with pytest.raises(UserError, match=message):
        refuse_other_ways(experiment, 3, 4)


def test_a_learned_start_takes_its_own_number_of_classes(maml):
    support, labels = some_images(4, 1)
    with stored_run(maml) as stored:
        assert classify(stored, support[:3], labels[:3], support).query.shape == (4, 3)
        with pytest.raises(
            UserError, match="support has 4 classes, but this run was trained for 3"
        ):
            classify(stored, support, labels, support)
        with pytest.raises(UserError, match="query: one image alone"):
            classify(stored, support[:3], labels[:3], support[:1])


def test_of_one_query_less_its_own_mean_nothing_is_left(omniglot_folder, tmp_path):
    centred = (*SHORT, "method=rhg", "model.centre=true")
    run(config_of(*small_few_shot(omniglot_folder), *centred), tmp_path)
    images, labels = some_images(3, 1)
    with stored_run(tmp_path) as stored:
        answers = classify(stored, images, labels, images[:2]).query
        assert np.abs(answers[0] - answers[1]).max() > 1e-6
        with pytest.raises(UserError, match="query: one image alone"):
            classify(stored, images, labels, images[:1])


@pytest.mark.slow
def test_one_query_stands_alone_with_support(omniglot_folder, tmp_path):
    images, labels = some_images(3, 2)
    query, _ = some_images(3, 4, seed=1)
    said = {}
    for batch_norm in ("batch", "support"):
        chosen = "method=rhg", *MLP, f"model.batch_norm={batch_norm}", "dtype=float64"
        few_shot_run(omniglot_folder, tmp_path / batch_norm, *chosen)
        with stored_run(tmp_path / batch_norm) as stored:
            whole = classify(stored, images, labels, query).query
            number = 2 if batch_norm == "batch" else 1
            alone = classify(stored, images, labels, query[:number]).query
        said[batch_norm] = np.abs(whole[0] - alone[0]).max()
    assert said["batch"] > 1e-6
    assert said["support"] < 1e-12


@pytest.mark.parametrize(
    ("support", "labels", "query", "message"),
    [
        (np.zeros((2, 9, 9, 1)), [0, 1], None, r"support: an array of shape \(2, 9, 9, 1\)"),
        (np.zeros((0, 28, 28, 1)), [], None, "n at least 1"),
        (np.full((2, 28, 28, 1), 9.0), [0, 1], None, "support: floats from 9 to 9"),
        (np.full((2, 28, 28, 1), np.nan), [0, 1], None, "support: some values are infinite or NaN"),
        (np.zeros((2, 28, 28, 1), int), [0, 1], None, "support: images of int64; give uint8"),
        (np.zeros((2, 28, 28, 1)), [0, 2], None, r"labels: \[0, 2\] occur"),
        (np.zeros((2, 28, 28, 1)), [0, 0], None, r"labels: \[0\] occur"),
        (np.zeros((2, 28, 28, 1)), [0.0, 1.0], None, "labels: float64"),
        (np.zeros((2, 28, 28, 1)), [0, 1, 2], None, r"labels: int64 of shape \(3,\)"),
        (np.zeros((2, 28, 28, 1)), [0, 1], np.zeros((28, 28, 1)), "query: an array of shape"),
    ],
)
def test_arrays_of_another_form_are_refused(support, labels, query, message, rhg):
    query = support if query is None else query
    with stored_run(rhg) as stored, pytest.raises(UserError, match=message):
        classify(stored, support, np.array(labels), query)


# ---- the document ----


def test_the_example_of_the_document_runs(rhg):
    text = (ROOT / "docs" / "prediction.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code) == 1
    support, labels = some_images(3, 2)
    namespace = {"folder": rhg, "support": support, "labels": labels, "query": support}
    exec(compile(code[0], "prediction.md", "exec"), namespace)
    assert namespace["found"].query.shape == (6, 3)
    assert json.dumps(namespace["classes"].tolist())


@pytest.mark.slow
def test_small_few_shot_networks_predict_too(omniglot_folder, tmp_path):
    run(config_of(*small_few_shot(omniglot_folder), *SHORT, "method=bda"), tmp_path)
    support, labels = some_images(3, 2)
    with stored_run(tmp_path) as stored:
        assert classify(stored, support, labels, support).query.shape == (6, 3)
