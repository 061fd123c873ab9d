"""Folders of a person's own images: what is read, what is refused and in which words."""

import os
import zlib

import numpy as np
import pytest
from PIL import Image

from src.data.image_files import Header
from src.prediction.folders import (
    INVERT,
    are_inverted,
    read_folders,
    shared_images,
)

GREY = Header(8, 8, 1)


def put(path, value=0, size=(8, 8), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size, "white")
    image.putpixel((1, 2), value)
    image.save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Two classes with two and one image, and three queries."""
    for name in ("cat/a.png", "cat/b.png", "dog/a.png"):
        put(tmp_path / "support" / name, value=len(name) + ord(name[-5]))
    for number in range(3):
        put(tmp_path / "query" / f"{number}.png", value=number)
    return tmp_path


def read(root, support="support", query="query", header=GREY):
    return read_folders(str(root / support), str(root / query), header)


def test_classes_are_numbered_by_their_names(folders):
    found = read(folders)
    assert found.classes == ("cat", "dog")
    assert found.support.files == ("cat/a.png", "cat/b.png", "dog/a.png")
    assert found.support.labels.tolist() == [0, 0, 1]
    assert found.query.files == ("0.png", "1.png", "2.png")
    assert found.query.labels is None
    assert found.query.images.shape == (3, 8, 8, 1)
    assert found.query.images[2, 2, 1, 0] == 2
    assert shared_images(found) == 0


def test_queries_in_class_folders_have_labels(folders):
    put(folders / "known" / "dog" / "x.png")
    put(folders / "known" / "cat" / "y.png")
    found = read(folders, query="known")
    assert found.query.files == ("cat/y.png", "dog/x.png")
    assert found.query.labels.tolist() == [0, 1]
    assert shared_images(read(folders, query="support")) == 3


def test_what_systems_leave_behind_is_no_class(folders):
    for name in (".DS_Store", "Thumbs.db", "cat/.DS_Store", "dog/desktop.ini"):
        (folders / "support" / name).write_bytes(b"x")
    (folders / "support" / "__MACOSX").mkdir()
    (folders / "support" / "@eaDir").mkdir()
    assert read(folders).classes == ("cat", "dog")


def test_images_are_brought_to_the_size_and_the_channels_of_the_run(folders):
    put(folders / "query" / "large.jpg", (255, 0, 0), size=(30, 20), mode="RGB")
    put(folders / "query" / "seen_through.png", (0, 0, 0, 0), size=(9, 9), mode="RGBA")
    for header in (GREY, Header(5, 6, 3)):
        found = read(folders, header=header)
        assert found.query.images.shape == (5, *header)
        assert found.query.images[3:].min() > 100  # transparent is white, not black


@pytest.mark.parametrize("own", [20, 235])
@pytest.mark.parametrize("trained", [20, 235])
def test_drawings_are_inverted_where_their_paper_differs(own, trained):
    images, theirs = (np.full((3, 6, 6, 1), value, np.uint8) for value in (own, trained))
    images[:, 2:4, 2:4] = 255 - own
    assert are_inverted(images, theirs, "auto") == (own != trained)
    assert are_inverted(images, theirs, "true")
    assert not are_inverted(images, theirs, "false")
    colour = images.repeat(3, axis=-1)
    assert not are_inverted(colour, colour, "auto")
    assert INVERT == ("auto", "true", "false")


def empty_class(root):
    (root / "support" / "eel").mkdir()


def one_class(root):
    for path in (root / "support" / "dog").iterdir():
        path.unlink()
    (root / "support" / "dog").rmdir()


def image_beside(root):
    put(root / "support" / "loose.png")


def folder_inside(root):
    put(root / "support" / "cat" / "more" / "c.png")


def text(root):
    (root / "support" / "cat" / "notes.txt").write_text("my notes\n")


def page(root):
    (root / "query" / "page.png").write_text("<!DOCTYPE html><html>")


def cut(root):
    path = put(root / "query" / "cut.png", size=(64, 64))
    path.write_bytes(path.read_bytes()[:60])


def deep(root):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "query" / "deep.png")


def pipe(root):
    os.mkfifo(root / "query" / "pipe.png")


def dangling(root):
    (root / "query" / "link.png").symlink_to(root / "gone.png")


def bomb(root):
    """A header that promises 16 GB of pixels."""
    path = put(root / "query" / "bomb.png")
    content = bytearray(path.read_bytes())
    content[16:24] = (65535).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))


def unknown_class(root):
    for path in (root / "query").iterdir():
        path.unlink()
    put(root / "query" / "cats" / "a.png")


def mixed(root):
    put(root / "query" / "cat" / "a.png")


def no_query(root):
    for path in (root / "query").iterdir():
        path.unlink()


def empty_query_class(root):
    no_query(root)
    (root / "query" / "cat").mkdir()


def no_support(root):
    (root / "support").rename(root / "elsewhere")


def support_is_a_file(root):
    no_support(root)
    put(root / "support.png").rename(root / "support")


def flat_support(root):
    no_support(root)
    put(root / "support" / "a.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (empty_class, "support=.*: the class eel has no images; put one into its folder"),
        (one_class, "support=.*: it holds one class, cat, .* put there another folder"),
        (image_beside, "support=.*: loose.png stands beside the folders of the classes"),
        (folder_inside, "support=.*: cat holds a folder, more, where images are expected"),
        (text, "support=.*: cat/notes.txt is a text, not an image"),
        (no_support, "support=.*: it is not there, but a folder is needed"),
        (support_is_a_file, "support=.*: it is a file, but a folder is needed"),
        (flat_support, "support=.*: it holds no folders; put there one folder of images for each"),
        (page, "query=.*: page.png is a web page, not an image"),
        (cut, "query=.*: cut.png is not a whole image"),
        (deep, "query=.*: deep.png has pixels of more than 8 bits .* save it again with 8 bits"),
        (pipe, "query=.*pipe.png is a named pipe"),
        (dangling, "query=.*link.png cannot be read: No such file"),
        (bomb, "query=.*: bomb.png has more than 64,000,000 pixels; save it again with fewer"),
        (unknown_class, "query=.*: cats is not a class of support: did you mean cat?"),
        (mixed, r"query=.*: it holds images \(0.png\) and folders \(cat\); put all images into"),
        (no_query, "query=.*: it holds no images"),
        (empty_query_class, "query=.*: its folders hold no images"),
    ],
)
def test_refusals(spoil, message, folders):
    spoil(folders)
    with pytest.raises(ValueError, match=f"^{message}"):
        read(folders)


def test_too_many_images_are_refused(folders, monkeypatch):
    monkeypatch.setattr("src.prediction.folders.MAX_IMAGES", 2)
    with pytest.raises(ValueError, match=r"support=.* holds 3 images, over the limit of 2; split"):
        read(folders)
