"""The IDX format: what is written is read, and what is damaged is named."""

import gzip
import re

import numpy as np
import pytest

from src.data.idx import read_idx
from src.data.mnist_files import STEMS


def idx_bytes(array):
    """An array of uint8 as the content of an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def small_arrays(train=12, test=6, seed=0):
    """{stem: array} of four files of MNIST's form; every image tells its place and file."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for stem in STEMS:
        number = train if stem.startswith("train") else test
        shape = (number, 28, 28) if "images" in stem else (number,)
        arrays[stem] = generator.integers(0, 256 if "images" in stem else 10, shape, np.uint8)
    return arrays


def write_idx_files(folder, arrays, suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in arrays.items():
        content = idx_bytes(array)
        packed = gzip.compress(content, 1) if suffix else content
        (folder / f"{stem}{suffix}").write_bytes(packed)


ARRAY = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
CONTENT = idx_bytes(ARRAY)
PACKED = gzip.compress(CONTENT, mtime=0)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("name", ["a", "a.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_plain_or_gzipped_whatever_the_name(tmp_path, shape, name, packed):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = idx_bytes(array)
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(tmp_path / name)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)
    read_idx(tmp_path / name, num_dimensions=len(shape))


# Named: ids made of bytes cannot be read, and held the time of the gzip file.
DAMAGED = {
    "empty": (b"", r"is not an IDX file: it starts with b''"),
    "too short": (b"\0\0\x08", "is not an IDX file"),
    "a web page": (
        b"<!DOCTYPE html>",
        r"is not an IDX file: it starts with b'<!DO', but two zero bytes.*it is a web page",
    ),
    "no zero byte": (b"\0\1" + CONTENT[2:], "is not an IDX file"),
    "no dimensions": (b"\0\0\x08\0" + CONTENT[4:], "is not an IDX file"),
    "doubles": (
        b"\0\0\x0d" + CONTENT[3:],
        r"has elements of type 0x0d, but 0x08 \(uint8\) is needed",
    ),
    "labels for images": (
        b"\0\0\x08\1" + CONTENT[4:],
        "has 1 dimensions, but 3 are needed: is it another file",
    ),
    "header cut": (CONTENT[:9], "is truncated: it ends within the header, after 9 of 16 bytes"),
    "content cut": (
        CONTENT[:-1],
        "is truncated: its header says 5x2x3, which is 30 bytes, but 29 follow",
    ),
    "surplus": (
        CONTENT + b"\0",
        "has surplus bytes: its header says 5x2x3, which is 30 bytes, but 31",
    ),
    "too large": (b"\0\0\x08\3" + b"\xff" * 12, "is truncated: its header says 4294967295x"),
    "gzip cut": (PACKED[:-9], "is damaged"),
    "gzip header cut": (PACKED[:4], "is damaged"),
    "gzip content overwritten": (PACKED[:20] + b"\xff\xff" + PACKED[22:], "is damaged"),
    "gzip checksum": (PACKED[:-8] + b"1234" + PACKED[-4:], r"is damaged \(CRC"),
    "gzip and more": (PACKED + b"junk", "is damaged"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_named(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_idx(path, num_dimensions=3)
    assert str(refused.value).startswith(f"{path} ")
    assert re.search("(get the file again|download the file itself)$", str(refused.value))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent cannot be read: No such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(ValueError, match="is a folder, but a file is needed"):
        read_idx(tmp_path)
