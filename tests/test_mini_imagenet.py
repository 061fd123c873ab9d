"""miniImageNet from folders, CSV splits and pickles; its cache."""

import os
import pickle
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src.data import decoded_once as module
from src.data.mini_imagenet import mini_imagenet
from src.data.mini_imagenet_pickles import PICKLES
from tests.conftest import python
from tests.photographs import COUNT, PARTS, cached, photographs, write_csv, write_folders
from tests.photographs import write_pickles as write

SPLIT = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(folder, **options):
    return mini_imagenet(root=str(folder), **options)


def assert_holds(data, parts):
    """The images of `parts`, class by class, in their splits."""
    assert data.names == tuple(sorted(f"{SPLIT[p]}/{c}" for p in parts for c in parts[p]))
    assert data.images.dtype == np.uint8
    for part, classes in parts.items():
        found = {data.names[i]: data.images[i] for i in data.splits[SPLIT[part]]}
        assert sorted(found) == sorted(f"{SPLIT[part]}/{name}" for name in classes)
        for name, images in classes.items():
            np.testing.assert_array_equal(found[f"{SPLIT[part]}/{name}"], images)


# Forms.


@pytest.mark.parametrize("place", ["", "mini_v3", "imagenet/mini_v3"])
def test_class_folders(tmp_path, place):
    parts = photographs(classes=1)
    write_folders(tmp_path / place, parts)
    first = next((tmp_path / place / "train").iterdir())
    (first / "._hidden.png").write_bytes(b"of an archiver")
    (first / "Thumbs.db").write_bytes(b"of a system")
    (tmp_path / place / "train" / ".cache").mkdir()
    data = load(tmp_path)
    assert_holds(data, parts)
    assert not data.streamed  # auto, on a CPU


@pytest.mark.parametrize("layout", ["flat", "split/", "class folders", "class in the name", "val"])
@pytest.mark.parametrize("around", ["", "one/"])
def test_csv_splits_hold_the_same(tmp_path, layout, around):
    parts = photographs(classes=2)
    folder = tmp_path / around
    write_csv(folder, parts)
    images = folder / "images"
    if layout.startswith("class"):
        for part in PARTS:
            for name in parts[part]:
                (images / name).mkdir()
                for path in images.glob(f"{name}*.png"):
                    path.rename(images / name / path.name)
    if layout == "class in the name":
        for part in PARTS:
            head, *rows = (folder / f"{part}.csv").read_text().splitlines()
            rows = [f"{row.split(',')[1]}/{row}" for row in rows]
            (folder / f"{part}.csv").write_text("\n".join([head, *rows]))
    if layout == "val":
        (folder / "val.csv").rename(folder / "validation.csv")
    if layout == "split/":
        (folder / "split").mkdir()
        for part in PARTS:
            (folder / f"{part}.csv").rename(folder / "split" / f"{part}.csv")
    assert_holds(load(tmp_path), parts)


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_other_names_of_the_validation_split(tmp_path, name):
    parts = photographs(classes=1)
    write_folders(tmp_path / "files" / "inside", parts)
    (tmp_path / "files" / "inside" / "val").rename(tmp_path / "files" / "inside" / name)
    for left in ("__MACOSX", "inside/@eaDir", "inside/train/__MACOSX", "inside/train/@eaDir"):
        (tmp_path / "files" / left).mkdir()
    assert_holds(load(tmp_path / "files"), parts)
    write(tmp_path / "pickles", {part: cached(parts[part]) for part in PARTS})
    val = tmp_path / "pickles" / "mini-imagenet-cache-val.pkl"
    val.rename(val.with_name(f"mini-imagenet-cache-{name}.pkl"))
    assert_holds(load(tmp_path / "pickles"), parts)


def test_other_sizes_are_resized_alike_in_files_and_pickles(tmp_path):
    parts = photographs(classes=1, size=30)
    write_folders(tmp_path / "files", parts)
    write(tmp_path / "pickles", {part: cached(parts[part]) for part in PARTS})
    files, pickles = load(tmp_path / "files"), load(tmp_path / "pickles")
    assert files.images.shape == (3, COUNT, 84, 84, 3)
    np.testing.assert_array_equal(files.images, pickles.images)
    (name, images), *_ = parts["val"].items()
    expected = Image.fromarray(images[4]).resize((84, 84), Image.Resampling.LANCZOS)
    found = files.images[files.names.index(f"validation/{name}"), 4]
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_jpegs_without_colour_are_read(tmp_path):
    write_folders(tmp_path, photographs(classes=1), suffix="JPEG")
    grey = min((tmp_path / "test").glob("*/*.JPEG"))
    Image.fromarray(np.full((50, 40), 77, np.uint8)).save(grey)
    data = load(tmp_path)
    image = data.images[data.splits["test"][0], 0]
    assert (image == 77).all()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_cached_pickles(tmp_path, protocol):
    parts = photographs(classes=2)
    write(tmp_path, {part: cached(parts[part]) for part in PARTS}, protocol)
    assert_holds(load(tmp_path), parts)


@pytest.mark.parametrize("names", ["catname2label", "texts", "numbers"])
def test_pickles_with_labels(tmp_path, names):
    parts = photographs(classes=2)
    for part, (file,) in zip(PARTS, PICKLES[1], strict=True):
        content = cached(parts[part])
        labels = np.empty(2 * COUNT, int)
        for label, indices in enumerate(content["class_dict"].values()):
            labels[indices] = label
        classes = list(parts[part])
        older = {"data": content["image_data"], "labels": labels.tolist()}
        if names == "catname2label":
            older["catname2label"] = {name: label for label, name in enumerate(classes)}
        if names == "texts":
            older["labels"] = [classes[label] for label in labels]
        (tmp_path / file).write_bytes(pickle.dumps(older))
    if names == "numbers":
        # The same numbers in all files are no sign of the same classes.
        parts = {
            part: {f"label {i:03d}": images for i, images in enumerate(classes.values())}
            for part, classes in parts.items()
        }
    assert_holds(load(tmp_path), parts)


def test_a_class_with_fewer_images_keeps_what_it_has(tmp_path):
    parts = photographs(classes=2, count=COUNT + 2)
    name = next(iter(parts["val"]))
    parts["val"][name] = parts["val"][name][: COUNT + 1]
    write_folders(tmp_path / "files", parts)
    write_pickle_lists(tmp_path / "pickles", parts)
    told = rf"^the class validation/{name} has {COUNT + 1} images where {COUNT + 2} are usual; copy"
    for folder in ("files", "pickles"):
        with pytest.warns(UserWarning, match=told):
            data = load(tmp_path / folder)
        fewer = data.names.index(f"validation/{name}")
        assert data.counts is not None
        assert data.counts.tolist() == [COUNT + 2 - (i == fewer) for i in range(6)]
        np.testing.assert_array_equal(data.images[fewer, :-1], parts["val"][name])
        first = next(iter(parts["train"]))
        at = data.names.index(f"train/{first}")
        np.testing.assert_array_equal(data.images[at], parts["train"][first])


def write_pickle_lists(folder, parts):
    """Pickles of classes with different numbers of images."""
    contents = {}
    for part, classes in parts.items():
        ends = np.cumsum([0, *map(len, classes.values())])
        members = [range(a, b) for a, b in pairwise(ends)]
        contents[part] = {
            "image_data": np.concatenate(list(classes.values())),
            "class_dict": dict(zip(classes, map(list, members), strict=True)),
        }
    write(folder, contents)


def test_one_class_of_more_images_is_cut_without_a_word(tmp_path):
    parts = photographs(classes=2, count=COUNT + 2)
    kept = {p: {n: images[:COUNT] for n, images in parts[p].items()} for p in PARTS}
    larger = next(iter(parts["test"]))
    write(tmp_path, {p: cached(kept[p]) for p in ("train", "val")})
    test = [images if name == larger else images[:COUNT] for name, images in parts["test"].items()]
    members = np.split(np.arange(2 * COUNT + 2), [len(test[0])])
    content = {
        "image_data": np.concatenate(test),
        "class_dict": dict(zip(parts["test"], members, strict=True)),
    }
    write(tmp_path, {"test": content})
    assert_holds(load(tmp_path), kept)


def test_describe_shows_a_task_or_says_what_is_missing(tmp_path):
    write_folders(tmp_path / "data", photographs(classes=5))
    overrides = ["data=mini_imagenet", "model=mlp", "problem.queries=5"]
    for place, code in (("data", 0), ("data/train", 1)):
        call = ["-m", "src.describe", *overrides, f"data.root={tmp_path / place}"]
        done = python(*call, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.returncode == code, done.stderr
        if code == 0:
            assert re.search(r"query/images +float32 +\(25, 84, 84, 3\)", done.stdout)
        else:
            assert done.stderr.startswith("error: data.root=")
            assert "no miniImageNet is there" in done.stderr


# The cache.


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded, one entry per time."""
    times = []
    plain = module.decode_all

    def counting(paths, *rest, **options):
        times.append(len(paths))
        return plain(paths, *rest, **options)

    monkeypatch.setattr(module, "decode_all", counting)
    return times


def test_files_are_decoded_once(tmp_path, decoded, capsys):
    parts = photographs(classes=1)
    write_folders(tmp_path, parts)
    for _ in range(2):
        assert_holds(load(tmp_path), parts)
    assert decoded == [3 * COUNT]
    assert capsys.readouterr().err.count(f"decoding {3 * COUNT} images once") == 1
    # Another image under the same name is another data set.
    path = min((tmp_path / "test").glob("*/*.png"))
    status = path.stat()
    Image.fromarray(np.zeros((84, 84, 3), np.uint8)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    data = load(tmp_path)
    assert data.images[data.splits["test"][0], 0].max() == 0
    assert len(decoded) == 2


def test_a_damaged_cache_is_made_anew(tmp_path, decoded):
    parts = photographs(classes=1)
    write_folders(tmp_path, parts)
    load(tmp_path)
    (path,) = (module.default_folder("mini_imagenet") or tmp_path).iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        assert_holds(load(tmp_path), parts)
    assert_holds(load(tmp_path), parts)
    assert len(decoded) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    parts = photographs(classes=1)
    write_folders(tmp_path / "data", parts)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept for the next run"):
        assert_holds(load(tmp_path / "data"), parts)


# Whether the images stay on the device.


def test_streamed_where_half_of_the_memory_is_too_little(tmp_path, monkeypatch):
    parts = photographs(classes=1)
    write(tmp_path, {part: cached(parts[part]) for part in PARTS})
    size = load(tmp_path).images.nbytes
    stats = {
        "gpu": [{"bytes_limit": 2 * size}, {"bytes_limit": 2 * size - 1}, {}, None],
        "cpu": [{"bytes_limit": 1}, None],
    }
    found = {}
    for platform, cases in stats.items():
        devices = [SimpleNamespace(platform=platform, memory_stats=lambda c=c: c) for c in cases]
        found[platform] = []
        for device in devices:
            monkeypatch.setattr("jax.local_devices", lambda device=device: [device])
            found[platform].append(load(tmp_path).streamed)
    assert found == {"gpu": [False, True, False, False], "cpu": [False, False]}
    assert load(tmp_path, streamed=True).streamed is True
    assert load(tmp_path, streamed=False).streamed is False
