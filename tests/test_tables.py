"""Tables in LIBSVM's text format."""

import bz2
import gzip
import lzma
import os
import re

import numpy as np
import pytest

from src.data import libsvm as module
from src.data.forms import convert
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages
from src.data.libsvm import libsvm
from src.data.libsvm_text import read_libsvm, to_dense

OPTIONS = {
    "validation_path": None,
    "test_path": None,
    "split_sizes": None,
    "split_seed": None,
    "num_features": None,
    "max_features": None,
    "targets": "auto",
    "standardise": False,
}


def load(path, **options):
    return libsvm(path=str(path), **{**OPTIONS, **options})


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


# LIBSVM: what is read.

ROWS = [
    "# a comment, ünd more",
    "+1 1:0.5 3:-2e-1   # the rest is skipped 9:9",
    "",
    "-1 2:.25 4:1.",
    "   ",
    "-1\t",
    "1.0 1:+3",
]
# As ROWS, the pairs of a row in any order.
UNSORTED = ["+1 3:-2e-1 1:0.5", "-1 4:1. 2:.25", "-1", "1.0 1:+3"]
DENSE = [[0.5, 0, -0.2, 0], [0, 0.25, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]]


def dense(found, width):
    return to_dense(found, np.arange(len(found.labels)), width)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_rows_of_the_format(tmp_path, ending, mark):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + ending.join(ROWS).encode())
    found = read_libsvm(path)
    np.testing.assert_array_equal(dense(found, 4), DENSE)
    assert found.labels.tolist() == [1, -1, -1, 1]
    assert found.lines.tolist() == [2, 4, 6, 7]


def test_the_reader_agrees_with_scikit_learn(tmp_path):
    from sklearn.datasets import dump_svmlight_file, load_svmlight_file

    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((40, 7)) * generator.integers(0, 2, (40, 7))
    path = str(tmp_path / "a")
    dump_svmlight_file(inputs, generator.standard_normal(40), path, zero_based=False)
    expected, labels = load_svmlight_file(path, zero_based=False)
    found = read_libsvm(tmp_path / "a")
    np.testing.assert_array_equal(dense(found, 7), expected.toarray())
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_and_unsorted_indices(tmp_path, packed):
    path = tmp_path / "whatever its name"
    path.write_bytes(packed("\n".join(UNSORTED).encode()))
    np.testing.assert_array_equal(dense(read_libsvm(path), 4), DENSE)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"is damaged .*get the file again"):
        read_libsvm(path)


def test_one_file_is_cut(tmp_path):
    path = write(tmp_path / "a", *(f"{2 * (i % 2) - 1} 1:{i} 3:1" for i in range(10)))
    table = load(path)
    assert table.num_classes == 2
    assert [table.inputs[split][:, 0].tolist() for split in SPLITS] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
    ]
    assert table.targets["train"].tolist() == [0, 1, 0, 1]
    assert table.targets["train"].dtype == np.int32
    assert (table.names, table.features) == (("-1", "1"), ("1", "2", "3"))
    assert load(path, num_features=5).inputs["test"].shape == (3, 5)
    scaled = load(path, standardise=True)
    assert (scaled.inputs["test"][:, 1:] == 0).all()  # a column without values, and one of ones
    assert scaled.inputs["train"][:, 0].std() == pytest.approx(1)


def test_files_of_their_own(tmp_path):
    files = {
        name: write(tmp_path / name, *(f"{i % 3} {p}:{i}" for i in range(n)))
        for name, n, p in (("train", 7, 2), ("validation", 4, 1), ("test", 5, 6))
    }
    own = {"validation_path": files["validation"], "test_path": files["test"]}
    table = load(files["train"], **own)
    assert [table.inputs[split].shape for split in SPLITS] == [(7, 6), (4, 6), (5, 6)]
    assert table.inputs["validation"][:, 0].tolist() == [0, 1, 2, 3]
    assert table.targets["test"].tolist() == [0, 1, 2, 0, 1]
    # Without one for validation, it is cut from the first.
    table = load(files["train"], test_path=files["test"])
    assert [len(table.targets[split]) for split in SPLITS] == [4, 3, 5]
    table = load(files["train"], **own, split_sizes=(5, None, 2))
    assert [len(table.targets[split]) for split in SPLITS] == [5, 4, 2]


@pytest.mark.parametrize(
    ("labels", "targets", "num_classes"),
    [
        ([-1, 1, 1, -1], "auto", 2),
        ([3, 7, 5, 3], "auto", 3),
        ([0.5, 1, 2, 3], "auto", 0),
        (range(101), "numbers", 0),
        (range(101), "classes", 101),
        ([-1, 1, 1, -1], "numbers", 0),
        ([2, 3, 2, 3], "numbers", 0),
    ],
)
def test_classes_or_numbers(tmp_path, labels, targets, num_classes):
    labels = [*labels, *labels]  # the numbers of two training rows or more
    table = load(write(tmp_path / "a", *(f"{y} 1:1" for y in labels)), targets=targets)
    assert table.num_classes == num_classes
    found = np.concatenate([table.targets[split] for split in SPLITS])
    names = sorted(set(labels))
    expected = [names.index(y) for y in labels] if num_classes else list(labels)
    assert found.tolist() == expected
    assert found.dtype == (np.int32 if num_classes else np.float64)


# LIBSVM: what is wrong is named.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one 1:2", "starts with 'one', but a row starts with its label, a finite number"),
        ("1:2 2:3", "starts with '1:2'"),
        ("1,2 1:2", "starts with '1,2'"),
        ("nan 1:2", "starts with 'nan'"),
        ("1e999 1:2", "starts with '1e999'"),
        ("1_0 1:2", "starts with '1_0'"),
        ("1 qid:3 1:2", "has 'qid:3': groups of a ranking are not read"),
        ("1 1:2 3", "has '3', but index:value is needed"),
        ("1 1: 2", "has '1:', but index:value is needed"),
        ("1 1:2,5", "has '1:2,5', but index:value is needed"),
        ("1 1:inf", "has '1:inf', but index:value is needed, with a finite number"),
        ("1 1:1e999", "has '1:1e999', but index:value is needed, with a finite number"),
        ("1 -1:2", "has '-1:2', but index:value is needed"),
        ("1 1.0:2", "has '1.0:2', but index:value is needed"),
        ("1 0:2 1:3", "has '0:2', but indices start at 1; write the file anew by scikit-learn"),
        ("1 1:3 0:2", "has '0:2', but indices start at 1"),
        ("1 2:3 2:4", "has '2:4', the index 2 a second time; remove one of the two"),
        ("1 3:3 2:4 3:1", "has '3:1', the index 3 a second time"),
        ("1 1:2\u00a02:3", "has '1:2\\xa02:3', but index:value is needed"),
        ("1 \u0661:2", "has '\u0661:2', but index:value is needed"),
        ("1 " + "9" * 500 + ":1", "has '" + "9" * 40 + "', but index:value is needed"),
    ],
)
def test_an_unreadable_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "a", "# first", "1 1:1", "", line, "-1 1:1")
    with pytest.raises(ValueError, match=re.escape(f"path={path}: line 4 {message}")) as refused:
        load(path)
    assert str(refused.value).startswith("path=")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\xff\xfe\0", "PATH is damaged .*; get the file again"),
        (b"1 1:2\n1 \xe9:2\n", "line 2 of PATH is not UTF-8 .byte 0xe9 at 3.; save the file"),
        (b"\x89PNG\r\n", "line 1 of PATH is not UTF-8 .* at 1.: it is a PNG image; save"),
        (b"<!doctype html>\n<p>", ".*line 1 starts with '<!doctype'.*: the file is a web page"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    message = message.replace("PATH", re.escape(str(tmp_path / "a")))
    with pytest.raises(ValueError, match=rf"^path[:=].*{message}"):
        load(tmp_path / "a")


def test_what_might_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(ValueError, match=f"^path: {path} is {kind}, but a file is needed$"):
            load(path)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"path": None}, {}, "path: PATH cannot be read: No such file"),
        ({"path": "# nothing"}, {}, "path=PATH: the file holds no row; a row is for example"),
        ({"path": "1\n2\n3"}, {}, "path=PATH: no row has a feature"),
        ({"path": "1 1:1\n1 1:2\n1 1:3"}, {}, "path=PATH: every label is 1, but at least two"),
        ({"path": "1 1:1\n2 1:2"}, {}, "split_sizes=null asks for at least 3 rows"),
        (
            {"path": "1 1:1\n2 1:2\n.5 1:3"},
            {"targets": "classes"},
            "targets=classes: path=PATH has the label 0.5 in line 3, but classes are whole",
        ),
        (
            {"path": "1 1:1\n2 1:2\n1 1:3 7:1"},
            {"num_features": 5},
            "num_features=5: path=PATH has an index up to 7, first past it in line 3; choose "
            "num_features=7, or null",
        ),
        (
            {"path": "2 1:1\n2 1:2\n2 1:3"},
            {"targets": "numbers"},
            "targets: the training rows (1) all have the number 2, so there is",
        ),
        (
            {"path": "1\n2\n1 1:1"},
            {"max_features": 1},
            "max_features=1: no training row has an entry, so there is no feature to keep",
        ),
        ({"path": "1 1:1\n2 1:1"}, {"num_features": 0}, "num_features=0 must be at least 1"),
        (
            {"path": "1 1:1\n2 999999999:2\n1 1:2"},
            {"sparse": False},
            "path=PATH: 3 rows of 999999999 features would fill 22.4 GiB as a dense table, over "
            "the limit of 4 GiB; choose data.sparse=true with data.standardise=false, or keep the "
            "most common features alone, data.max_features=178956970",
        ),
        (
            {"path": "1 1:1\n2 999999999:2\n1 1:2"},
            {"standardise": True},
            "standardise=true: 3 rows of 999999999 features are kept sparse, and to centre them "
            "would fill in every 0 (22.4 GiB); choose data.standardise=false, or dense rows of the "
            "most common features, data.max_features=178956970",
        ),
        (
            {"path": "1 1:1\n2 9999999999:2\n1 1:2"},
            {},
            "path=PATH: 3 sparse rows of 9999999999 features, each as long as the longest (of 1 "
            "entries), would fill",
        ),
        (
            {"path": "1 1:1\n2 1:2\n1 1:3", "test_path": "1 1:1\n3 1:2"},
            {},
            "test_path=TEST_PATH has the class 3 in line 2, but path=PATH, from which is learned, "
            "has only 1, 2: move some of its rows there",
        ),
        (
            {"path": "1 1:1\n2 1:2", "validation_path": "1 1:1\n2 x"},
            {},
            "validation_path=VALIDATION_PATH: line 2 has 'x'",
        ),
        *(
            (
                {"path": f"1 1:{value}\n2 1:-{value}\n1 1:3\n2 1:1"},
                {"split_sizes": (2, 1, 1), "standardise": True},
                "standardise=true: some values are too large or too small",
            )
            for value in ("1e308", "1e-300")
        ),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, files, options, message):
    paths = {option: str(tmp_path / option) for option in files}
    for option, text in files.items():
        if text is not None:
            write(tmp_path / option, text)
        message = re.sub(rf"\b{option.upper()}\b", paths[option], message)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        libsvm(**{**OPTIONS, **paths, **options})


def test_no_path_and_a_file_for_two_splits(tmp_path):
    with pytest.raises(ValueError, match=r"^path=null: name a file .* data.path=FILE"):
        libsvm(path=None, **OPTIONS)
    path = write(tmp_path / "a", "1 1:1", "2 1:1")
    with pytest.raises(ValueError, match=f"^test_path={path} is the file of path too"):
        load(path, test_path=path)


@pytest.mark.parametrize(("number", "taken"), [(21, "classes"), (101, "numbers")])
def test_what_auto_has_chosen_is_told(tmp_path, number, taken):
    path = write(tmp_path / "a", *(f"{i % number} 1:1" for i in range(303)))
    with pytest.warns(UserWarning, match=f"{number} different ones, and are taken as {taken};"):
        assert load(path).num_classes == (number if taken == "classes" else 0)


def test_a_file_without_rows_of_a_class_is_read_with_a_warning(tmp_path):
    path = write(tmp_path / "a", "1 1:1", "2 1:2", "3 1:3", "1 1:1")
    other = write(tmp_path / "b", "1 1:1", "3 1:2")
    with pytest.warns(UserWarning, match=f"^data.test_path={other} has no row of the class 2, so"):
        table = load(path, test_path=other)
    assert table.targets["test"].tolist() == [0, 2]
    assert table.num_classes == 3


def test_the_limit_is_of_the_rows_and_features_that_are_kept(tmp_path, monkeypatch):
    paths = [write(tmp_path / name, "1 1:1 3:4", "2 2:1 3:5") for name in "abc"]
    own = {"validation_path": paths[1], "test_path": paths[2]}
    monkeypatch.setattr(module, "LIMIT", 6 * 3 * 8)
    load(paths[0], **own, sparse=False)
    monkeypatch.setattr(module, "LIMIT", 6 * 3 * 8 - 1)
    with pytest.raises(ValueError, match=r"6 rows of 3 features .* data\.max_features=2$"):
        load(paths[0], **own, sparse=False)
    few = load(paths[0], **own, max_features=2, sparse=False)
    # The third, which two rows have, and the first of those that one has.
    assert few.features == ("1", "3")
    assert few.origins["test"][1] == f"line 2 of {paths[2]}"
    np.testing.assert_array_equal(few.inputs["train"], [[1, 4], [0, 5]])
    assert load(paths[0], **own, split_sizes=(1, 1, 1), sparse=False).inputs["test"].shape == (1, 3)
    with pytest.raises(ValueError, match=r"^max_features=0 must be at least 1, or null"):
        load(paths[0], **own, max_features=0)


def undone(rows):
    dense = np.zeros(rows.shape)
    np.add.at(dense, (np.arange(len(dense))[:, None], rows.columns), rows.values)
    return dense


def test_sparse_rows_are_the_dense_ones(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((20, 30)) * (generator.random((20, 30)) < 0.2)
    lines = [
        f"{i % 2} " + " ".join(f"{j + 1}:{value}" for j, value in enumerate(row) if value)
        for i, row in enumerate(dense)
    ]
    path = write(tmp_path / "a", *lines)
    whole, sparse = (load(path, split_seed=3, sparse=choice) for choice in (False, True))
    monkeypatch.setattr(module, "LIMIT", 20 * 30 * 8 - 1)
    automatic = load(path, split_seed=3)
    for split in SPLITS:
        assert sparse.inputs[split].shape == whole.inputs[split].shape
        np.testing.assert_array_equal(undone(sparse.inputs[split]), whole.inputs[split])
        np.testing.assert_array_equal(automatic.inputs[split].values, sparse.inputs[split].values)
    monkeypatch.setattr(module, "LIMIT", 20)
    with pytest.raises(ValueError, match=r"20 sparse rows .* would fill .* data\.max_features=1$"):
        load(path)
    with pytest.raises(
        ValueError, match=r"its rows are sparse, which problem=regularisation alone"
    ):
        convert(sparse, LabelledImages)
