"""Arrays and tables of one's own: what is read, how it is split, what is refused."""

import re
import shlex
import sys
import types

import numpy as np
import pytest

from src.data.arrays import arrays
from src.data.forms import convert
from src.data.image_classes import SPLITS, ImageClasses
from src.data.labelled import LabelledImages, Table
from src.data.table import table
from tests.conftest import config_of

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (60, 6, 5), np.uint8)
COLOUR = GENERATOR.integers(0, 256, (60, 6, 5, 3), np.uint8)
ROWS = GENERATOR.standard_normal((60, 4))
LABELS = np.arange(60) % 6
WORDS = np.array(["train", "val", "test"])

ARRAYS = {
    "inputs": None,
    "labels": None,
    "split": None,
    "split_sizes": None,
    "split_seed": 0,
    "targets": "auto",
    "standardise": False,
    "streamed": "auto",
}
TABLE = {
    "validation_path": None,
    "test_path": None,
    "target": "y",
    "split": None,
    "drop": (),
    "split_sizes": None,
    "split_seed": None,
    "targets": "auto",
    "standardise": False,
}


def load(folder, members, **options):
    np.savez(folder / "a.npz", **members)
    return arrays(path=str(folder / "a.npz"), **{**ARRAYS, **options})


def refusal(call, *args, **options):
    with pytest.raises(
        ValueError, match=r"^(path|test_path|inputs|labels|split|target|drop)"
    ) as refused:
        call(*args, **options)
    return str(refused.value)


# Arrays.


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(str), LABELS * 1.0])
@pytest.mark.parametrize("images", [IMAGES, COLOUR])
def test_images_serve_every_problem(tmp_path, images, labels):
    pool = load(tmp_path, {"images": images, "labels": labels})
    shape = (6, 5, images.shape[3] if images.ndim == 4 else 1)
    classes = convert(pool, ImageClasses)
    assert classes.images.shape == (6, 10, *shape)
    np.testing.assert_array_equal(classes.images[2, 1], images[8].reshape(shape))
    assert [len(convert(pool, LabelledImages).labels[s]) for s in SPLITS] == [24, 18, 18]
    assert convert(pool, Table).inputs["train"].shape == (24, np.prod(shape))


def test_rows_serve_every_problem_that_has_classes(tmp_path):
    found = load(tmp_path, {"X": ROWS, "y": LABELS}, split_seed=None)
    assert found.num_classes == 6
    np.testing.assert_array_equal(found.inputs["train"], ROWS[:24])
    assert convert(found, ImageClasses).images.shape == (6, 10, 4)
    assert convert(found, LabelledImages).images["test"].shape == (18, 4)
    numbers = load(tmp_path, {"x": ROWS, "target": ROWS[:, 0]}, standardise=True)
    assert numbers.num_classes == 0
    assert numbers.targets["train"].std() == pytest.approx(1)


@pytest.mark.parametrize("name", ["{kind}_{part}", "{part}_{kind}"])
def test_members_of_each_split(tmp_path, name):
    """The files of Keras (x_train, y_train, x_test, y_test) and MedMNIST (train_images, ...)."""
    kinds = {"{kind}_{part}": ("x", "y"), "{part}_{kind}": ("images", "labels")}[name]
    parts = {"train": slice(0, 36), "test": slice(36, 60)}
    members = {
        name.format(kind=kind, part=part): array[rows]
        for part, rows in parts.items()
        for kind, array in zip(kinds, (IMAGES, LABELS), strict=True)
    }
    data = convert(load(tmp_path, members), LabelledImages)
    assert [len(data.labels[split]) for split in SPLITS] == [18, 18, 24]
    np.testing.assert_array_equal(data.images["test"], IMAGES[36:, ..., None])


def test_a_member_that_says_the_split(tmp_path):
    members = {"images": IMAGES, "labels": LABELS, "split": WORDS[LABELS // 2]}
    classes = convert(load(tmp_path, members), ImageClasses)
    assert [classes.splits[split].tolist() for split in SPLITS] == [[0, 1], [2, 3], [4, 5]]
    members["split"] = WORDS[np.arange(60) // 6 % 3]
    data = convert(load(tmp_path, members), LabelledImages)
    assert data.origins["test"][:2] == ("row 12", "row 13")
    named = {"a": IMAGES, "b": LABELS, "c": WORDS[LABELS // 2], "images": COLOUR}
    with pytest.warns(UserWarning, match=r"^data.path=.*a.npz: not read: images; other members"):
        chosen = load(tmp_path, named, inputs="a", labels="b", split="c")
    assert convert(chosen, ImageClasses).images.shape == (6, 10, 6, 5, 1)


def test_members_of_a_test_split_beside_bare_ones(tmp_path):
    """X, y are the training rows where X_test, y_test are there, too."""
    held_out = {"X_test": ROWS + 9, "y_test": LABELS}
    found = load(tmp_path, {"X": ROWS, "y": LABELS, **held_out}, split_seed=None)
    np.testing.assert_array_equal(found.inputs["test"], ROWS + 9)
    assert [len(found.targets[split]) for split in SPLITS] == [34, 26, 60]
    with pytest.warns(UserWarning, match="a.npz: not read: X_test; other members"):
        found = load(tmp_path, {"X": ROWS, "y": LABELS, "X_test": ROWS})
    assert len(found.targets["test"]) == 18
    with pytest.warns(UserWarning, match="a.npz: not read: X_test, y_test; other members"):
        load(tmp_path, {"X": ROWS, "y": LABELS, **held_out}, inputs="X")


BY_CLASS = np.sort(LABELS)


def rows_by_members(folder, part_of):
    parts = dict(zip(("train", "val", "test"), (part_of == i for i in range(3)), strict=True))
    members = {
        f"{kind}_{part}": of[rows]
        for part, rows in parts.items()
        for kind, of in (("x", ROWS), ("y", BY_CLASS))
    }
    return load(folder, members, standardise=True)


def rows_by_split(folder, part_of):
    return load(folder, {"x": ROWS, "y": BY_CLASS, "split": WORDS[part_of]}, standardise=True)


def rows_of_a_table(folder, part_of):
    lines = zip(ROWS[:, 0], WORDS[part_of], BY_CLASS, strict=True)
    text = "\n".join(["a,b,y", *(f"{a},{b},{y}" for a, b, y in lines)])
    return read(folder, text, split="b", standardise=True)


@pytest.mark.parametrize("rows", [rows_by_members, rows_by_split, rows_of_a_table])
def test_few_shot_classes_of_rows_stay_in_the_split_of_the_files(tmp_path, rows):
    part_of = np.array([2, 0, 1, 2, 0, 0])[BY_CLASS]
    classes = convert(rows(tmp_path, part_of), ImageClasses)
    assert [classes.splits[split].tolist() for split in SPLITS] == [[1, 4, 5], [2], [0, 3]]
    with pytest.raises(ValueError, match="the class 0 is among the samples for train and among th"):
        convert(rows(tmp_path, np.arange(60) % 3), ImageClasses)


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        (
            {"images": IMAGES, "y": LABELS},
            {"targets": "numbers"},
            "targets=numbers, but the inputs are images, .*save the images as rows",
        ),
        (
            {"x": ROWS, "y": LABELS, "split": WORDS[LABELS // 2], "x_val": ROWS, "y_val": LABELS},
            {},
            "split=split: .* says the split of each sample, and has x_val of another split",
        ),
        (
            {"foo": IMAGES, "labels": LABELS},
            {},
            "inputs=null: .* foo, labels, and which are the in",
        ),
        ({"images": IMAGES}, {}, "labels=null: .* images, and which are the labels is not known"),
        ({"images": IMAGES, "y": LABELS}, {"inputs": "x"}, "inputs=x: .* the members images, y"),
        (
            {"images": COLOUR.transpose(0, 3, 1, 2), "y": LABELS},
            {},
            "save images.transpose.0, 2, 3",
        ),
        ({"images": COLOUR[..., :2], "y": LABELS}, {}, "2 channels; save one channel .grey. or th"),
        ({"images": IMAGES / 255, "y": LABELS}, {}, "float64 .60, 6, 5., but images are uint8"),
        (
            {"images": IMAGES, "y": LABELS[:9]},
            {},
            "as many inputs, .n, ...., as labels, .n,., are",
        ),
        ({"images": IMAGES, "y": np.eye(6)[LABELS]}, {}, "one label for each sample .*argmax"),
        ({"images": IMAGES, "y": LABELS + 0.5}, {}, "labels: those of images are classes"),
        ({"images": IMAGES, "y": 0 * LABELS}, {}, "every row has the target 0, but at least two"),
        ({"images": IMAGES[:, None, None], "y": LABELS}, {}, "but images are .n, height, width"),
        ({"x": ROWS * np.inf, "y": LABELS}, {}, "row 0 of the inputs has -?inf in column 0"),
        ({"x": ROWS.astype(str), "y": LABELS}, {}, "but rows are numbers, .n, p."),
        ({"x": ROWS, "y": LABELS * np.nan}, {}, "targets: the label of row 0 is nan, but a finite"),
        (
            {"images": IMAGES, "y": LABELS, "split": LABELS},
            {},
            "split is int64 .60., but a text for",
        ),
        (
            {"images": IMAGES, "y": LABELS, "split": np.full(60, "foo")},
            {},
            "split of row 0 is 'foo'; write train, validation or test",
        ),
        (
            {"images": IMAGES, "y": LABELS, "split": np.full(60, "test")},
            {},
            "split has no row that is train",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": COLOUR, "y_test": LABELS},
            {},
            "x_test is uint8 .60, 6, 5, 3., but that of train uint8 .60, 6, 5.; all must have one",
        ),
    ],
)
def test_arrays_of_another_form(tmp_path, members, options, message):
    assert re.search(message, refusal(load, tmp_path, members, **options))


def test_no_path_and_no_archive(tmp_path):
    assert "name an .npz file with data.path=FILE" in refusal(arrays, path=None, **ARRAYS)
    (tmp_path / "a").write_bytes(b"<html>")
    found = refusal(arrays, path=str(tmp_path / "a"), **ARRAYS)
    assert "it is a web page, saved under this name: download the file itself" in found
    assert "/dev/zero is a device" in refusal(arrays, path="/dev/zero", **ARRAYS)


# Tables.


def read(folder, text, **options):
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return table(path=str(folder / "a.csv"), **{**TABLE, **options})


def csv_of(cells, header="a,b,y", rows=10):
    return "\n".join([header, *(cells(i) for i in range(rows))]) + "\n"


NUMBERS = csv_of(lambda i: f"{i},{i % 3}.5,{i % 2}")


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
