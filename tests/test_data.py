"""Data as a function of files, options and seeds: Omniglot, splits, episodes."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from src.certification.cases import tiny_images
from src.data.episodes import episodes
from src.data.image_classes import SPLITS, ImageClasses
from src.data.omniglot import FILE, omniglot
from src.data.synthetic_regression import synthetic_regression
from tests.conftest import ROOT

SIZES = (18, 6, 6)


@pytest.fixture
def real_omniglot() -> str:
    places = [os.environ.get("BILEVEL_DATA"), ROOT.parent / "shared" / "data" / "omniglot"]
    for place in places:
        if place and (Path(place) / FILE).is_file():
            return str(place)
    pytest.skip(f"the real Omniglot is not here: put {FILE} into a folder named by $BILEVEL_DATA")


def classes_by_split(data: ImageClasses) -> dict[str, set[str]]:
    return {split: {data.names[i] for i in chosen} for split, chosen in data.splits.items()}


def test_omniglot_is_sorted_with_ink_as_one(omniglot_folder):
    data = omniglot(root=str(omniglot_folder), split_sizes=SIZES)
    with np.load(omniglot_folder / FILE) as archive:
        images, names = archive["images"], archive["characters"]
    assert data.names == tuple(sorted(names.tolist()))
    assert (data.images.shape, data.images.dtype) == ((30, 6, 28, 28, 1), np.uint8)
    for i in (0, 7, 29):
        at = names.tolist().index(data.names[i])
        np.testing.assert_array_equal(data.images[i, ..., 0], 255 - images[at])


def test_splits_are_disjoint_and_follow_the_names_not_the_file(omniglot_folder, tmp_path):
    with np.load(omniglot_folder / FILE) as archive:
        images, names = archive["images"], archive["characters"]
    order = np.random.default_rng(2).permutation(30)
    np.savez_compressed(tmp_path / FILE, images=images[order], characters=names[order])
    one, other = (
        omniglot(root=str(folder), split_sizes=SIZES) for folder in (omniglot_folder, tmp_path)
    )
    np.testing.assert_array_equal(one.images, other.images)
    assert one.names == other.names
    splits = classes_by_split(one)
    assert splits == classes_by_split(other)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == list(SIZES)
    assert len(set().union(*splits.values())) == sum(SIZES)
    reseeded = omniglot(root=str(omniglot_folder), split_sizes=SIZES, split_seed=1)
    assert classes_by_split(reseeded) != splits


def test_the_real_omniglot(real_omniglot):
    data = omniglot(root=real_omniglot, split_sizes=(1200, 100, 323))
    assert data.images.shape == (1623, 20, 28, 28, 1)
    assert len({name.partition("/")[0] for name in data.names}) == 50
    assert set(np.unique(data.images)) == {0, 255}
    assert 0.05 < (data.images == 255).mean() < 0.3  # ink, not paper
    assert len(set().union(*classes_by_split(data).values())) == 1623


# Episodes. Every pixel of a drawing says which drawing of which class it is.

CLASSES, DRAWINGS = 12, 6


def tagged_images() -> ImageClasses:
    tags = np.arange(CLASSES * DRAWINGS, dtype=np.uint8).reshape(CLASSES, DRAWINGS, 1, 1, 1)
    return tiny_images(CLASSES, DRAWINGS)._replace(images=np.tile(tags, (1, 1, 2, 2, 1)))


def origin(images) -> tuple[np.ndarray, np.ndarray]:
    """(class, drawing) of each image; fails where an image is not one of the data's."""
    tags = np.asarray(images) * 255
    np.testing.assert_allclose(tags, np.round(tags), atol=1e-9)
    assert np.ptp(tags, axis=(-3, -2, -1)).max() == 0
    return np.divmod(np.round(tags[..., 0, 0, 0]).astype(int), DRAWINGS)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("ways", "shots", "queries"), [(2, 1, 1), (3, 1, 4), (4, 2, 4), (4, 5, 1), (2, 3, 3)]
)
def test_episodes(ways, shots, queries, split):
    classes = tagged_images()
    source = episodes(classes, ways=ways, shots=shots, queries=queries)
    tasks = jax.jit(source.sample, static_argnums=(2, 3))(source.data, jax.random.key(0), split, 50)
    (sc, sd), (qc, qd) = (origin(tasks[part]["images"]) for part in ("support", "query"))
    sl, ql = (np.asarray(tasks[part]["labels"]) for part in ("support", "query"))
    assert set(np.unique(sc)) == set(classes.splits[split])  # all of the split, and only it
    for task in range(50):
        class_of = dict(zip(sl[task], sc[task], strict=True))
        assert sorted(class_of) == list(range(ways))
        assert len(set(class_of.values())) == ways
        for labels, found, number in ((sl, sc, shots), (ql, qc, queries)):
            np.testing.assert_array_equal(np.bincount(labels[task]), [number] * ways)
            np.testing.assert_array_equal(found[task], [class_of[label] for label in labels[task]])
        support, query = (set(zip(c[task], d[task], strict=True)) for c, d in ((sc, sd), (qc, qd)))
        assert len(support) == ways * shots
        assert len(query) == ways * queries
        assert not support & query
    assert not source.persistent


def test_episodes_follow_the_key():
    source = episodes(tagged_images(), ways=3, shots=1, queries=2)

    def drawn(seed, n=8):
        tasks = source.sample(source.data, jax.random.key(seed), "train", n)
        return np.asarray(tasks["query"]["images"])

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()
    assert len(np.unique(drawn(1).reshape(8, -1), axis=0)) > 1  # tasks of a batch differ


def test_every_drawing_is_drawn_about_as_often():
    """Uniform over classes and drawings: 400 tasks of 2 x 3 among 4 x 6 drawings."""
    source = episodes(tagged_images(), ways=2, shots=1, queries=2)
    tasks = source.sample(source.data, jax.random.key(3), "train", 400)
    drawn = np.concatenate(
        [np.ravel(np.stack(origin(tasks[p]["images"])).T @ [DRAWINGS, 1]) for p in tasks]
    )
    counts = np.bincount(drawn, minlength=CLASSES * DRAWINGS)[:24]
    assert counts.sum() == 400 * 6
    assert abs(counts - 100).max() < 40  # standard deviation below 10


def test_synthetic_regression_is_its_recipe():
    options = {"num_rows": (400, 30, 20), "num_features": 6, "num_relevant": 2}
    quiet = synthetic_regression(**options, noise=0.0, data_seed=1)
    assert [len(quiet.targets[split]) for split in SPLITS] == [400, 30, 20]
    solved = [
        np.linalg.lstsq(quiet.inputs[split], quiet.targets[split], rcond=None)[0]
        for split in SPLITS
    ]
    np.testing.assert_allclose(solved[0], solved[1], atol=1e-10)  # one truth for all splits
    assert (abs(solved[0]) > 1e-10).sum() == 2
    noisy = synthetic_regression(**options, noise=2.0, data_seed=1)
    residual = noisy.targets["train"] - noisy.inputs["train"] @ solved[0]
    assert 1.7 < residual.std() < 2.3
    other = synthetic_regression(**options, noise=0.0, data_seed=2)
    assert (other.inputs["train"] != quiet.inputs["train"]).any()
