"""Labelled images: files of MNIST's form, the digits of scikit-learn, and how rows are split."""

import hashlib
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from src.data import fashion_mnist as fashion_module
from src.data import mnist as mnist_module
from src.data.digits import digits
from src.data.fashion_mnist import INSTALLED, fashion_mnist
from src.data.image_classes import SPLITS
from src.data.labelled import split_parts, split_rows
from src.data.mnist import mnist
from src.data.mnist_files import STEMS
from src.settings.config import call, check_node, resolve
from src.settings.errors import UserError
from tests.conftest import ROOT
from tests.test_idx import idx_bytes, small_arrays, write_idx_files

OPTIONS = {"split_sizes": (5, 3, None), "split_seed": 0, "pooled": False}
LOADERS = {"mnist": mnist, "fashion_mnist": fashion_mnist}
PLACES = {
    "mnist": ["", "mnist", "MNIST", "MNIST/raw"],
    "fashion_mnist": ["", "fashion_mnist", "fashion-mnist", "FashionMNIST/raw"],
}


@pytest.fixture(autouse=True)
def _own_files(tmp_path, monkeypatch):
    """The small files are the official ones, and Debian's package is not installed."""
    digests = tuple(hashlib.sha256(idx_bytes(a)).hexdigest() for a in small_arrays().values())
    monkeypatch.setattr(fashion_module, "OFFICIAL", digests)
    monkeypatch.setattr(fashion_module, "INSTALLED", tmp_path / "not" / "installed")


def load(loader, root, **options):
    return LOADERS[loader](root=None if root is None else str(root), **{**OPTIONS, **options})


def refusal(loader, root, **options):
    with pytest.raises(ValueError, match=r"^\w+(=| is )") as refused:
        load(loader, root, **options)
    return str(refused.value)


def rows_of(data, arrays, part):
    """For each split, the rows of the file `part` that its images are, found by their pixels."""
    places = {image.tobytes(): i for i, image in enumerate(arrays[f"{part}-images-idx3-ubyte"])}
    labels = arrays[f"{part}-labels-idx1-ubyte"]
    rows = {}
    for split in SPLITS:
        rows[split] = [places.get(image.tobytes()) for image in data.images[split]]
        pairs = zip(rows[split], data.labels[split], strict=True)
        assert all(labels[i] == label for i, label in pairs if i is not None)
    return rows


# Files of MNIST's form.


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("loader", "place"), [(k, p) for k, of in PLACES.items() for p in of])
def test_every_place_and_form_gives_the_same(tmp_path, loader, place, suffix):
    arrays = small_arrays()
    write_idx_files(tmp_path / place, arrays, suffix)
    data = load(loader, tmp_path)
    assert data.num_classes == 10
    assert [data.images[split].shape for split in SPLITS] == [(n, 28, 28, 1) for n in (5, 3, 6)]
    assert all(data.images[s].dtype == np.uint8 for s in SPLITS)
    assert all(data.labels[s].dtype == np.int32 for s in SPLITS)
    order = np.random.default_rng(0).permutation(12)
    train, test = (rows_of(data, arrays, part) for part in ("train", "t10k"))
    assert train["train"] == list(order[:5])
    assert train["validation"] == list(order[5:8])
    assert test["test"] == list(np.random.default_rng(0).permutation(6))
    assert not any(i is not None for i in [*train["test"], *test["train"], *test["validation"]])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["dotted", "a folder for each", "both"])
def test_other_names_and_a_folder_for_each_file(tmp_path, layout, suffix):
    write_idx_files(tmp_path, small_arrays(), suffix)
    for path in list(tmp_path.iterdir()):
        name = path.name if layout == "a folder for each" else path.name.replace("-idx", ".idx")
        content = path.read_bytes()
        path.unlink()
        folder = tmp_path if layout == "dotted" else tmp_path / path.name
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    data = load("mnist", tmp_path)
    assert [len(data.labels[split]) for split in SPLITS] == [5, 3, 6]


def test_rows_as_stored_and_a_part_of_the_test_file(tmp_path):
    arrays = small_arrays()
    write_idx_files(tmp_path, arrays)
    data = load("mnist", tmp_path, split_sizes=(None, 3, 4), split_seed=None)
    train, test = (rows_of(data, arrays, part) for part in ("train", "t10k"))
    assert train["train"] == list(range(9))
    assert train["validation"] == [9, 10, 11]
    assert test["test"] == [0, 1, 2, 3]


def test_pooled_files_are_train_then_test(tmp_path):
    arrays = small_arrays()
    write_idx_files(tmp_path, arrays)
    images = np.concatenate([arrays[STEMS[0]], arrays[STEMS[2]]])[..., None]
    labels = np.concatenate([arrays[STEMS[1]], arrays[STEMS[3]]])
    for seed in (None, 3):
        data = load("mnist", tmp_path, split_sizes=(10, 4, None), split_seed=seed, pooled=True)
        order = np.arange(18) if seed is None else np.random.default_rng(seed).permutation(18)
        for split, rows in zip(SPLITS, np.split(order, [10, 14]), strict=True):
            np.testing.assert_array_equal(data.images[split], images[rows])
            np.testing.assert_array_equal(data.labels[split], labels[rows])


def spoil(kind, folder):
    arrays = small_arrays()
    images, labels, test_images, test_labels = STEMS
    changes = {
        "cut image file": {},
        "half of the files": {},
        "nothing": {},
        "one label less": {labels: arrays[labels][:-1]},
        "label 10": {test_labels: np.array([0, 1, 10, 2, 3, 4])},
        "other images": {test_images: arrays[test_images][:, :27]},
        "labels as images": {images: arrays[labels]},
    }
    write_idx_files(folder, arrays | changes[kind], suffix="")
    if kind == "cut image file":
        (folder / images).write_bytes((folder / images).read_bytes()[:-1])
    removed = {"nothing": STEMS, "half of the files": STEMS[1:3]}.get(kind, ())
    for stem in removed:
        (folder / stem).unlink()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut image file", ": .*train-images-idx3-ubyte is truncated"),
        (
            "half of the files",
            r": .* holds train-images-idx3-ubyte, t10k-labels-idx1-ubyte but not train-labels-idx1-"
            r"ubyte\(.gz\), t10k-images-idx3-ubyte\(.gz\); put it beside the rest",
        ),
        ("nothing", ".*data=digits, which needs no file"),
        ("one label less", ": .*train-images-idx3-ubyte holds 12 images, but .* 11 labels"),
        ("label 10", r": .*t10k-labels-idx1-ubyte has the label 10 \(row 2\), but labels are 0..9"),
        ("other images", ": .*t10k-images-idx3-ubyte holds images of 27x28, but 28x28 is needed"),
        ("labels as images", ": .*train-images-idx3-ubyte has 1 dimensions, but 3 are needed"),
    ],
)
def test_what_is_wrong_with_files_is_named(tmp_path, loader, kind, message):
    spoil(kind, tmp_path)
    expected = f"^root={re.escape(str(tmp_path))}{message}"
    assert re.search(expected, refusal(loader, tmp_path)), refusal(loader, tmp_path)


@pytest.mark.parametrize("loader", LOADERS)
def test_no_root_or_none_that_is_there(tmp_path, loader):
    assert refusal(loader, None).startswith(("root=null: ", "root is not set: "))
    assert "data=digits" in refusal(loader, None)
    assert f"root={tmp_path / 'absent'} is not a folder: " in refusal(loader, tmp_path / "absent")


def test_debian_s_files_where_root_has_none(tmp_path, monkeypatch):
    assert "`apt-get install dataset-fashion-mnist`" in refusal("fashion_mnist", None)
    monkeypatch.setattr(fashion_module, "INSTALLED", tmp_path / "debian")
    write_idx_files(tmp_path / "debian", small_arrays())
    (tmp_path / "root").mkdir()
    found = [load("fashion_mnist", root) for root in (None, tmp_path / "root", tmp_path / "debian")]
    for data in found[1:]:
        np.testing.assert_array_equal(data.images["test"], found[0].images["test"])
    # What is not verified is asked for by its place.
    message = refusal("fashion_mnist", tmp_path / "root", verify=False)
    assert "are not found; with verify=false, nowhere else is looked" in message


def test_files_that_are_not_official_are_refused(tmp_path):
    arrays = small_arrays()
    arrays[STEMS[2]][3, 4, 5] ^= 1
    write_idx_files(tmp_path, arrays)
    message = refusal("fashion_mnist", tmp_path)
    assert re.match(r"verify=true: .*/t10k-images-idx3-ubyte.gz is a whole file but not", message)
    assert "verify=false to use it as it is" in message
    assert len(load("fashion_mnist", tmp_path, verify=False).labels["test"]) == 6


def test_mnist_is_not_taken_from_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_module, "FASHION", fashion_module.OFFICIAL)
    write_idx_files(tmp_path, small_arrays())
    assert re.search(
        "a file of Fashion-MNIST; choose data=fashion_mnist", refusal("mnist", tmp_path)
    )
    write_idx_files(tmp_path / "mnist", small_arrays(seed=1))
    assert load("mnist", tmp_path).num_classes == 10


NEED_FILES = ("fashion_mnist", "mnist", "libsvm", "table", "arrays", "image_folder")


@pytest.mark.parametrize("name", ["digits", "bundled_table", *NEED_FILES])
def test_the_yaml_s_own_options_load_or_are_refused_with_the_full_key(name, tmp_path):
    options = OmegaConf.load(ROOT / "conf" / "data" / f"{name}.yaml")
    if "root" in options:
        options.root = str(tmp_path)
    node = check_node("data", resolve(options))
    assert node is not None
    if name not in NEED_FILES:
        assert call(node).num_classes > 1
    else:
        with pytest.raises(UserError, match=r"^data\.(root|path)(=|: )"):
            call(node)


@pytest.mark.skipif(
    not INSTALLED.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.undo()
    data = load("fashion_mnist", None, split_sizes=(5000, 5000, None))
    assert [len(data.labels[split]) for split in SPLITS] == [5000, 5000, 10_000]
    assert np.bincount(data.labels["test"]).tolist() == [1000] * 10
    assert "a file of Fashion-MNIST" in refusal("mnist", INSTALLED)


# Digits.


def test_digits_are_scaled_to_bytes():
    data = digits(split_sizes=(600, 600, None), split_seed=0)
    assert [data.images[split].shape for split in SPLITS] == [(n, 8, 8, 1) for n in (600, 600, 597)]
    assert np.unique(data.images["train"]).tolist() == [round(v * 255 / 16) for v in range(17)]
    stored = digits(split_sizes=(600, 600, None), split_seed=None)
    assert stored.labels["train"][:12].tolist() == [*range(10), 0, 1]
    assert stored.labels["train"].dtype == np.int32
    assert stored.images["train"][0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


# Splits.


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2, 3, 4), (2, 3, 4)),
        ((2, 3, None), (2, 3, 5)),
        ((None, 3, 4), (3, 3, 4)),
        (None, (4, 3, 3)),
    ],
)
def test_splits_are_disjoint_and_drawn_by_the_seed(sizes, expected):
    rows = split_rows(10, sizes, 7)
    assert list(rows) == list(SPLITS)
    assert tuple(len(of_split) for of_split in rows.values()) == expected
    together = np.concatenate(list(rows.values()))
    np.testing.assert_array_equal(
        together, np.random.default_rng(7).permutation(10)[: sum(expected)]
    )


def test_sizes_of_files_of_their_own():
    parts = [(14, ("train", "validation")), (5, ("test",))]
    for sizes, expected in (
        (None, [8, 6, 5]),
        ((None, 2, None), [12, 2, 5]),
        ((1, 2, 3), [1, 2, 3]),
    ):
        assert [len(rows) for rows in split_parts(parts, sizes, 0).values()] == expected


@pytest.mark.parametrize(
    ("num_rows", "sizes", "message"),
    [
        (
            10,
            (8, 3, None),
            r"split_sizes=\[8,3,null\] asks for at least 12 rows \(train, validation, ",
        ),
        (10, (5, 5, None), r"but there are 10; choose for example split_sizes=\[4,3,null\]"),
        (10, (5, 5, 5), r"split_sizes=\[5,5,5\] asks for at least 15 rows"),
        (10, (0, 5, None), r"split_sizes=\[0,5,null\]: every size must be at least 1, or null"),
        (10, (-1, 5, None), "every size must be at least 1"),
        (10, (None, 5, None), r"split_sizes=\[null,5,null\]: .* only one may be null"),
        (2, None, "split_sizes=null asks for at least 3 rows .* there are 2; get more of them"),
    ],
)
def test_sizes_that_cannot_be_had(num_rows, sizes, message):
    with pytest.raises(ValueError, match=f"^.*{message}") as refused:
        split_rows(num_rows, sizes, 0)
    assert str(refused.value).startswith("split_sizes=")


def test_bad_sizes_of_files_and_a_bad_seed(tmp_path):
    write_idx_files(tmp_path, small_arrays())
    message = refusal("mnist", tmp_path, split_sizes=(10, 3, None))
    assert "at least 13 rows (train, validation), but there are 12" in message
    assert message.endswith("choose for example split_sizes=[6,null,null]")
    message = refusal("mnist", tmp_path, split_sizes=(10, 2, 7))
    assert "at least 7 rows (test), but there are 6" in message
    assert "split_seed=-1 must not be negative" in refusal("mnist", tmp_path, split_seed=-1)
