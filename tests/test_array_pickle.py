"""Pickles read as data: nothing they name is run, and what is no data set is refused."""

import os
import pickle
import re
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from src.data.array_pickle import read_pickle
from src.data.mini_imagenet_pickles import PICKLES
from tests.photographs import COUNT, PARTS, cached, photographs, refusal, write_pickles


def by_python_2(images):
    """{'image_data': images, 'class_dict': {'n1': [0..]}} as cPickle wrote it: texts are bytes."""
    raw, (n, h, w, c) = images.tobytes(), images.shape

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def whole(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + whole(0) + whole(1) + b"tR"
    dtype += b"(" + whole(3) + text(b"|") + b"NNN" + whole(-1) + whole(-1) + whole(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + whole(0) + b"t"
    array += text(b"b") + b"tR(" + whole(1) + b"(" + b"".join(map(whole, (n, h, w, c))) + b"t"
    array += dtype + b"\x89" + b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    members = b"ccollections\ndefaultdict\n(c__builtin__\nlist\ntR" + text(b"n1")
    members += b"](" + b"".join(map(whole, range(n))) + b"es"
    return b"\x80\x02}(" + text(b"image_data") + array + text(b"class_dict") + members + b"u."


def test_pickles_of_python_2(tmp_path):
    images = next(iter(photographs(classes=1)["train"].values()))
    (tmp_path / "old.pkl").write_bytes(by_python_2(images))
    content = read_pickle(tmp_path / "old.pkl")
    np.testing.assert_array_equal(content["image_data"], images)
    assert content["class_dict"] == {"n1": list(range(COUNT))}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_contents_are_what_pickle_gives(tmp_path, protocol):
    generator = np.random.default_rng(0)
    content = {
        "arrays": [
            generator.random((2, 3)),
            generator.integers(0, 9, (3, 4)).T,
            np.arange(6, dtype=">i4").reshape(2, 3),
            np.asfortranarray(generator.random((2, 3, 4))),
            np.moveaxis(generator.random((2, 3, 4)), 0, 1),
            np.array(["ab", "c"]),
            np.array([b"ab", b"c"]),
            np.array([True, False]),
            np.zeros((0, 3), np.float32),
            np.array(2.5),
        ],
        "scalars": (np.int64(3), np.float32(0.5), 1, 2.5, None, True, 10**30),
        "containers": [OrderedDict(a=1), defaultdict(list, b=[2]), b"bytes", b"", "text \xe9"],
    }
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "file")
    expected = pickle.loads(pickle.dumps(content, protocol))
    for ours, theirs in zip(found["arrays"], expected["arrays"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert found["scalars"] == content["scalars"]
    assert found["containers"] == content["containers"]
    assert [type(a) for a in found["containers"]] == [type(a) for a in content["containers"]]


@pytest.mark.parametrize(
    ("content", "since"), [({1, 2}, 4), (frozenset({3}), 4), (bytearray(b"ab"), 5)]
)
def test_what_newer_protocols_write_without_naming_it(tmp_path, content, since):
    for protocol in range(6):
        (tmp_path / "file").write_bytes(pickle.dumps(content, protocol))
        if protocol >= since:
            assert read_pickle(tmp_path / "file") == content
        else:
            with pytest.raises(ValueError, match=rf"names .*{type(content).__name__}, which is"):
                read_pickle(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "is_it"),
    [
        (b"cbuiltins\ndict\n.", lambda found: found is dict),
        (b"cnumpy\nndarray\n.", lambda found: found == "ndarray"),
        (b"cnumpy\ndtype\n.", callable),
        (b"c_codecs\nencode\n.", lambda found: callable(found) and found.__module__ != "_codecs"),
        (pickle.dumps(np.dtype("f4")), lambda found: found.code == "<f4"),
    ],
)
def test_what_is_named_for_its_own_sake_is_a_stand_in(tmp_path, content, is_it):
    (tmp_path / "file").write_bytes(content)
    assert is_it(read_pickle(tmp_path / "file"))


class Calls:
    """An object whose pickle calls `function` when it is read."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_a_program_is_refused_and_not_run(tmp_path, protocol):
    parts = photographs(classes=1)
    contents = {part: cached(parts[part]) for part in PARTS}
    contents["val"]["extra"] = Calls(os.system, f"touch {tmp_path / 'executed'}")
    write_pickles(tmp_path, contents, protocol)
    message = refusal(tmp_path)
    assert "mini-imagenet-cache-val.pkl is refused, nothing of it was executed" in message
    assert f"it names {os.system.__module__}.system, which is neither" in message
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.min\x93.", "numpy.ndarray.min"),
        (b"ccopy_reg\n_reconstructor\n.", "copy_reg._reconstructor"),
        (b"(ios\nsystem\n.", "os.system"),
        (pickle.dumps(np.array([None])), "the dtype 'O8'"),
        (pickle.dumps(np.zeros(2, "i4,f4")), "the dtype 'V8'"),
        (pickle.dumps(np.datetime64("2020")), "the dtype 'M8'"),
        (pickle.dumps(3j), "builtins.complex"),
        (b"cbuiltins\nbytes\n(I999999999999\ntR.", "bytes of something else than bytes"),
    ],
)
def test_what_is_named_is_said(tmp_path, content, named):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^file is refused.* {re.escape(named)}"):
        read_pickle(tmp_path / "file")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**40)  # it takes no space on the disk
    with pytest.raises(ValueError, match=r"^file has 1024 GiB, over the limit of 4 GiB"):
        read_pickle(tmp_path / "file")


def dtype(code="u1", order="|", subarray=None):
    state = (3, order, subarray, None, None, -1, -1, 0)
    return pickled(f"cnumpy\ndtype\n(V{code}\nI00\nI01\ntR", state)


def pickled(head, state):
    """An object made by the opcodes of `head`, then given `state`."""
    body = pickle.dumps(state, 0)[:-1].decode("latin1")
    return f"{head}{body}b"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": np.zeros(1000)})[:-50],
        pickle.dumps({"a": np.zeros(1000)}, 2)[:500],
        b"cnumpy\nndarray\n(I9\ntR.",  # calls what is only a word here
        b"cnumpy\ndtype\n.",  # harmless: a stand-in, no data set
        b"cbuiltins\nlist\n(S'x'\nI1\ndb.",  # sets an attribute of a type
        b"\x80\x05\x97.",  # a buffer from elsewhere
        b"P1\n.",  # a persistent name
        dtype("u3").encode() + b".",
        dtype("u1", "!").encode() + b".",
        dtype("u1", "|", ("u1", (2,))).encode() + b".",
    ],
)
def test_damaged_pickles_are_no_data(tmp_path, content):
    parts = photographs(classes=1)
    write_pickles(tmp_path, {part: cached(parts[part]) for part in PARTS})
    (tmp_path / PICKLES[0][2][0]).write_bytes(content)
    assert "mini-imagenet-cache-test.pkl" in refusal(tmp_path)


@pytest.mark.parametrize("shape", [(-2, -3), (2, 4), (2.0, 3), ("2", 3), (2**40, 2**40)])
def test_arrays_of_another_shape_than_their_bytes(tmp_path, shape):
    head = "cnumpy.core.multiarray\n_reconstruct\n(Vndarray\n(I0\ntVb\ntR(I1\n"
    body = pickle.dumps(shape, 0)[:-1].decode() + dtype() + "I00\nVabcdef\ntb."
    (tmp_path / "file").write_bytes((head + body).encode())
    with pytest.raises(ValueError, match=r"^file is"):
        read_pickle(tmp_path / "file")
