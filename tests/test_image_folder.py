"""Class folders of one's own images: what is read, how it is split, what is refused."""

import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from src.data import image_folder as module
from src.data.forms import convert
from src.data.image_classes import SPLITS, ImageClasses
from src.data.image_folder import image_folder
from src.data.labelled import LabelledImages
from tests.own_files import FOLDER_OPTIONS, write_images


def load(folder, **options):
    return image_folder(root=str(folder), **{**FOLDER_OPTIONS, **options})


def refusal(folder, **options):
    with pytest.raises(ValueError, match=r"^(root|size|width|split_file)") as refused:
        load(folder, **options)
    return str(refused.value)


def names_in(data, split):
    return {data.names[i] for i in data.splits[split]}


# What is read.


@pytest.mark.parametrize("around", ["", "one more", "one/and/another"])
def test_a_folder_is_a_class(tmp_path, around):
    images = write_images(tmp_path / around, ["cat", "dog", "ant"])
    for left in ("__MACOSX", "@eaDir", ".hidden", "cat/@eaDir"):
        (tmp_path / around / left).mkdir()
    for left in ("Thumbs.db", ".DS_Store", "cat/Thumbs.db", "cat/._0.png", "desktop.ini"):
        (tmp_path / around / left).write_bytes(b"left by a system")
    data = load(tmp_path)
    assert data.names == ("ant", "cat", "dog")
    assert data.inputs.dtype == np.uint8
    for label, name in enumerate(data.names):
        np.testing.assert_array_equal(data.inputs[data.labels == label], images[name])
    assert data.origins[6] == "cat/0.png"


def test_alphabets_of_class_folders(tmp_path):
    write_images(tmp_path, ["greek/alpha", "greek/beta", "latin/a"])
    assert load(tmp_path).names == ("greek/alpha", "greek/beta", "latin/a")


def test_size_and_channels_are_those_of_the_files_or_set(tmp_path):
    write_images(tmp_path, ["a", "b"], shape=(5, 4, 1))
    assert load(tmp_path).inputs.shape == (12, 5, 4, 1)
    assert load(tmp_path, channels=3).inputs.shape == (12, 5, 4, 3)
    assert load(tmp_path, size=7).inputs.shape == (12, 7, 7, 1)
    assert load(tmp_path, size=7, width=2).inputs.shape == (12, 7, 2, 1)
    colour = write_images(tmp_path, ["c"], shape=(9, 8, 3))["c"]
    assert "the images have 2 sizes (a/0.png is 5x4, c/0.png 9x8)" in refusal(tmp_path)
    data = load(tmp_path, size=9, width=8)
    assert data.inputs.shape == (18, 9, 8, 3)
    np.testing.assert_array_equal(data.inputs[data.labels == 2], colour)


def test_images_are_upright_and_on_white(tmp_path):
    write_images(tmp_path, ["a", "b"], each=3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    lying = np.zeros((4, 5, 3), np.uint8)
    lying[0] = 255
    Image.fromarray(lying).save(tmp_path / "a" / "0.png", exif=exif)
    Image.new("RGBA", (4, 5), (9, 9, 9, 0)).save(tmp_path / "a" / "1.png")
    data = load(tmp_path)
    np.testing.assert_array_equal(data.inputs[0], np.rot90(lying, -1))
    assert (data.inputs[1] == 255).all()


def test_a_file_that_is_not_read_and_a_copy_are_told(tmp_path):
    write_images(tmp_path, ["a", "b"])
    (tmp_path / "a" / "photo.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"the class a holds photo.heic, not read: images end in"):
        load(tmp_path)
    (tmp_path / "a" / "photo.heic").unlink()
    (tmp_path / "a" / "9.png").write_bytes((tmp_path / "b" / "2.png").read_bytes())
    told = r"an image is there more than once \(b/2.png is the same as a/9.png\), so a test may"
    with pytest.warns(UserWarning, match=told):
        load(tmp_path)


def test_many_images_are_decoded_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "KEPT_FROM", 12)
    write_images(tmp_path / "data", ["a", "b"])
    first, second = (load(tmp_path / "data") for _ in range(2))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert capsys.readouterr().err.count("decoding 12 images once") == 1
    assert load(tmp_path / "data", size=3).inputs.shape == (12, 3, 3, 3)


def test_other_images_of_the_same_names_sizes_and_times_are_decoded(tmp_path, monkeypatch):
    """As an archive leaves them, or an edit in place by a program that keeps the time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "KEPT_FROM", 2)

    def put(root, value):
        for i, name in enumerate(("a", "b")):
            path = root / name / "0.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), value - i).save(path)
            os.utime(path, ns=(10**18, 10**18))
        return load(root).inputs.max()

    found = [put(tmp_path / name, value) for name, value in (("x", 10), ("y", 20), ("x", 30))]
    assert found == [10, 20, 30]


def png_of_16_bits(kind, channels):
    rows = b"".join(b"\0" + np.arange(4 * channels, dtype=">u2").tobytes() for _ in range(4))

    def chunk(name, content):
        sum_of = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum_of

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(bits):
    """2x2 pixels in colour."""
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 12 * bits // 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return start + struct.pack("<3H", bits, bits, bits) + bytes(12 * bits // 8)


DEEP = {
    "colour.png": (png_of_16_bits(2, 3), True),
    "grey and alpha.png": (png_of_16_bits(4, 2), True),
    "colour and alpha.png": (png_of_16_bits(6, 4), True),
    "colour.ppm": (b"P6 2 2 65535\n" + bytes(24), True),
    "shallow.ppm": (b"P6 2 2 255\n" + bytes(12), False),
    "colour.tif": (tiff(16), True),
    "shallow.tif": (tiff(8), False),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_refused_where_pillow_would_cut_them(tmp_path, name):
    content, deep = DEEP[name]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / name).write_bytes(content)
    Image.new("RGB", (2, 2), "white").save(tmp_path / "b" / "1.png")
    if deep:
        assert f"a/{name} has pixels of more than 8 bits" in refusal(tmp_path, size=2)
    else:
        assert load(tmp_path, size=2).inputs.shape == (2, 2, 2, 3)


# How it is split.


def test_classes_or_images_are_shared_out(tmp_path):
    write_images(tmp_path, [f"c{i}" for i in range(10)])
    classes = convert(load(tmp_path), ImageClasses)
    assert [len(classes.splits[split]) for split in SPLITS] == [4, 3, 3]
    fewer = convert(load(tmp_path, split_sizes=(5, 2, None)), ImageClasses)
    assert [len(fewer.splits[split]) for split in SPLITS] == [5, 2, 3]
    images = convert(load(tmp_path, split_sizes=(3, 1, 2)), LabelledImages)
    assert [len(images.labels[split]) for split in SPLITS] == [30, 10, 20]


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "validation", "Test")])
def test_folders_of_splits(tmp_path, words):
    for i, word in enumerate(words):
        write_images(tmp_path / word, [f"c{2 * i}", f"c{2 * i + 1}"], seed=i)
    classes = convert(load(tmp_path), ImageClasses)
    assert [names_in(classes, split) for split in SPLITS] == [
        {"c0", "c1"},
        {"c2", "c3"},
        {"c4", "c5"},
    ]
    with pytest.raises(ValueError, match="no class is in all of train, validation, test"):
        convert(load(tmp_path), LabelledImages)


def test_without_a_validation_folder_it_is_cut_from_train(tmp_path):
    write_images(tmp_path / "train", ["a", "b"])
    write_images(tmp_path / "test", ["a", "b"], seed=1)
    data = convert(load(tmp_path), LabelledImages)
    assert [len(data.labels[split]) for split in SPLITS] == [6, 6, 12]
    assert all(origin.startswith("test/") for origin in data.origins["test"])
    with pytest.raises(ValueError, match="the class a is among the samples for train and val"):
        convert(load(tmp_path), ImageClasses)


def test_a_csv_file_gives_the_splits(tmp_path):
    folder, table = tmp_path / "data", tmp_path / "splits.csv"
    write_images(folder, "abcd")
    table.write_text("class,split\na,train\nb,Val\nc,test\nd,train\n", encoding="utf-8")
    classes = convert(load(folder, split_file=str(table)), ImageClasses)
    assert [names_in(classes, split) for split in SPLITS] == [{"a", "d"}, {"b"}, {"c"}]
    rows = [
        f"{c}/{i}.png;{('train', 'validation', 'test')[i % 3]}" for c in "abcd" for i in range(6)
    ]
    table.write_text("\n".join(["filename;split", *rows]), encoding="utf-8")
    data = convert(load(folder, split_file=str(table)), LabelledImages)
    assert data.origins["test"][:2] == ("a/2.png", "a/5.png")


# What is refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,split\na,train\nb,test\n", "it does not name c; add a line for each"),
        ("class,split\nz,train\n", "line 2 names z, which is no class in"),
        ("filename,split\na/9.png,train\n", "line 2 names a/9.png, which is no image in"),
        ("class,split\na,foo\n", "line 2 has the split 'foo'; write train, validation or test"),
        ("class,split\na,train\na,test\n", "line 3 gives a a second split"),
        ("class,split\na,test\nb,test\nc,test\n", "it has no line with the split train"),
        ("a,b\n1,2\n", "it has the columns a, b, but class and split are needed"),
        ("", "is empty; a first line with the names"),
        ("class,split\na\n", "has 1 cells, but the first line names 2 columns"),
        ("class,class\na,b\n", "has the column class twice"),
        ("<html><p>", "is no CSV file; it is a web page, saved under this name: download the file"),
        (b"class,split\n\xe9,train\n", "is not UTF-8 (byte 0xe9 at 1); save the file again"),
    ],
)
def test_a_split_file_of_another_form(tmp_path, text, message):
    write_images(tmp_path / "data", "abc")
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "s.csv").write_bytes(content)
    found = refusal(tmp_path / "data", split_file=str(tmp_path / "s.csv"))
    assert found.startswith("split_file")
    assert message in found


def spoil(kind, folder):
    write_images(folder, "ab")
    image = folder / "a" / "0.png"
    actions = {
        "no classes": lambda: [path.rename(folder / path.name) for path in folder.glob("a/*")],
        "empty class": lambda: (folder / "c").mkdir(),
        "class without images": lambda: (
            (folder / "c").mkdir(),
            (folder / "c/r.txt").write_text(""),
        ),
        "a web page": lambda: image.write_bytes(b"<!DOCTYPE html>"),
        "cut": lambda: image.write_bytes(image.read_bytes()[:40]),
        "16 bits": lambda: Image.fromarray(np.ones((5, 4), np.uint16)).save(image),
        "pages": lambda: Image.new("L", (4, 5)).save(
            folder / "a" / "x.tif", save_all=True, append_images=[Image.new("L", (4, 5))]
        ),
        "too many pixels": lambda: Image.new("L", (9000, 8000)).save(image),
        "a bomb": lambda: Image.new("1", (20_000, 20_000)).save(image),
        "mixed": lambda: write_images(folder / "a", ["inside"]),
        "loop": lambda: ((folder / "c").mkdir(), (folder / "c" / "again").symlink_to(folder / "c")),
        "class gone": lambda: (folder / "c").symlink_to("nowhere"),
        "image gone": lambda: (image.unlink(), image.symlink_to("nowhere")),
        "a pipe": lambda: (image.unlink(), os.mkfifo(image)),
        "splits and classes": lambda: write_images(folder / "train", ["c"]),
        "no train": lambda: move_classes(folder, "test"),
        "two for one": lambda: (
            move_classes(folder, "train"),
            write_images(folder / "val", "c"),
            write_images(folder / "valid", "d"),
        ),
    }
    actions[kind]()


def move_classes(folder, split):
    (folder / split).mkdir()
    for name in "ab":
        (folder / name).rename(folder / split / name)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no classes", "holds images that are in no class (0.png); put the images of each class"),
        ("empty class", "the class folder c holds no images: files that end in .jpg"),
        ("class without images", "the class folder c holds no images but r.txt: files that end"),
        ("a web page", "a/0.png is a web page, not an image; copy it again, or remove it"),
        ("cut", "a/0.png is not a whole image ("),
        ("16 bits", "a/0.png has pixels of more than 8 bits (Pillow's mode I;16)"),
        ("pages", "a/x.tif holds 2 pictures (an animation or several pages)"),
        ("too many pixels", "a/0.png has 9000x8000 pixels, over the limit of 64,000,000"),
        ("a bomb", "a/0.png has more than 64,000,000 pixels; save it again with fewer"),
        ("mixed", "a holds images and folders (0.png, inside/), and which of them are classes"),
        ("loop", "is too deep below"),
        ("class gone", "c links to nowhere, which is not there; copy the data set itself"),
        ("image gone", "a/0.png links to nowhere, which is not there"),
        ("a pipe", "a/0.png is a named pipe, but a file is needed"),
        ("splits and classes", "holds train/ and a, b: are they splits or classes?"),
        ("no train", "holds test/ but no train/; put it beside it"),
        ("two for one", "holds val and valid, both for validation; remove one"),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, kind, message):
    spoil(kind, tmp_path)
    found = refusal(tmp_path)
    assert found.startswith("root")
    assert message in found


def test_options_that_cannot_be_had(tmp_path, monkeypatch):
    write_images(tmp_path, "ab")
    assert refusal(tmp_path, size=0) == "size=0 must be at least 1; choose for example size=84"
    assert refusal(tmp_path, width=5) == "width=5 needs the height too; choose data.size=5"
    found = refusal(tmp_path, size=90_000)
    assert re.match(r"size=90000: 12 images of 90000x90000x3 would fill 271.* GiB", found)
    assert "is not a folder: put the images of each class" in refusal(tmp_path / "none")
    assert "no path" in refusal("x" * 5000)
    (tmp_path / "empty").mkdir()
    assert "holds no class folders; put the images" in refusal(tmp_path / "empty")
    (tmp_path / "empty").rmdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~").names == ("a", "b")
    with pytest.raises(ValueError, match=r"^root is not set: name a folder with data.root=FOLDER"):
        image_folder(root=None, **FOLDER_OPTIONS)
