"""What a file is and would take is known before it is read: texts, packed files, archives."""

import bz2
import gzip
import io
import lzma
import os
import re
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from src.data import checked_files as module
from src.data.array_pickle import read_pickle
from src.data.checked_files import kind_of, read_bytes, read_lines
from src.data.csv_text import read_csv
from src.data.npz import names_in, read_npz


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_plain_and_packed(tmp_path, packed):
    (tmp_path / "a").write_bytes(packed("eins\nzwei ü\n".encode()))
    assert read_bytes(tmp_path / "a") == "eins\nzwei ü\n".encode()
    assert list(read_lines(tmp_path / "a")) == [(1, "eins\n"), (2, "zwei ü\n")]


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(2**24)))
    assert (tmp_path / "bomb").stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"bomb holds more than 1 MiB, the most that is read"):
        read_bytes(tmp_path / "bomb", limit=2**20)
    (tmp_path / "lines").write_bytes(gzip.compress(b"1 1:1\n" * 1000))
    with pytest.raises(ValueError, match="lines holds more than 1 KiB, the most that is read"):
        list(read_lines(tmp_path / "lines", limit=2**10))


def test_a_line_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE", 2**10)
    (tmp_path / "a").write_bytes(gzip.compress(b"x\n" + bytes(2**22)))
    with pytest.raises(ValueError, match=r"line 2 of .*a has more than 1 KiB; a text with shorter"):
        list(read_lines(tmp_path / "a"))


def special(kind, folder):
    if kind == "a named pipe":
        os.mkfifo(folder / "x")
        return folder / "x"
    return {"a device": folder.__class__("/dev/zero"), "a folder": folder}[kind]


READERS = [
    read_bytes,
    lambda path: list(read_lines(path)),
    read_csv,
    read_npz,
    names_in,
    read_pickle,
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder"])
def test_what_might_never_end_is_refused(tmp_path, reader, kind):
    with pytest.raises(ValueError, match=f"is {kind}, but a file is needed$"):
        reader(special(kind, tmp_path))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_there(tmp_path, reader):
    for path in (tmp_path / "no", tmp_path / "no" / "x"):
        with pytest.raises(ValueError, match=f"{path} cannot be read: No such file"):
            reader(path)
    with pytest.raises(ValueError, match="cannot be read: embedded null byte"):
        reader(tmp_path / "a\0b")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"  <!DOCTYPE html>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, which only"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"hello", "a text"),
        (b"\0\0\x08\3", ""),
        (b"", ""),
    ],
)
def test_kinds_of_files(start, kind):
    assert kind_of(start).startswith(kind)
    assert bool(kind) == bool(kind_of(start))


# Archives of arrays.

ARRAYS = {
    "x": np.arange(6).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "texts": np.array(["a", "bü"]),
    "empty": np.zeros((0, 3)),
    "one": np.float64(3),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_what_numpy_reads(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys() == set(names_in(tmp_path / "a.npz"))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, np.shape(array))
    assert list(read_npz(tmp_path / "a.npz", {"one"})) == ["one"]


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def header(shape, kind="<f8"):
    stream = io.BytesIO()
    entries = {"shape": shape, "descr": kind, "fortran_order": False}
    npy.write_array_header_1_0(stream, entries)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"x": b"hello"},
            "the member x.npy of PATH is no array .*; save it again with numpy.savez",
        ),
        ({"x": header((10**13,))}, "PATH holds arrays of 74505.* GiB or more, over the limit of 4"),
        ({"x": header((9,)) + bytes(8)}, r"x.npy of PATH is damaged: its header says 9 of float64"),
        ({"x": header((1,)) + bytes(2**20)}, "x.npy of PATH is damaged: .* 8 bytes, but 1048576"),
        ({"x": header((-1,)) + bytes(8)}, r"x.npy of PATH has the shape \(-1,\)"),
        ({"x": header((1,), "|O") + b"\x80\x04N."}, "x.npy of PATH holds Python objects"),
        ({"x": b"\x93NUMPY\x09\0"}, "x.npy of PATH is no array .*version"),
    ],
)
def test_members_that_are_no_arrays(tmp_path, members, message):
    archive(tmp_path / "a.npz", **members)
    with pytest.raises(ValueError, match=message.replace("PATH", str(tmp_path / "a.npz"))):
        read_npz(tmp_path / "a.npz")


def test_a_member_that_is_packed_very_small_counts_as_large_as_it_is(tmp_path):
    archive(tmp_path / "a.npz", x=header((2**20,)) + bytes(2**23), y=header((1,)) + bytes(8))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"holds arrays of 8 MiB or more, over the limit of 1 MiB"):
        read_npz(tmp_path / "a.npz", limit=2**20)
    assert read_npz(tmp_path / "a.npz", {"y"}, limit=2**20)["y"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "is no npz archive; it is a web page, saved under this name: download"),
        (b"\x93NUMPY\x01\0", "is no npz archive; it is a .npy file, one array of numpy under"),
        (b"", "is no npz archive; get the file again"),
        (b"PK\x03\x04", "is damaged .File is not a zip file.; get the file again"),
    ],
)
def test_files_that_are_no_archives(tmp_path, content, message):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "a.npz")


def test_any_damaged_byte_is_found_or_harmless(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(300))
    content = (tmp_path / "a.npz").read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content), 60):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << int(generator.integers(8))
        (tmp_path / "b.npz").write_bytes(bytes(spoiled))
        found, refusal = {}, ""
        try:
            found = read_npz(tmp_path / "b.npz")
        except ValueError as error:
            refusal = str(error)
        assert not refusal or re.search("damaged|no array|no npz|Python objects", refusal)
        for array in found.values():
            np.testing.assert_array_equal(array, np.arange(300))


# CSV.


def rows_of(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    names, rows = read_csv(tmp_path / "a.csv")
    return names, list(rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_of_any_separator(tmp_path, separator, ending):
    lines = [["\ufeffa", " b "], ["1", '"x, y"'], [], ["2", '"two\nlines"'], ["3", ""]]
    text = ending.join(separator.join(cells) for cells in lines)
    names, rows = rows_of(tmp_path, text.encode())
    assert names == ["a", "b"]
    assert rows == [(2, ["1", "x, y"]), (5, ["2", "two\nlines"]), (6, ["3", ""])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv is empty; a first line with the names of the columns is needed"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 of .* has 3 cells, but the first line names 2 columns"),
        (b"a,a\n1,2\n", "has the column a twice; rename one"),
        (b",b,\n1,2,3\n", "has a column without a name twice"),
        (b'a,b\n1,"2\n', "line 2 of .*a.csv is no line of a CSV file .unexpected end"),
        (b"a,b\n1,\xff\n", "line 2 of .*a.csv is not UTF-8 .byte 0xff at 3.; save the file again"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1 of .*a.csv is not UTF-8 .byte 0xff at 1."),
        (b"<!doctype html>", "is no CSV file; it is a web page"),
        (b"PK\x03\x04", "is no CSV file; it is a zip archive under this name"),
    ],
)
def test_csv_of_another_form(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path, content)
