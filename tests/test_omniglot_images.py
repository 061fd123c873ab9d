"""Omniglot from the official archives and from their folders: the same arrays, or one message."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from src.data.image_classes import ImageClasses, add_rotations
from src.data.omniglot import omniglot
from src.data.omniglot_images import OFFICIAL

SIZES = (4, 2, 2)
CLASSES = [f"Alphabet_{a}/character{c:02d}" for a in "BA" for c in (1, 2, 3, 4)]


def png(array, claimed=None):
    """The content of a file; `claimed`: another size that its header says."""
    stream = io.BytesIO()
    Image.fromarray(array).convert("1").save(stream, format="png")
    content = stream.getvalue()
    if claimed is not None:
        header = b"IHDR" + struct.pack(">II", *claimed) + content[24:29]
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    return content


def drawings(size=105):
    """{part: {"Alphabet/character/file.png": bytes}}: one alphabet in each part."""
    generator = np.random.default_rng(0)
    files = {part: {} for part in OFFICIAL}
    for i, name in enumerate(CLASSES):
        for j in range(3):
            array = np.where(generator.random((size, size)) < 0.2, 0, 255).astype(np.uint8)
            files[OFFICIAL[i // 4]][f"{name}/{i:04d}_{j:02d}.png"] = png(array)
    return files


def write_zips(folder, files):
    for part, contents in files.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr(f"__MACOSX/{part}/._x", b"junk")
            for name in reversed(contents):
                archive.writestr(f"{part}/{name}", contents[name])


def write_folders(folder, files):
    for part, contents in files.items():
        for name, content in contents.items():
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def load(folder, **options):
    return omniglot(root=str(folder), split_sizes=SIZES, **options)


def test_zip_and_folders_give_the_same_bits(tmp_path):
    files = drawings()
    for name, write in (("zip", write_zips), ("folders", write_folders)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, files)
    zipped, unpacked = load(tmp_path / "zip"), load(tmp_path / "folders")
    np.testing.assert_array_equal(zipped.images, unpacked.images)
    assert zipped.names == unpacked.names == tuple(sorted(CLASSES))
    for split in zipped.splits:
        np.testing.assert_array_equal(zipped.splits[split], unpacked.splits[split])
    assert zipped.images.shape == (8, 3, 28, 28, 1)
    # One part zipped and the other not is fine too.
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_zips(mixed, {OFFICIAL[0]: files[OFFICIAL[0]]})
    write_folders(mixed, {OFFICIAL[1]: files[OFFICIAL[1]]})
    np.testing.assert_array_equal(load(mixed).images, zipped.images)


def test_drawings_are_averaged_down_with_ink_at_255(tmp_path):
    files = drawings()
    array = np.full((105, 105), 255, np.uint8)
    array[:52] = 0  # the upper half is ink
    files[OFFICIAL[1]]["Alphabet_A/character01/0004_00.png"] = png(array)
    write_zips(tmp_path, files)
    data = load(tmp_path)
    half = data.images[data.names.index("Alphabet_A/character01"), 0, ..., 0]
    assert half[:13].min() == 255
    assert half[15:].max() == 0


def test_boml_s_resized_folder_is_read_as_it_is(tmp_path):
    files = drawings(size=28)
    resized = {"omniglot_resized": {**files[OFFICIAL[0]], **files[OFFICIAL[1]]}}
    write_folders(tmp_path, resized)
    data = load(tmp_path)
    name = "Alphabet_B/character02"
    with Image.open(io.BytesIO(resized["omniglot_resized"][f"{name}/0001_02.png"])) as image:
        expected = 255 - np.asarray(image.convert("L"))
    np.testing.assert_array_equal(data.images[data.names.index(name), 2, ..., 0], expected)


# Layouts in which people have it.


def inside(folder, part):
    """A second unzip put the folder into itself."""
    return {part: {f"{part}/{name}": content for name, content in folder.items()}}


@pytest.mark.parametrize(
    "layout",
    ["clone", "clone in a folder", "torchvision", "doubled", "doubled zip", "alphabets", "both"],
)
def test_every_layout_gives_the_same(tmp_path, layout):
    files = drawings()
    (tmp_path / "plain").mkdir()
    write_zips(tmp_path / "plain", files)
    expected = load(tmp_path / "plain")
    root = tmp_path / "root"
    place = {
        "clone": "python",
        "clone in a folder": "omniglot/python",
        "torchvision": "omniglot-py",
    }
    (root / place.get(layout, "")).mkdir(parents=True)
    if layout in ("clone", "clone in a folder"):
        base = root / place[layout]
        write_zips(base, files)
        for other in ("strokes_background.zip", "images_background_small1.zip"):
            (base / other).write_bytes(b"of the repository")
    if layout == "torchvision":
        write_zips(root / "omniglot-py", files)
        write_folders(root / "omniglot-py", files)
    if layout in ("doubled", "both"):
        for part, contents in files.items():
            write_folders(root, inside(contents, part))
    if layout == "both":
        write_folders(root, files)
    if layout == "doubled zip":
        for part, contents in files.items():
            write_zips(root, inside(contents, part))
    if layout == "alphabets":
        for contents in files.values():
            write_folders(root, {".": contents})
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        (folder / "@eaDir").mkdir()
        (folder / ".DS_Store").write_bytes(b"")
        (folder / "Thumbs.db").write_bytes(b"")
    found = load(root)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.images, expected.images)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 3, 28, 28), np.uint8)}, "has no member characters"),
        (
            {"images": np.zeros((2, 3, 28, 28)), "characters": ["a", "b"]},
            "is float64 .2, 3, 28, 28",
        ),
        (
            {"images": np.zeros((2, 3, 28, 28), np.uint8), "characters": [1, 2]},
            "is int64 .2,., but",
        ),
        ({"images": np.zeros((2, 3, 28, 28), np.uint8), "characters": ["a", "a"]}, "a class twice"),
        ({"images": np.zeros(2, object), "characters": ["a", "b"]}, "holds Python objects, which"),
    ],
)
def test_a_file_of_arrays_of_another_form(tmp_path, arrays, message):
    np.savez(tmp_path / "omniglot28.npz", **arrays)
    with pytest.raises(ValueError, match=f"^root.*{message}"):
        load(tmp_path)


def test_members_that_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "omniglot28.npz", "w") as archive:
        archive.writestr("images.npy", b"no array")
    with pytest.raises(ValueError, match=r"^root.*the member images.npy of .* is no array"):
        load(tmp_path)


def damaged(kind, folder):
    files = drawings()
    first = next(iter(files[OFFICIAL[0]]))
    if kind == "one part is missing":
        del files[OFFICIAL[1]]
    if kind == "not an image":
        files[OFFICIAL[0]][first] = b"not a png"
    if kind == "truncated image":
        files[OFFICIAL[0]][first] = files[OFFICIAL[0]][first][:60]
    if kind == "wrong size":
        files[OFFICIAL[0]][first] = png(np.zeros((64, 64), np.uint8))
    if kind == "a bomb of pixels":
        files[OFFICIAL[0]][first] = png(np.zeros((1, 1), np.uint8), (30_000, 30_000))
    if kind == "a bomb of bytes":
        files[OFFICIAL[0]][first] = bytes(2**21)
    if kind == "a drawing is missing":
        del files[OFFICIAL[0]][first]
    if kind == "no classes":
        files = {part: {"readme.png": b""} for part in OFFICIAL}
    if kind in ("empty class folder", "no classes"):
        write_folders(folder, files)
    else:
        write_zips(folder, files)
    if kind == "empty class folder":
        (folder / OFFICIAL[0] / "Alphabet_B" / "character09").mkdir()
    if kind == "a web page":
        (folder / f"{OFFICIAL[0]}.zip").write_bytes(b"<!DOCTYPE html>")
    if kind == "encrypted":
        path = folder / f"{OFFICIAL[0]}.zip"
        content = path.read_bytes()
        name = f"{OFFICIAL[0]}/{first}".encode()
        # The flags of the file's own header, and of its entry in the directory.
        for place in (content.index(name) - 24, content.rindex(name) - 38):
            content = content[:place] + b"\1" + content[place + 1 :]
        path.write_bytes(content)
    if kind == "a pipe":
        (folder / f"{OFFICIAL[0]}.zip").unlink()
        os.mkfifo(folder / f"{OFFICIAL[0]}.zip")
    if kind == "truncated zip":
        path = folder / f"{OFFICIAL[0]}.zip"
        path.write_bytes(path.read_bytes()[:-200])
    if kind == "nothing":
        for path in folder.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "holds none of images_background.*download images_background.zip"),
        ("one part is missing", "holds images_background.zip but no images_evaluation"),
        ("not an image", "character01/0000_00.png is a text, not an image"),
        ("truncated image", "character01/0000_00.png is not a whole image .*unpack it again"),
        ("a bomb of pixels", "character01/0000_00.png has more than 64,000,000 pixels"),
        ("a bomb of bytes", "0000_00.png in .*background.zip unpacks to 2 MiB, but a drawing has"),
        ("encrypted", "images_background.zip is not a whole zip file .*encrypted"),
        (
            "a web page",
            "not a whole zip file .*; it is a web page, saved under this name: download",
        ),
        ("a pipe", "images_background.zip is a named pipe, but a file is needed"),
        ("wrong size", "0000_00.png is 64x64"),
        ("a drawing is missing", "Alphabet_B/character01 has 2 drawings where others have 3"),
        ("empty class folder", "Alphabet_B/character09 has 0 drawings"),
        ("no classes", r"no alphabet/character/\*.png"),
        ("truncated zip", "images_background.zip is not a whole zip file"),
    ],
)
def test_what_is_damaged_is_named(kind, message, tmp_path):
    damaged(kind, tmp_path)
    with pytest.raises(ValueError, match=message) as refused:
        load(tmp_path)
    assert str(refused.value).startswith("root")


def test_rotations_are_classes_of_the_same_split(tmp_path):
    write_zips(tmp_path, drawings())
    plain, turned = load(tmp_path), load(tmp_path, rotations=True)
    assert len(turned.names) == 4 * len(plain.names)
    assert list(turned.names) == sorted(turned.names)
    for split, chosen in plain.splits.items():
        originals = {plain.names[i] for i in chosen}
        assert {"/".join(turned.names[i].split("/")[:2]) for i in turned.splits[split]} == originals
        assert len(turned.splits[split]) == 4 * len(chosen)
    i = turned.names.index(f"{CLASSES[0]}/turned090")
    original = plain.images[plain.names.index(CLASSES[0])]
    np.testing.assert_array_equal(turned.images[i, 1, ..., 0], np.rot90(original[1, ..., 0]))


def test_four_turns_of_each_class():
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
    classes = ImageClasses(images, ("a/1", "a/2"), {"train": np.array([1]), "test": np.array([0])})
    turned = add_rotations(classes)
    np.testing.assert_array_equal(turned.images[::4], images)
    np.testing.assert_array_equal(turned.images[2], images[0, :, ::-1, ::-1])
    assert turned.splits["train"].tolist() == [4, 5, 6, 7]
