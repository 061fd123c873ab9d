"""Arrays of one's own: what is read, how it is split, what is refused."""

import re

import numpy as np
import pytest

from src.data.arrays import arrays
from src.data.forms import convert
from src.data.image_classes import SPLITS, ImageClasses
from src.data.labelled import LabelledImages, Table
from tests.own_data import (
    ARRAYS,
    COLOUR,
    IMAGES,
    LABELS,
    ROWS,
    WORDS,
    load,
    read,
    refusal,
)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(str), LABELS * 1.0])
@pytest.mark.parametrize("images", [IMAGES, COLOUR])
def test_images_serve_every_problem(tmp_path, images, labels):
    pool = load(tmp_path, {"images": images, "labels": labels})
    shape = (6, 5, images.shape[3] if images.ndim == 4 else 1)
    classes = convert(pool, ImageClasses)
    assert classes.images.shape == (6, 10, *shape)
    np.testing.assert_array_equal(classes.images[2, 1], images[8].reshape(shape))
    assert [len(convert(pool, LabelledImages).labels[s]) for s in SPLITS] == [24, 18, 18]
    assert convert(pool, Table).inputs["train"].shape == (24, np.prod(shape))


def test_rows_serve_every_problem_that_has_classes(tmp_path):
    found = load(tmp_path, {"X": ROWS, "y": LABELS}, split_seed=None)
    assert found.num_classes == 6
    np.testing.assert_array_equal(found.inputs["train"], ROWS[:24])
    assert convert(found, ImageClasses).images.shape == (6, 10, 4)
    assert convert(found, LabelledImages).images["test"].shape == (18, 4)
    numbers = load(tmp_path, {"x": ROWS, "target": ROWS[:, 0]}, standardise=True)
    assert numbers.num_classes == 0
    assert numbers.targets["train"].std() == pytest.approx(1)


@pytest.mark.parametrize("name", ["{kind}_{part}", "{part}_{kind}"])
def test_members_of_each_split(tmp_path, name):
    """The files of Keras (x_train, y_train, x_test, y_test) and MedMNIST (train_images, ...)."""
    kinds = {"{kind}_{part}": ("x", "y"), "{part}_{kind}": ("images", "labels")}[name]
    parts = {"train": slice(0, 36), "test": slice(36, 60)}
    members = {
        name.format(kind=kind, part=part): array[rows]
        for part, rows in parts.items()
        for kind, array in zip(kinds, (IMAGES, LABELS), strict=True)
    }
    data = convert(load(tmp_path, members), LabelledImages)
    assert [len(data.labels[split]) for split in SPLITS] == [18, 18, 24]
    np.testing.assert_array_equal(data.images["test"], IMAGES[36:, ..., None])


def test_a_member_that_says_the_split(tmp_path):
    members = {"images": IMAGES, "labels": LABELS, "split": WORDS[LABELS // 2]}
    classes = convert(load(tmp_path, members), ImageClasses)
    assert [classes.splits[split].tolist() for split in SPLITS] == [[0, 1], [2, 3], [4, 5]]
    members["split"] = WORDS[np.arange(60) // 6 % 3]
    data = convert(load(tmp_path, members), LabelledImages)
    assert data.origins["test"][:2] == ("row 12", "row 13")
    named = {"a": IMAGES, "b": LABELS, "c": WORDS[LABELS // 2], "images": COLOUR}
    with pytest.warns(UserWarning, match=r"^data.path=.*a.npz: not read: images; other members"):
        chosen = load(tmp_path, named, inputs="a", labels="b", split="c")
    assert convert(chosen, ImageClasses).images.shape == (6, 10, 6, 5, 1)


def test_members_of_a_test_split_beside_bare_ones(tmp_path):
    """X, y are the training rows where X_test, y_test are there, too."""
    held_out = {"X_test": ROWS + 9, "y_test": LABELS}
    found = load(tmp_path, {"X": ROWS, "y": LABELS, **held_out}, split_seed=None)
    np.testing.assert_array_equal(found.inputs["test"], ROWS + 9)
    assert [len(found.targets[split]) for split in SPLITS] == [34, 26, 60]
    with pytest.warns(UserWarning, match="a.npz: not read: X_test; other members"):
        found = load(tmp_path, {"X": ROWS, "y": LABELS, "X_test": ROWS})
    assert len(found.targets["test"]) == 18
    with pytest.warns(UserWarning, match="a.npz: not read: X_test, y_test; other members"):
        load(tmp_path, {"X": ROWS, "y": LABELS, **held_out}, inputs="X")


BY_CLASS = np.sort(LABELS)


def rows_by_members(folder, part_of):
    parts = dict(zip(("train", "val", "test"), (part_of == i for i in range(3)), strict=True))
    members = {
        f"{kind}_{part}": of[rows]
        for part, rows in parts.items()
        for kind, of in (("x", ROWS), ("y", BY_CLASS))
    }
    return load(folder, members, standardise=True)


def rows_by_split(folder, part_of):
    return load(folder, {"x": ROWS, "y": BY_CLASS, "split": WORDS[part_of]}, standardise=True)


def rows_of_a_table(folder, part_of):
    lines = zip(ROWS[:, 0], WORDS[part_of], BY_CLASS, strict=True)
    text = "\n".join(["a,b,y", *(f"{a},{b},{y}" for a, b, y in lines)])
    return read(folder, text, split="b", standardise=True)


@pytest.mark.parametrize("rows", [rows_by_members, rows_by_split, rows_of_a_table])
def test_few_shot_classes_of_rows_stay_in_the_split_of_the_files(tmp_path, rows):
    part_of = np.array([2, 0, 1, 2, 0, 0])[BY_CLASS]
    classes = convert(rows(tmp_path, part_of), ImageClasses)
    assert [classes.splits[split].tolist() for split in SPLITS] == [[1, 4, 5], [2], [0, 3]]
    with pytest.raises(ValueError, match="the class 0 is among the samples for train and among th"):
        convert(rows(tmp_path, np.arange(60) % 3), ImageClasses)


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        (
            {"images": IMAGES, "y": LABELS},
            {"targets": "numbers"},
            "targets=numbers, but the inputs are images, .*save the images as rows",
        ),
        (
            {"x": ROWS, "y": LABELS, "split": WORDS[LABELS // 2], "x_val": ROWS, "y_val": LABELS},
            {},
            "split=split: .* says the split of each sample, and has x_val of another split",
        ),
        (
            {"foo": IMAGES, "labels": LABELS},
            {},
            "inputs=null: .* foo, labels, and which are the in",
        ),
        ({"images": IMAGES}, {}, "labels=null: .* images, and which are the labels is not known"),
        ({"images": IMAGES, "y": LABELS}, {"inputs": "x"}, "inputs=x: .* the members images, y"),
        (
            {"images": COLOUR.transpose(0, 3, 1, 2), "y": LABELS},
            {},
            "save images.transpose.0, 2, 3",
        ),
        ({"images": COLOUR[..., :2], "y": LABELS}, {}, "2 channels; save one channel .grey. or th"),
        ({"images": IMAGES / 255, "y": LABELS}, {}, "float64 .60, 6, 5., but images are uint8"),
        (
            {"images": IMAGES, "y": LABELS[:9]},
            {},
            "as many inputs, .n, ...., as labels, .n,., are",
        ),
        ({"images": IMAGES, "y": np.eye(6)[LABELS]}, {}, "one label for each sample .*argmax"),
        ({"images": IMAGES, "y": LABELS + 0.5}, {}, "labels: those of images are classes"),
        ({"images": IMAGES, "y": 0 * LABELS}, {}, "every row has the target 0, but at least two"),
        ({"images": IMAGES[:, None, None], "y": LABELS}, {}, "but images are .n, height, width"),
        ({"x": ROWS * np.inf, "y": LABELS}, {}, "row 0 of the inputs has -?inf in column 0"),
        ({"x": ROWS.astype(str), "y": LABELS}, {}, "but rows are numbers, .n, p."),
        ({"x": ROWS, "y": LABELS * np.nan}, {}, "targets: the label of row 0 is nan, but a finite"),
        (
            {"images": IMAGES, "y": LABELS, "split": LABELS},
            {},
            "split is int64 .60., but a text for",
        ),
        (
            {"images": IMAGES, "y": LABELS, "split": np.full(60, "foo")},
            {},
            "split of row 0 is 'foo'; write train, validation or test",
        ),
        (
            {"images": IMAGES, "y": LABELS, "split": np.full(60, "test")},
            {},
            "split has no row that is train",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": COLOUR, "y_test": LABELS},
            {},
            "x_test is uint8 .60, 6, 5, 3., but that of train uint8 .60, 6, 5.; all must have one",
        ),
    ],
)
def test_arrays_of_another_form(tmp_path, members, options, message):
    assert re.search(message, refusal(load, tmp_path, members, **options))


def test_no_path_and_no_archive(tmp_path):
    assert "name an .npz file with data.path=FILE" in refusal(arrays, path=None, **ARRAYS)
    (tmp_path / "a").write_bytes(b"<html>")
    found = refusal(arrays, path=str(tmp_path / "a"), **ARRAYS)
    assert "it is a web page, saved under this name: download the file itself" in found
    assert "/dev/zero is a device" in refusal(arrays, path="/dev/zero", **ARRAYS)
