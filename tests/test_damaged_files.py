"""Whatever happens to a file, its reader returns data or says in one message what is wrong."""

import gzip

import numpy as np
import pytest
from PIL import Image

from src.data.arrays import arrays
from src.data.image_folder import image_folder
from src.data.libsvm import libsvm
from src.data.mnist import mnist
from src.data.omniglot import omniglot
from src.data.table import table
from tests.libsvm_files import OPTIONS
from tests.own_data import ARRAYS, TABLE
from tests.own_files import FOLDER_OPTIONS, write_images
from tests.test_idx import small_arrays, write_idx_files
from tests.test_omniglot_images import drawings, write_zips

TRIES = 24
KEYS = ("root", "path", "size", "targets", "target", "labels", "inputs", "split", "split_sizes")
ROWS = "\n".join(f"{i % 2} 1:{i} 3:{i / 2}" for i in range(20)).encode()


def image(folder, suffix):
    write_images(folder, "ab", each=2)
    path = folder / "a" / f"x.{suffix}"
    Image.fromarray(np.arange(210, dtype=np.uint8).reshape(10, 7, 3)).save(path)
    return path, lambda: image_folder(root=str(folder), **{**FOLDER_OPTIONS, "size": 4})


def drawings_in_a_zip(folder):
    write_zips(folder, drawings(28))
    return folder / "images_background.zip", lambda: omniglot(
        root=str(folder), split_sizes=(4, 2, 2)
    )


def archive(folder):
    images, labels = np.arange(320, dtype=np.uint8).reshape(20, 4, 4), np.arange(20) % 4
    np.savez_compressed(folder / "a.npz", images=images, labels=labels)
    return folder / "a.npz", lambda: arrays(path=str(folder / "a.npz"), **ARRAYS)


def csv(folder):
    text = "a,b,y\n" + "\n".join(f"{i},{i / 2},{i % 2}" for i in range(20))
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return folder / "a.csv", lambda: table(path=str(folder / "a.csv"), **TABLE)


def rows(folder, packed):
    (folder / "a").write_bytes(gzip.compress(ROWS) if packed else ROWS)
    return folder / "a", lambda: libsvm(path=str(folder / "a"), **OPTIONS)


def idx(folder):
    write_idx_files(folder, small_arrays(), "")
    options = {"split_sizes": (5, 3, None), "split_seed": 0, "pooled": False}
    return folder / "train-labels-idx1-ubyte", lambda: mnist(root=str(folder), **options)


FILES = {
    **{
        suffix: lambda folder, suffix=suffix: image(folder, suffix)
        for suffix in ("png", "jpg", "gif", "tif", "webp", "bmp")
    },
    "zip": drawings_in_a_zip,
    "npz": archive,
    "csv": csv,
    "libsvm": lambda folder: rows(folder, False),
    "libsvm.gz": lambda folder: rows(folder, True),
    "idx": idx,
}


def damaged(content, generator, kind):
    """Bits flipped, the end cut off, bytes overwritten, or one of the first bytes changed."""
    spoiled = bytearray(content)
    place = int(generator.integers(len(content)))
    if kind == "flipped":
        spoiled[place] ^= 1 << int(generator.integers(8))
    if kind == "cut":
        del spoiled[place:]
    if kind == "overwritten":
        spoiled[place : place + 6] = generator.bytes(int(generator.integers(9)))
    if kind == "header":
        spoiled[place % 64 % len(content)] = int(generator.integers(256))
    return bytes(spoiled)


@pytest.mark.parametrize("kind", ["flipped", "cut", "overwritten", "header"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_data_or_one_message(tmp_path, name, kind):
    path, load = FILES[name](tmp_path)
    content = path.read_bytes()
    load()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(TRIES):
        path.write_bytes(damaged(content, generator, kind))
        message = None
        try:
            load()
        except ValueError as error:
            message = str(error)
        refused += message is not None
        assert message is None or message.startswith(KEYS)
    assert refused or kind == "header"  # of a zip file, the first header is that of an empty member
