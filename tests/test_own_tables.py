"""Tables of one's own: what is read, how it is split, what is refused."""

import re
import shlex
import sys
import types

import numpy as np
import pytest

from src.data.image_classes import SPLITS
from src.data.table import table
from tests.conftest import config_of
from tests.own_data import (
    NUMBERS,
    TABLE,
    WORDS,
    csv_of,
    read,
    refusal,
)


def test_a_column_is_predicted_from_the_others(tmp_path):
    found = read(tmp_path, NUMBERS)
    assert found.num_classes == 2
    np.testing.assert_array_equal(found.inputs["train"], [[0, 0.5], [1, 1.5], [2, 2.5], [3, 0.5]])
    assert found.targets["train"].tolist() == [0, 1, 0, 1]
    assert [len(found.targets[split]) for split in SPLITS] == [4, 3, 3]
    numbers = read(tmp_path, NUMBERS, target="b", targets="numbers", standardise=True)
    assert numbers.num_classes == 0
    assert numbers.inputs["train"].shape == (4, 2)
    assert numbers.inputs["train"][:, 0].std() == pytest.approx(1)
    assert numbers.features == ("a", "y")
    assert numbers.origins["validation"][0] == f"line 6 of {tmp_path / 'a.csv'}"
    assert found.scaling is None
    mean, deviation = numbers.scaling
    raw = read(tmp_path, NUMBERS, target="b", targets="numbers")
    np.testing.assert_allclose((raw.inputs["test"] - mean) / deviation, numbers.inputs["test"])
    assert raw.target_scaling is None
    mean, deviation = numbers.target_scaling
    np.testing.assert_allclose(mean + deviation * numbers.targets["test"], raw.targets["test"])
    assert read(tmp_path, NUMBERS, target="a", drop=("b",)).inputs["test"].shape == (3, 1)


def test_texts_and_truths(tmp_path):
    text = csv_of(lambda i: f"{i},{['True', 'false'][i % 2]},{['dog', 'cat'][i % 2]}")
    found = read(tmp_path, text)
    assert found.names == ("cat", "dog")
    assert found.targets["train"].tolist() == [1, 0, 1, 0]
    assert found.inputs["train"][:, 1].tolist() == [1, 0, 1, 0]


def test_splits_of_a_table(tmp_path):
    text = csv_of(lambda i: f"{i},{WORDS[i % 3]},{i % 2}")
    found = read(tmp_path, text, split="b")
    assert [found.inputs[split].ravel().tolist() for split in SPLITS] == [
        [0, 3, 6, 9],
        [1, 4, 7],
        [2, 5, 8],
    ]
    other = tmp_path / "test.csv"
    other.write_text("y;b;a\n1;7;8\n0;5;6\n", encoding="utf-8")
    found = read(tmp_path, NUMBERS, test_path=str(other))
    np.testing.assert_array_equal(found.inputs["test"], [[8, 7], [6, 5]])
    assert [len(found.targets[split]) for split in SPLITS] == [5, 5, 2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            csv_of(lambda i: f"x,Paris,{i % 2}"),
            {},
            r"the column a is no column of numbers \(line 2 has the text 'x'\), nor is b: leave "
            r"texts out with data.drop=\[a,b\], or write them .*columns=\['a', 'b'\]",
        ),
        (
            csv_of(lambda i: f"{i},{'' if i == 4 else i},{i % 2}"),
            {},
            r"the column b is no column of numbers \(line 6 has no value\); fill such cells in",
        ),
        (csv_of(lambda i: f"{i},NaN,{i % 2}"), {}, r"\(line 2 has no value\); fill such cells in"),
        (csv_of(lambda i: f"{i},inf,{i % 2}"), {}, "line 2 has 'inf', no finite number"),
        (csv_of(lambda i: f"{i},1_0,{i % 2}"), {}, "line 2 has '1_0', no finite number"),
        (csv_of(lambda i: f'{i},"1,5",{i % 2}'), {}, r"the text '1,5'\).*1.5, not 1,5"),
        (csv_of(lambda i: f"{i},1,"), {}, r"target=y: y in line 2 of .* has no value; fill it in"),
        (
            csv_of(lambda i: f"{i},1,{'x' if i == 5 else i}"),
            {},
            r"target=y: y in line 7 of .* is 'x', but y is a number elsewhere \(0\); mend it",
        ),
        (
            csv_of(lambda i: f"{i},1,x{i % 2}"),
            {"targets": "numbers"},
            "targets=numbers, but y in line",
        ),
        (
            csv_of(lambda i: f"{i},1,{i % 2}.5"),
            {"targets": "classes"},
            "targets=classes: y in line 2",
        ),
        (
            csv_of(lambda i: f"{i},1,{5 if i < 4 else i}"),
            {"targets": "numbers"},
            r"^target=y: the training rows \(4\) all have the number 5, so .* choose",
        ),
        (csv_of(lambda i: f"{i},1,3"), {}, "every row has the target 3, but at least two classes"),
        (NUMBERS, {"target": None}, "target=null: name the column to predict .* has a, b, y"),
        (NUMBERS, {"target": "Y"}, "target=Y is no column of .*: it has a, b, y"),
        (NUMBERS, {"drop": ("bb",)}, "drop=bb is no column of .*: did you mean b. it has"),
        (NUMBERS, {"split": "b"}, "split=b: b in line 2 of .* is '0.5'; write train, validation"),
        (NUMBERS, {"drop": ("a", "b")}, "path=.*: no column is left for the features"),
        ("a,b,y\n", {}, "has no row below the names of its columns"),
        ("1,2,3\n4,5,6\n", {}, "starts with numbers, 1, 2, 3, but a first line with the names"),
        (csv_of(lambda i: f"{i},1,{i % 2}", ",b,y"), {}, "the column 1 has no name .*index=False"),
        (NUMBERS, {"split_sizes": (9, 9, 9)}, r"split_sizes=\[9,9,9\] asks for at least 27 rows"),
    ],
)
def test_tables_of_another_form(tmp_path, text, options, message):
    assert re.search(message, refusal(read, tmp_path, text, **options))


@pytest.mark.parametrize(
    "name", ["city", "a.b-c", "city (home)", "x'y", 'q"t', "back\\", "two words", "3", "null", "é"]
)
def test_the_advice_can_be_typed(tmp_path, name):
    header = 'a,"{}",y'.format(name.replace('"', '""'))
    found = refusal(read, tmp_path, csv_of(lambda i: f"x,x,{i % 2}", header))
    typed = re.search(r"leave texts out with (.*), or write them", found)[1]
    words = shlex.split(typed)
    config = config_of("problem=regularisation", "data=table", "data.path=a", *words)
    assert config["data"]["drop"] == ["a", name]


def test_files_of_other_columns_and_of_two_splits(tmp_path):
    other = tmp_path / "test.csv"
    other.write_text("a,c,y\n1,2,0\n", encoding="utf-8")
    found = refusal(read, tmp_path, NUMBERS, test_path=str(other))
    assert re.search("test_path=.*: the column b is in one of the files alone", found)
    path = str(tmp_path / "a.csv")
    assert "is the file of path too" in refusal(read, tmp_path, NUMBERS, test_path=path)
    other.write_text(NUMBERS, encoding="utf-8")
    text = csv_of(lambda i: f"{i},train,{i % 2}")
    other.write_text(text, encoding="utf-8")
    found = refusal(read, tmp_path, text, test_path=str(other), split="b")
    assert "test_path gives a split already; leave one of the two out" in found
    assert "name a CSV or parquet file" in refusal(table, path=None, **TABLE)


# Parquet: pandas reads it, where it is installed.


def test_parquet_without_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    (tmp_path / "a").write_bytes(b"PAR1....PAR1")
    found = refusal(table, path=str(tmp_path / "a"), **TABLE)
    assert "a parquet file, which pandas reads, and it is not installed: `pip install" in found


def test_parquet_by_pandas(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": range(9), "b": [0.5] * 9, "y": list("uvwuvwuvw")})
    frame.to_parquet(tmp_path / "a")
    found = table(path=str(tmp_path / "a"), **TABLE)
    assert found.names == ("u", "v", "w")
    np.testing.assert_array_equal(found.inputs["train"], [[0, 0.5], [1, 0.5], [2, 0.5]])
    frame.assign(b=["x", *"bcdefghi"]).to_parquet(tmp_path / "a")
    assert "row 0 has the text 'x'" in refusal(table, path=str(tmp_path / "a"), **TABLE)


def test_a_damaged_parquet_file(tmp_path, monkeypatch):
    pandas = types.SimpleNamespace(read_parquet=lambda path: 1 / 0)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    (tmp_path / "a").write_bytes(b"PAR1")
    assert "is damaged (division by zero)" in refusal(table, path=str(tmp_path / "a"), **TABLE)
