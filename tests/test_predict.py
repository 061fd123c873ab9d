"""A stored few-shot run used: classes of one's own images."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

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
from tests.conftest import QUIET, ROOT, SHORT, config_of, linear_few_shot, small_few_shot

MLP = ["model=mlp", "model.hidden_sizes=[6]"]


def few_shot_run(omniglot_folder, folder, *options):
    base = linear_few_shot(omniglot_folder)
    if any(option.startswith("model=") for option in options):
        base = [option for option in base if not option.startswith("model")]
    run(config_of(*base, *SHORT, *options), folder)
    return folder


@pytest.fixture(scope="module")
def rhg(tmp_path_factory, omniglot_folder):
    chosen = "method=rhg", "model.num_features=60"
    return few_shot_run(omniglot_folder, tmp_path_factory.mktemp("rhg"), *chosen)


@pytest.fixture(scope="module")
def maml(tmp_path_factory, omniglot_folder):
    chosen = "method=maml", *MLP
    return few_shot_run(omniglot_folder, tmp_path_factory.mktemp("maml"), *chosen)


def some_images(classes, of_each, seed=0):
    """uint8 images like those of the run: each class a pattern; and their labels."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(5).random((classes, 1, 28, 28, 1)) < 0.3
    flips = generator.random((classes, of_each, 28, 28, 1)) < 0.05
    images = np.where(patterns ^ flips, 255, 0).astype(np.uint8)
    return images.reshape(-1, 28, 28, 1), np.repeat(np.arange(classes), of_each)


def put_images(root, classes, of_each, seed=0, ink=0, by_class=True):
    """Dark ink on light paper, as people have it (ink=0), or the other way round (ink=255)."""
    images, labels = some_images(classes, of_each, seed)
    names = [f"class {label}, $x^" for label in range(classes)]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / names[label] / f"{i:02d}.png" if by_class else root / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = image if ink == 255 else 255 - image
        # A frame of paper, as in any drawing.
        pixels[:1], pixels[-1:], pixels[:, :1], pixels[:, -1:] = (255 - ink,) * 4
        Image.fromarray(pixels[..., 0]).save(path)
    return root


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


def test_a_head_of_larger_training_tasks_takes_fewer_classes(omniglot_folder, tmp_path, command):
    """Those of the run's own tests, too: absent classes get no share."""
    wider = "method=anil", "problem.ways=2", "problem.train_ways=3", "model.num_features=60"
    few_shot_run(omniglot_folder, tmp_path / "run", *wider)
    images, labels = some_images(4, 2)
    with stored_run(tmp_path / "run") as stored:
        for number in (2, 3):
            found = classify(stored, images[: 2 * number], labels[: 2 * number], images)
            assert found.query.shape == (8, number)
            assert found.support.shape == (2 * number, number)
            np.testing.assert_allclose(found.query.sum(1), 1, rtol=1e-5)
        with pytest.raises(
            UserError, match="support has 4 classes, but this run was trained for 3"
        ):
            classify(stored, images, labels, images)
    support = put_images(tmp_path / "support", 2, 2)
    printed, rows = command(f"run={tmp_path / 'run'}", f"support={support}", f"query={support}")
    assert "the run was trained with 3 classes per task, here are 2" in "\n".join(printed)
    assert len(rows) == 4


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


def test_a_table_and_a_picture_of_unlabelled_images(rhg, tmp_path, command):
    support = put_images(tmp_path / "support", 3, 2)
    query = put_images(tmp_path / "pictures", 3, 4, seed=1, by_class=False)
    printed, rows = command(f"run={rhg}", f"support={support}", f"query={query}")
    assert printed[-1] == str(rhg / "predictions" / "pictures-last-K2.csv")
    names = [f"class {i}, $x^" for i in range(3)]
    assert list(rows[0]) == ["file", "predicted", *(f"p({name})" for name in names)]
    assert [row["file"] for row in rows] == [f"{i:02d}.png" for i in range(12)]
    for row in rows:
        shares = [float(row[f"p({name})"]) for name in names]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == names[int(np.argmax(shares))]
    picture = (rhg / "predictions" / "pictures-last-K2.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    text = "\n".join(printed)
    assert "iteration 3 (last), 2 lower steps" in text
    assert "3 classes, 6 support and 12 query images, brought to 28x28x1, inverted" in text
    assert not re.search("^accuracy: ", text, flags=re.MULTILINE)
    assert "batch_norm" not in text  # a linear network has none


def test_answers_for_other_folders_of_the_same_name_are_kept(rhg, tmp_path, command):
    supports = [put_images(tmp_path / name, 3, 2, seed) for seed, name in enumerate("st")]
    queries = [
        put_images(tmp_path / name / "same.v1", 3, 2, seed, by_class=False)
        for seed, name in enumerate("ab")
    ]
    asked = [(supports[0], queries[0]), (supports[0], queries[1]), (supports[1], queries[1])]
    written, rows = [], []
    for support, query in asked:
        printed, table = command(f"run={rhg}", f"support={support}", f"query={query}")
        written.append(printed[-1])
        rows.append(table)
        assert f"the same as a picture: {printed[-1].removesuffix('.csv')}.png" in printed
    assert written[0] == str(rhg / "predictions" / "same.v1-last-K2.csv")
    assert all(re.fullmatch(r".*/same\.v1-last-K2-[0-9a-f]{8}\.csv", path) for path in written[1:])
    assert len({*written}) == 3
    # Again: each replaces its own.
    for (support, query), path, table in zip(asked, written, rows, strict=True):
        again = command(f"run={rhg}", f"support={support}", f"query={query}")
        assert (again[0][-1], again[1]) == (path, table)


def test_labelled_queries_give_an_accuracy(rhg, tmp_path, command):
    support = put_images(tmp_path / "support", 4, 2, ink=255)
    query = put_images(tmp_path / "query", 4, 3, seed=1, ink=255)
    options = f"run={rhg}", f"support={support}", f"query={query}", "num_lower_steps=20"
    printed, rows = command(*options, "checkpoint=best")
    assert printed[-1].endswith("query-best-K20.csv")
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert f"accuracy: {right / 12:.3f} ({right} of 12 query images)" in printed
    assert right > 8
    text = "\n".join(printed)
    assert "not inverted" in text
    assert "trained with 3 classes per task, here are 4" in text
    inverted, _ = command(*options, "invert=true")
    assert "x1, inverted" in "\n".join(inverted)
    same, _ = command(f"run={rhg}", f"support={support}", f"query={support}")
    assert "note: 8 query images are also in the support set" in "\n".join(same)


def test_light_and_dark_follow_the_images_of_the_run(rhg, tmp_path, command):
    """Dark ink is inverted, light ink is not: the answers are the same."""
    said = []
    for ink in (0, 255):
        support = put_images(tmp_path / f"support{ink}", 3, 2, ink=ink)
        query = put_images(tmp_path / f"query{ink}", 3, 2, seed=1, ink=ink)
        said.append(command(f"run={rhg}", f"support={support}", f"query={query}")[1])
    assert said[0] == said[1]


def test_transductive_batch_norm_is_named(maml, tmp_path, command):
    support = put_images(tmp_path / "support", 3, 1)
    printed, _ = command(f"run={maml}", f"support={support}", f"query={support}")
    assert "what is said of one depends on the others" in "\n".join(printed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "support is missing: this is a run of few_shot, so name a folder"),
        (["support={s}"], "query is missing"),
        (["support={s}", "query=/nowhere"], "query=/nowhere: it is not there"),
        (["support={s}", "query={s}", "invert=maybe"], "invert=maybe is not known; choose auto,"),
        (["support={s}", "query={s}", "checkpoint=7"], "checkpoint=7 is not kept"),
        (["support={s}", "query={s}", "checkpoint=new"], "checkpoint=new must be last, best"),
        (["support={s}", "query={s}", "num_lower_steps=0"], "num_lower_steps=0 must be at least 1"),
        (["support={s}", "query={s}", "num_lower_steps=²"], "num_lower_steps=² is not a whole"),
        (["support={s}", "query={s}", f"num_lower_steps={'9' * 30}"], "is over 2147483647"),
        (["support={s}", "query={s}", "seed=4"], "seed=4: the run has seed 0; choose seed=0"),
        (["support={s}", "query={s}", "seed="], "seed= is empty"),
        (["suport={s}"], "did you mean support?"),
        (["support={s}", "support={s}"], "support is given twice"),
        (["run=a"], "run is given twice"),
        (["support"], "support is not of the form key=value"),
    ],
)
def test_refusals(options, message, rhg, tmp_path, command):
    support = put_images(tmp_path / "support", 3, 1)
    with pytest.raises(SystemExit, match=f"error: .*{re.escape(message)}"):
        command(f"run={rhg}", *(option.format(s=support) for option in options))


def test_a_missing_or_foreign_run_is_refused(tmp_path, command):
    with pytest.raises(SystemExit, match="error: run is missing"):
        command()
    with pytest.raises(SystemExit, match=r"error: run=.*not a run folder"):
        command(f"run={tmp_path}")
    folder = tmp_path / "counterexample"
    run(config_of("problem=counterexample", *QUIET, *SHORT), folder)
    with pytest.raises(
        SystemExit, match=r"error: .*problem=counterexample has nothing to predict with; choose"
    ):
        command(f"run={folder}")


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


@pytest.mark.slow
def test_lower_steps_that_diverge_are_named(omniglot_folder, tmp_path):
    chosen = "method=rhg", "lower_optimizer.step_size=0.05", "problem.lower_l2=60."
    few_shot_run(omniglot_folder, tmp_path, *chosen)
    support, labels = some_images(3, 2)
    with stored_run(tmp_path) as stored, pytest.raises(UserError, match="diverged, and the prob"):
        classify(stored, support, labels, support, num_lower_steps=2000)


def test_a_folder_that_cannot_be_written_is_named(rhg, tmp_path, command):
    support = put_images(tmp_path / "support", 3, 1)
    folder = shutil.copytree(rhg, tmp_path / "copy", ignore=lambda *_: ["predictions"])
    (folder / "predictions").write_text("in the way")
    with pytest.raises(
        SystemExit, match=r"error: .*predictions cannot be written .*; copy the run"
    ):
        command(f"run={folder}", f"support={support}", f"query={support}")


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
