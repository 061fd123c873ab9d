"""What is wrong with the files of a miniImageNet is named."""

import os
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from src.data.mini_imagenet import mini_imagenet
from src.data.mini_imagenet_pickles import PICKLES
from tests.photographs import COUNT, PARTS, cached, photographs, refusal, write_csv, write_folders
from tests.photographs import write_pickles as write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def spoil_content(kind, content):
    name = next(iter(content["class_dict"]))
    changes = {
        "no images": {"class_dict": content["class_dict"]},
        "a list": [1, 2],
        "floats": {**content, "image_data": content["image_data"] / 255},
        "grey": {**content, "image_data": content["image_data"][..., :1]},
        "too far": {**content, "class_dict": {name: [0, 10_000]}},
        "twice": {**content, "class_dict": {name: [0, 0]}},
        "below 0": {**content, "class_dict": {name: [-3, 0]}},
        "no pixels": {**content, "image_data": content["image_data"][:, :0]},
        "one name": {**content, "class_dict": {7: [0], "label 007": [1]}},
        "no lists": {**content, "class_dict": {name: "0, 1"}},
        "no classes": {**content, "class_dict": {}},
        "few labels": {"data": content["image_data"], "labels": [0, 1]},
    }
    older = {"data": content["image_data"], "labels": [5] * len(content["image_data"])}
    changes |= {
        "real labels": {**older, "labels": [5.0] * len(content["image_data"])},
        "no name": {**older, "catname2label": {"n1": 4}},
        "one label": {**older, "catname2label": {"n1": 5, "n2": 5}},
        "one absent label": {**older, "catname2label": {"n1": 5, "n2": 6, "n3": 6}},
        "one text": {**older, "catname2label": {1: 5, "1": 6}},
    }
    return changes[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no images", r"holds the keys \['class_dict'\], but image_data and class_dict are needed"),
        ("a list", "holds a list, but"),
        ("floats", r"has float64 \(20, 84, 84, 3\) as image_data, but uint8"),
        ("grey", r"has uint8 \(20, 84, 84, 1\) as image_data, but uint8"),
        ("too far", "counts images from 0 to 10000, but has 20, which are 0 to 19"),
        ("below 0", "counts images from -3 to 0, but has 20"),
        ("no pixels", r"has images without pixels as image_data: \(20, 0, 84, 3\)"),
        ("one name", "has the same 'label 007' for two classes, 7 and 'label 007', in class_dict"),
        ("twice", "has an image in two classes, or twice in one"),
        ("no lists", "has something else than lists of whole numbers in class_dict"),
        ("no classes", "has no classes"),
        ("few labels", r"has int64 \(2,\) as labels, but 20 are needed"),
        ("real labels", "has labels of dtype float64, but whole numbers or texts are needed"),
        ("no name", "has the label 5, which catname2label does not name"),
        ("one label", "has the same 5 for two classes, 'n1' and 'n2', in catname2label"),
        ("one absent label", "has the same 6 for two classes, 'n2' and 'n3', in catname2label"),
        ("one text", "has the same '1' for two classes, 1 and '1', in catname2label"),
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
        "16 bits": lambda: Image.fromarray(np.full((84, 84), 999, np.uint16)).save(files[3]),
        "floats": lambda: (
            files[3].unlink(),
            Image.fromarray(np.ones((84, 84), np.float32)).save(files[3], format="TIFF"),
        ),
        "dangling link": lambda: (files[3].unlink(), files[3].symlink_to("gone.png")),
        "dangling class": lambda: (folder / "val" / "n1").symlink_to("gone"),
        "split is a file": lambda: (
            (folder / "val").rename(folder / "valid"),
            (folder / "val").write_text(""),
        ),
        "csv dangling link": lambda: (files[3].unlink(), files[3].symlink_to("gone.png")),
        "csv images is a file": lambda: (
            (folder / "images").rename(folder / "all"),
            (folder / "images").write_text(""),
        ),
        "csv is a folder": lambda: (table.unlink(), table.mkdir()),
        "none in a class": lambda: [
            path.unlink() for path in max((folder / "test").iterdir()).iterdir()
        ],
        "missing split": lambda: (folder / "val").rename(folder / "held_out"),
        "empty split": lambda: [f.rename(folder / f.name) for f in (folder / "val").iterdir()],
        "in two splits": lambda: next((folder / "val").iterdir()).rename(
            folder / "val" / next((folder / "test").iterdir()).name
        ),
        "csv names no file": lambda: (folder / "images" / rows[4].split(",")[0]).unlink(),
        "csv leads out": lambda: table.write_text(f"{rows[0]}\n../secret.png,n1\n"),
        "csv twice": lambda: table.write_text("\n".join([*rows, rows[1]])),
        "csv without columns": lambda: table.write_text("\n".join(rows[1:])),
        "csv half a row": lambda: table.write_text("\n".join([*rows, "x.png"])),
        "csv empty cell": lambda: table.write_text("\n".join([*rows, "x.png,"])),
        "csv no rows": lambda: table.write_text("filename,label\n"),
        "csv empty": lambda: table.write_text(""),
        "csv is a pipe": lambda: (table.unlink(), os.mkfifo(table)),
        "csv is a web page": lambda: table.write_text("<!DOCTYPE html>"),
        "csv which of two": lambda: (
            [
                (
                    (folder / "images" / name).mkdir(),
                    shutil.copy(files[3], folder / "images" / name / "x.png"),
                )
                for name in "ab"
            ],
            (folder / "train.csv").write_text("filename,label\nx.png,n1\n"),
        ),
        "csv no text": lambda: table.write_bytes(b"\xff\xfe\x00"),
        "csv missing": table.unlink if rows else None,
    }
    actions[kind]()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("not an image", r"\w+/n\d+/n\d+\.png is a text, not an image; copy it again"),
        ("truncated image", r"\w+/n\d+/n\d+\.png is not a whole image \(.*copy it again"),
        ("16 bits", r"\w+/n\d+/n\d+\.png has pixels of more than 8 bits \(Pillow's mode I;16\)"),
        ("floats", r"\w+/n\d+/n\d+\.png has pixels of more than 8 bits \(Pillow's mode F\)"),
        (
            "dangling link",
            r"\w+/n\d+/n\d+\.png links to gone\.png, which is not there; copy the data",
        ),
        ("dangling class", "val/n1 links to gone, which is not there; copy the data set itself"),
        ("split is a file", "val is a file, but a folder is needed; copy the data set again"),
        ("csv dangling link", r"images/n\d+\.png links to gone\.png, which is not there"),
        ("csv images is a file", "images is a file, but a folder is needed"),
        ("csv is a folder", r".*val\.csv is a folder, but a file is needed"),
        ("csv is a pipe", r".*val\.csv is a named pipe, but a file is needed"),
        ("csv is a web page", r".*val\.csv is no CSV file; it is a web page, saved under this"),
        ("none in a class", r"the class test/n\d+ has no images; copy the data set again"),
        ("missing split", "it holds train, test but not val; put it beside the rest"),
        ("empty split", "val holds no class folders"),
        ("in two splits", r"the class n\d+ is in two splits, test and validation"),
        ("csv which of two", r"line 2 of train.csv names x.png which is both a/x.png and b/x.png"),
        ("csv names no file", r"line 5 of val.csv names n\d+.png which is not an image in images/"),
        ("csv leads out", r"line 2 of val.csv names \.\./secret.png which is not an image"),
        ("csv twice", r"line 42 of val.csv names n\d+.png a second time"),
        ("csv without columns", "val.csv has the columns .*, but filename and label are needed"),
        ("csv half a row", "line 42 of .*val.csv has 1 cells, but the first line names 2 columns"),
        ("csv empty cell", "line 42 of val.csv has an empty cell; copy it again"),
        ("csv no rows", "val.csv has no rows; copy it again"),
        ("csv empty", ".*val.csv is empty; a first line with the names of the columns"),
        ("csv no text", "line 1 of .*val.csv is not UTF-8 .byte 0xff at 1.; save the file again"),
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


# The same images in two splits.


@pytest.mark.parametrize("count", [COUNT // 2, COUNT // 2 + 1])
@pytest.mark.parametrize("form", ["folders", "pickles"])
def test_over_half_of_a_class_in_another_split_is_refused(tmp_path, form, count):
    parts = photographs(classes=2)
    (_, trained), (tested, _) = parts["train"], parts["test"]
    parts["test"][tested][-count:] = parts["train"][trained][:count]
    if form == "folders":
        write_folders(tmp_path, parts)
    else:
        write(tmp_path, {part: cached(parts[part]) for part in PARTS})
    if 2 * count <= COUNT:
        mini_imagenet(root=str(tmp_path))
        return
    assert refusal(tmp_path).startswith(
        f"root={tmp_path}: {count} of the {COUNT} images of the class test/{tested} are also in "
        f"the class train/{trained}, hence in two splits, so test scores would mean nothing"
    )


def test_the_same_numbered_classes_in_two_splits_are_refused(tmp_path):
    parts = photographs(classes=2)
    contents = {part: cached(parts[part]) for part in PARTS}
    contents["val"]["image_data"] = contents["train"]["image_data"].copy()
    for content, (file,) in zip(contents.values(), PICKLES[1], strict=True):
        older = {"data": content["image_data"], "labels": [0, 1] * COUNT}
        (tmp_path / file).write_bytes(pickle.dumps(older))
    assert re.search(
        "20 of the 20 images of the class validation/label 000 are also in the class "
        "train/label 000,",
        refusal(tmp_path),
    )
