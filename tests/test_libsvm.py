"""Tables in LIBSVM's text format: what is read."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

from src.data import libsvm as module
from src.data.forms import convert
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages
from src.data.libsvm_text import read_libsvm, to_dense
from tests.libsvm_files import load, write

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
