"""Targets of rows: which are classes and which numbers, and what is told or refused."""

import numpy as np
import pytest

from src.data.targets import read_targets
from tests.own_data import csv_of, read


@pytest.mark.parametrize(
    ("values", "targets", "names"),
    [
        ([3, 7, 3], "auto", ("3", "7")),
        ([0.5, 1, 2], "auto", ()),
        (range(101), "numbers", ()),
        (range(20), "auto", tuple(map(str, range(20)))),
        (np.array(list(map(str, range(101)))), "auto", tuple(sorted(map(str, range(101))))),
        ([3, 7, 3], "numbers", ()),
        (["b", "a", "b"], "auto", ("a", "b")),
        ([b"b", b"a", b"b"], "auto", ("a", "b")),
        ([True, False], "auto", ("0", "1")),
        ([2**60, 2**60 + 1], "auto", (str(2**60), str(2**60 + 1))),
        (np.array([2**64 - 1, 2**64 - 2], np.uint64), "auto", (str(2**64 - 2), str(2**64 - 1))),
        ([1e6, 2.0], "auto", ("2", "1000000")),
    ],
)
def test_classes_or_numbers(values, targets, names):
    found, classes = read_targets(np.array(values), targets, str)
    assert classes == names
    assert found.dtype == (np.int32 if names else np.float64)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            range(21),
            "21 different ones, and are taken as classes; if they are numbers, choose data",
        ),
        (range(101), "101 different ones, and are taken as numbers; if they are classes, choose"),
    ],
)
def test_what_auto_has_chosen_is_told_where_it_is_not_obvious(values, said):
    with pytest.warns(UserWarning, match=f"^data.targets=auto: the targets are whole .*{said}"):
        read_targets(np.array(values), "auto", str)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([b"x", b"caf\xe9"]), r"targets: 1 is b'caf\\xe9', which is no UTF-8; save texts"),
        (np.array([1j, 2j]), "targets: they are complex128, but whole numbers, texts or real numb"),
        (np.zeros(2, [("a", int)]), r"targets: they are \[\('a', '<i8'\)\], but whole numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "targets: they are datetime64.D., but whole numbers"),
    ],
)
def test_targets_of_another_kind(values, message):
    with pytest.raises(ValueError, match=message):
        read_targets(values, "auto", str)


@pytest.mark.parametrize("ids", [(2**53, 2**53 + 1), (10**20, 10**20 + 1)])
def test_long_ids_stay_apart(tmp_path, ids):
    found = read(tmp_path, csv_of(lambda i: f"{i},1,{ids[i % 2]}"))
    assert found.names == tuple(map(str, ids))
    numbers = csv_of(lambda i: f"{i},1,{ids[0] * (i + 1)}")
    assert read(tmp_path, numbers, target="y", targets="numbers").num_classes == 0
