"""Forms of data: classes, labelled images, tables and pools become one another."""

import jax
import numpy as np
import pytest

from src.certification.cases import tiny_images
from src.data.bundled_table import bundled_table
from src.data.digits import digits
from src.data.episodes import episodes
from src.data.forms import convert, is_form
from src.data.image_classes import (
    SPLITS,
    ImageClasses,
    kept_count,
    stack_classes,
    usual_count,
)
from src.data.labelled import LabelledImages, Table
from src.data.pool import Pool

WINE = {"name": "wine", "split_sizes": None, "split_seed": 0, "standardise": True}
DIGITS = {"split_sizes": (600, 600, None), "split_seed": 0}


def pool(classes=5, each=6, **options):
    """Images of one pixel, whose value is the number of the image."""
    number = classes * each
    return Pool(
        np.arange(number, dtype=np.uint8).reshape(number, 1, 1, 1),
        np.repeat(np.arange(classes, dtype=np.int32), each),
        tuple("abcdefgh"[:classes]),
        **options,
    )


def ids(images):
    return images.reshape(-1).tolist()


def test_what_has_the_form_is_returned_as_it_is():
    data = digits(**DIGITS)
    assert convert(data, LabelledImages) is data
    assert is_form(LabelledImages)
    assert is_form(Pool | Table)
    assert not is_form(dict)


def test_digits_as_classes_and_as_a_table():
    data = digits(**DIGITS)
    classes = convert(data, ImageClasses)
    assert classes.images.shape == (10, 183, 8, 8, 1)
    assert [len(classes.splits[split]) for split in SPLITS] == [4, 3, 3]
    assert sorted(i for of in classes.splits.values() for i in of) == list(range(10))
    assert classes.counts is not None
    for label in range(10):
        found = classes.images[label, : classes.counts[label]]
        there = np.concatenate([data.images[s][data.labels[s] == label] for s in SPLITS])
        np.testing.assert_array_equal(found, there[: classes.counts[label]])
    table = convert(data, Table)
    assert table.num_classes == 10
    for split in SPLITS:
        flat = data.images[split].reshape(-1, 64) / 255
        np.testing.assert_array_equal(table.inputs[split], flat)
        np.testing.assert_array_equal(table.targets[split], data.labels[split])


def test_rows_of_a_table_as_images_and_as_classes():
    table = bundled_table(**WINE)
    labelled = convert(table, LabelledImages)
    assert labelled.images["train"] is table.inputs["train"]
    assert labelled.num_classes == 3
    classes = convert(table, ImageClasses)
    # Standardised anew, by the rows of training classes alone: those of test classes are unseen.
    counts = classes.counts if classes.counts is not None else np.full(3, 59)
    seen = np.concatenate([classes.images[i, : counts[i]] for i in classes.splits["train"]])
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-12)
    assert abs(classes.images[classes.splits["test"]].mean(axis=(0, 1))).max() > 0.1


def test_numbers_are_no_classes():
    table = bundled_table(**{**WINE, "name": "diabetes"})
    for needed in (ImageClasses, LabelledImages):
        with pytest.raises(ValueError, match="its targets are numbers, but classes are needed"):
            convert(table, needed)


def test_classes_as_labelled_images():
    classes = tiny_images(classes=12, drawings=6)
    data = convert(classes, LabelledImages)
    assert data.num_classes == 12
    assert [len(data.labels[split]) for split in SPLITS] == [24, 24, 24]
    for split in SPLITS:
        assert set(data.labels[split].tolist()) == set(range(12))
    assert data.names == classes.names


# A pool.


def test_classes_or_the_images_of_each_are_shared_out():
    by_class = convert(pool(), ImageClasses)
    assert [len(by_class.splits[split]) for split in SPLITS] == [2, 2, 1]
    assert ids(by_class.images) == list(range(30))
    within = convert(pool(), LabelledImages)
    assert [len(within.labels[split]) for split in SPLITS] == [10, 10, 10]
    assert sorted(i for split in SPLITS for i in ids(within.images[split])) == list(range(30))
    for split in SPLITS:
        assert within.labels[split].tolist() == [i // 6 for i in ids(within.images[split])]
    other = convert(pool(split_seed=1), LabelledImages)
    assert ids(other.images["train"]) != ids(within.images["train"])
    stored = convert(pool(split_seed=None), LabelledImages)
    assert ids(stored.images["train"])[:4] == [0, 1, 6, 7]
    assert convert(pool(), Table).inputs["test"].max() <= 29 / 255


@pytest.mark.parametrize(
    ("number", "sizes"),
    [
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (6, (2, 2, 2)),
        (8, (3, 3, 2)),
        (10, (4, 3, 3)),
        (30, (12, 9, 9)),
    ],
)
def test_few_are_dealt_out_fairly(number, sizes):
    images = np.arange(number, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.arange(number, dtype=np.int32)
    two = Pool(images.repeat(2, axis=0), np.tile(labels[:2], number), ("a", "b"))
    within = convert(two, LabelledImages)
    each = Pool(images, labels, tuple(map(str, images)))
    by_class = convert(each, ImageClasses)
    assert tuple(len(within.labels[split]) // 2 for split in SPLITS) == sizes
    assert tuple(len(by_class.splits[split]) for split in SPLITS) == sizes


def test_sizes_count_classes_or_images_of_each():
    by_class = convert(pool(split_sizes=(1, 2, 1)), ImageClasses)
    assert [len(by_class.splits[split]) for split in SPLITS] == [1, 2, 1]
    assert len(by_class.names) == len(by_class.images) == 4
    within = convert(pool(split_sizes=(3, 1, None)), LabelledImages)
    assert [len(within.labels[split]) for split in SPLITS] == [15, 5, 10]


def test_parts_of_the_files_stay_apart():
    parts = np.tile([0, 0, 0, 0, 1, 1], 5)
    serves = (("train", "validation"), ("test",))
    origins = tuple(f"{i}.png" for i in range(30))
    within = convert(pool(parts=parts, serves=serves, origins=origins), LabelledImages)
    assert ids(within.images["test"]) == [i for i in range(30) if i % 6 > 3]
    assert within.origins["test"][:2] == ("4.png", "5.png")
    by_class = convert(
        pool(parts=np.repeat([0, 0, 0, 1, 1], 6), serves=serves, split_seed=None), ImageClasses
    )
    assert by_class.splits["test"].tolist() == [3, 4]
    assert sorted([*by_class.splits["train"], *by_class.splits["validation"]]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "needed", "message"),
    [
        ({"split_sizes": (9, 1, 1)}, ImageClasses, "asks for at least 11 classes .* there are 5"),
        ({"split_sizes": (5, 1, 1)}, LabelledImages, "7 samples of the class a .* there are 6"),
        ({"split_seed": -1}, ImageClasses, "split_seed=-1 must not be negative"),
        ({"split_seed": -1}, LabelledImages, "split_seed=-1 must not be negative"),
        (
            {
                "parts": np.tile([0, 0, 0, 1, 1, 1], 5),
                "serves": (("train", "validation"), ("test",)),
            },
            ImageClasses,
            "the class a is among the samples for train and validation and among those for test",
        ),
        (
            {
                "parts": np.repeat([0, 0, 1, 1, 2], 6),
                "serves": (("train",), ("validation",), ("test",)),
            },
            LabelledImages,
            "no class is in all of train, validation, test: these files are split by classes",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(options, needed, message):
    with pytest.raises(ValueError, match=message):
        convert(pool(**options), needed)


@pytest.mark.parametrize("needed", [LabelledImages, Table])
def test_one_class_alone_is_refused(needed):
    with pytest.raises(ValueError, match="every sample is of the class a, but at least two class"):
        convert(pool(classes=1), needed)


# Classes with different numbers of images.


@pytest.mark.parametrize(
    ("counts", "kept"),
    [([7, 7, 7], 7), ([20, 30, 40], 40), ([20] * 19 + [900], 20), ([1, 5, 900], 5), ([3, 9], 9)],
)
def test_so_many_are_kept_that_half_of_the_memory_is_used(counts, kept):
    assert kept_count(counts) == kept


def test_classes_of_different_sizes_are_stacked():
    assert usual_count([1, 5, 7, 900]) == 7
    classes = [np.full((n, 2, 2, 1), n, np.uint8) for n in (3, 5, 9)]
    images, counts = stack_classes(classes, 5)
    assert images.shape == (3, 5, 2, 2, 1)
    assert counts is not None
    assert counts.tolist() == [3, 5, 5]
    assert images[0, 3:].max() == 0
    assert stack_classes(classes, 3)[1] is None


def test_images_that_take_no_part_are_told():
    labels = np.repeat(np.arange(5, dtype=np.int32), [2, 2, 2, 2, 40])
    images = np.zeros((48, 1, 1, 1), np.uint8)
    with pytest.warns(UserWarning, match="^of the 40 images of the class e the first 2 take part"):
        assert convert(Pool(images, labels, tuple("abcde")), ImageClasses).images.shape[1] == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_episodes_of_classes_with_different_numbers(streamed):
    """Only images that are there are drawn, each of a class about as often, none twice."""
    each = [3, 4, 6, 6, 5, 6]
    tags = np.full((6, 6, 1, 1, 1), 255, np.uint8)
    for c, number in enumerate(each):
        tags[c, :number, 0, 0, 0] = 10 * c + np.arange(number)
    splits = dict(zip(SPLITS, np.split(np.arange(6), 3), strict=True))
    data = ImageClasses(tags, tuple("abcdef"), splits, streamed, np.array(each))
    source = episodes(data, ways=2, shots=1, queries=2)
    for split, (one, other) in splits.items():
        tasks = jax.jit(source.sample, static_argnums=(2, 3))(
            source.data, jax.random.key(0), split, 300
        )
        drawn = [np.round(np.asarray(tasks[p]["images"]) * 255).astype(int) for p in tasks]
        drawn = np.concatenate([of.reshape(300, 2, -1) for of in drawn], axis=-1)
        assert all(len(set(of)) == 3 for task in drawn for of in task)
        for c in (one, other):
            counts = np.bincount(drawn[drawn // 10 == c] % 10, minlength=each[c])
            assert len(counts) == each[c]
            assert abs(counts - 900 / each[c]).max() < 90
        (support, labels) = tasks["support"]["images"], tasks["support"]["labels"]
        assert support.shape[1] == labels.shape[1] == 2
    with pytest.raises(ValueError, match=r"shots=1 and queries=3 need 4 .* the class a has 3; "):
        episodes(data, ways=2, shots=1, queries=3)
    with pytest.raises(ValueError, match=r"class a has 3 \(3 of 6 classes have too few\)"):
        episodes(data, ways=2, shots=2, queries=4)


@pytest.mark.parametrize("streamed", [False, True])
def test_rows_in_place_of_images_stay_as_they_are(streamed):
    table = bundled_table(**{**WINE, "name": "digits"})
    data = convert(table, ImageClasses)._replace(streamed=streamed)
    with jax.enable_x64(False):
        source = episodes(data, ways=3, shots=1, queries=2)
        task = source.sample(source.data, jax.random.key(0), "train", 1)
    rows = np.asarray(task["query"]["images"][0])
    assert rows.shape == (6, 64)
    there = data.images[data.splits["train"]].reshape(-1, 64).astype(np.float32)
    assert all((there == row).all(axis=1).any() for row in rows)


def test_the_seed_shares_out_data_of_another_form():
    data = digits(**DIGITS)
    shares = [
        [convert(data, ImageClasses, split_seed=seed).splits["test"].tolist()] for seed in (0, 0, 1)
    ]
    assert shares[0] == shares[1] != shares[2]
    assert convert(data, ImageClasses).splits["test"].tolist() == shares[0][0]
