"""miniImageNet from folders, CSV splits and pickles; its cache; what is wrong is named."""

import os
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src.data import mini_imagenet as module
from src.data.mini_imagenet import mini_imagenet
from src.data.mini_imagenet_pickles import PICKLES
from tests.conftest import python
from tests.photographs import COUNT, PARTS, cached, photographs, refusal, write_csv, write_folders
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


def test_csv_splits_hold_the_same(tmp_path):
    parts = photographs(classes=2)
    write_csv(tmp_path, parts)
    assert_holds(load(tmp_path), parts)


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
    for part, file in zip(PARTS, PICKLES[1], strict=True):
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


def test_classes_are_cut_to_the_smallest(tmp_path):
    parts = photographs(classes=2, count=COUNT + 2)
    name = next(iter(parts["val"]))
    parts["val"][name] = parts["val"][name][: COUNT + 1]
    write_folders(tmp_path, parts)
    cut = {p: {n: images[: COUNT + 1] for n, images in parts[p].items()} for p in PARTS}
    assert_holds(load(tmp_path), cut)


# What is wrong is named.


def spoil_content(kind, content):
    name = next(iter(content["class_dict"]))
    changes = {
        "no images": {"class_dict": content["class_dict"]},
        "a list": [1, 2],
        "floats": {**content, "image_data": content["image_data"] / 255},
        "grey": {**content, "image_data": content["image_data"][..., :1]},
        "too far": {**content, "class_dict": {name: [0, 10_000]}},
        "twice": {**content, "class_dict": {name: [0, 0]}},
        "no lists": {**content, "class_dict": {name: "0, 1"}},
        "no classes": {**content, "class_dict": {}},
        "few labels": {"data": content["image_data"], "labels": [0, 1]},
        "no name": {
            "data": content["image_data"],
            "labels": [5] * len(content["image_data"]),
            "catname2label": {"n1": 4},
        },
    }
    return changes[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no images", r"holds the keys \['class_dict'\], but image_data and class_dict are needed"),
        ("a list", "holds a list, but"),
        ("floats", r"has float64 \(20, 84, 84, 3\) as image_data, but uint8"),
        ("grey", r"has uint8 \(20, 84, 84, 1\) as image_data, but uint8"),
        ("too far", "counts images from 0 to 10000, but has 20"),
        ("twice", "has an image in two classes, or twice in one"),
        ("no lists", "has something else than lists of whole numbers in class_dict"),
        ("no classes", "has no classes"),
        ("few labels", r"has int64 \(2,\) as labels, but 20 are needed"),
        ("no name", "has the label 5, which catname2label does not name"),
    ],
)
def test_pickles_of_another_form(tmp_path, kind, message):
    parts = photographs(classes=1)
    contents = {part: cached(parts[part]) for part in PARTS}
    contents["train"] = spoil_content(kind, contents["train"])
    write(tmp_path, contents)
    expected = f"mini-imagenet-cache-train.pkl {message}.*download it again$"
    assert re.search(expected, refusal(tmp_path))


def spoil_files(kind, folder):
    """One thing wrong with class folders, or with images/ and CSV files."""
    parts = photographs(classes=2)
    write_csv(folder, parts) if kind.startswith("csv") else write_folders(folder, parts)
    files = sorted(path for path in folder.rglob("*.png"))
    table = folder / "val.csv"
    rows = table.read_text().splitlines() if kind.startswith("csv") else []
    actions = {
        "not an image": lambda: files[3].write_bytes(b"no png"),
        "truncated image": lambda: files[3].write_bytes(files[3].read_bytes()[:-900]),
        "too few": lambda: files[3].unlink(),
        "missing split": lambda: (folder / "val").rename(folder / "valid"),
        "empty split": lambda: [f.rename(folder / f.name) for f in (folder / "val").iterdir()],
        "in two splits": lambda: next((folder / "val").iterdir()).rename(
            folder / "val" / next((folder / "test").iterdir()).name
        ),
        "csv names no file": lambda: (folder / "images" / rows[4].split(",")[0]).unlink(),
        "csv leads out": lambda: table.write_text(f"{rows[0]}\n../secret.png,n1\n"),
        "csv twice": lambda: table.write_text("\n".join([*rows, rows[1]])),
        "csv without columns": lambda: table.write_text("\n".join(rows[1:])),
        "csv half a row": lambda: table.write_text("\n".join([*rows, "x.png"])),
        "csv empty": lambda: table.write_text(""),
        "csv no text": lambda: table.write_bytes(b"\xff\xfe\x00"),
        "csv missing": table.unlink if rows else None,
    }
    actions[kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("not an image", r"n\d+/n\d+\.png is not a whole image \(.*copy it again"),
        ("truncated image", r"n\d+/n\d+\.png is not a whole image \(.*copy it again"),
        ("too few", r"the class test/n\d+ has 19 images, but at least 20 are needed"),
        ("missing split", "it holds train, test but not val; put it beside the rest"),
        ("empty split", "val holds no class folders"),
        ("in two splits", r"the class n\d+ is in two splits, test and validation"),
        ("csv names no file", r"line 5 of val.csv names n\d+.png which is not an image in images/"),
        ("csv leads out", r"line 2 of val.csv names \.\./secret.png which is not an image"),
        ("csv twice", r"line 42 of val.csv names n\d+.png a second time"),
        ("csv without columns", "val.csv needs the columns filename and label"),
        ("csv half a row", "val.csv needs the columns filename and label"),
        ("csv empty", "val.csv needs the columns filename and label"),
        ("csv no text", "val.csv is not a CSV file"),
        ("csv missing", "it holds images, train.csv, test.csv but not val.csv"),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, kind, message):
    spoil_files(kind, tmp_path)
    assert re.search(f"^root={re.escape(str(tmp_path))}: {message}", refusal(tmp_path))


def test_no_root_and_nothing_there(tmp_path):
    with pytest.raises(
        ValueError, match=r"^root is not set: .*data\.root=FOLDER.*put there train/"
    ):
        mini_imagenet(root=None)
    assert "is not a folder: put there train/" in refusal(tmp_path / "absent")
    assert "no miniImageNet is there: put there train/" in refusal(tmp_path)


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
    plain = module.decode_files

    def counting(files, count):
        times.append(len(files) * count)
        return plain(files, count)

    monkeypatch.setattr(module, "decode_files", counting)
    return times


def test_files_are_decoded_once(tmp_path, decoded, capsys):
    parts = photographs(classes=1)
    write_folders(tmp_path, parts)
    for _ in range(2):
        assert_holds(load(tmp_path), parts)
    assert decoded == [3 * COUNT]
    assert capsys.readouterr().err.count("decoding 60 images once") == 1
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
            monkeypatch.setattr(module.jax, "devices", lambda device=device: [device])
            found[platform].append(load(tmp_path).streamed)
    assert found == {"gpu": [False, True, False, False], "cpu": [False, False]}
    assert load(tmp_path, streamed=True).streamed is True
    assert load(tmp_path, streamed=False).streamed is False
