"""The command that classifies images of one's own by a stored few-shot run."""

import re
import shutil

import numpy as np
import pytest

from src.prediction.classify import classify
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.errors import UserError
from tests.conftest import QUIET, SHORT, config_of
from tests.few_shot_runs import few_shot_run, put_images, some_images


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
    """Dark ink is inverted, light is not, of support and query each: the answers are the same."""
    inks = {(0, 0): "inverted", (255, 255): "not inverted", (0, 255): "support inverted, query not"}
    answers = []
    for (ours, theirs), words in inks.items():
        support = put_images(tmp_path / f"support{ours}", 3, 2, ink=ours)
        query = put_images(tmp_path / f"query{theirs}", 3, 2, seed=1, ink=theirs)
        printed, rows = command(f"run={rhg}", f"support={support}", f"query={query}")
        assert f"brought to 28x28x1, {words}" in "\n".join(printed)
        answers.append(rows)
    assert answers[0] == answers[1] == answers[2]


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
