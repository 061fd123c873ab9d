"""The embedded data set: what is in it, how hard it is, its cache and its refusals."""

import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from src.data import glyphs as module
from src.data.array_cache import read_arrays, write_arrays
from src.data.glyphs import glyphs
from src.data.image_classes import ImageClasses, split_classes
from src.data.inspect_images import contact_sheet, nearest_neighbour_accuracy

SIZES = (1000, 100, 200)
SMALL = (4, 2, 2)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A cache folder in which the default set has been built."""
    folder = tmp_path_factory.mktemp("glyphs")
    glyphs(root=str(folder), split_sizes=SIZES)
    return folder


@pytest.fixture
def whole(folder) -> ImageClasses:
    return glyphs(root=str(folder), split_sizes=SIZES)


@pytest.fixture
def builds(monkeypatch) -> list[tuple]:
    """Replaces the drawing by something tiny; the list grows by one with each build."""
    made = []

    def build(num_drawings, distortion):
        made.append((num_drawings, distortion))
        shape = (8, num_drawings, 28, 28, 1)
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        return {"images": images, "names": np.array([f"made/{i}" for i in range(8)])}

    monkeypatch.setattr(module, "_build", build)
    return made


def scripts(classes: ImageClasses, split: str) -> set[str]:
    return {classes.names[i].partition("/")[0] for i in classes.splits[split]}


def test_form(whole):
    assert whole.images.dtype == np.uint8
    assert whole.images.shape == (len(whole.names), 20, 28, 28, 1)
    assert len(whole.names) >= 1300
    assert list(whole.names) == sorted(set(whole.names))
    assert len({name.partition("/")[0] for name in whole.names}) == 15
    assert [len(whole.splits[s]) for s in ("train", "validation", "test")] == list(SIZES)
    together = np.concatenate(list(whole.splits.values()))
    assert len(set(together.tolist())) == sum(SIZES)


def test_no_drawing_is_empty_or_cut_off(whole):
    ink = whole.images[..., 0] / 255
    assert ink.max((2, 3)).min() > 0.8
    assert ink.mean((2, 3)).min() > 0.01
    assert ink.mean((2, 3)).max() < 0.5
    border = np.concatenate([ink[..., 0], ink[..., -1], ink[..., 0, :], ink[..., -1, :]], -1)
    assert (border > 0.5).any(-1).mean() < 0.02


def test_no_two_classes_and_no_two_drawings_are_identical(whole):
    drawings = whole.images.reshape(-1, 28 * 28)
    assert len({drawing.tobytes() for drawing in drawings}) == len(drawings)


def test_look_alikes_are_one_class(whole):
    def present(letters: str) -> list[str]:
        names = [unicodedata.name(letter).lower().split(" ", 1) for letter in letters]
        return [name for name in ("/".join(parts) for parts in names) if name in whole.names]

    assert present("AΑА") == ["latin/capital letter a"]
    for letters in ("OoΟοОо", "CcСс", "SsЅѕ", "XxХх", "BВΒ", "HНΗ", "Vvⅴ"):
        assert len(present(letters)) == 1, letters
    assert len(present("Aa")) == len(present("Gg")) == len(present("Bb")) == 2


def test_a_second_build_is_equal(whole):
    again = module._build(20, 1.0)
    np.testing.assert_array_equal(again["images"], whole.images)
    assert tuple(again["names"]) == whole.names


def test_pixels_are_neither_trivial_nor_hopeless(whole):
    mean, interval = nearest_neighbour_accuracy(whole, "test", 5, 1, 400, 0)
    assert 0.42 < mean < 0.58
    assert interval < 0.02


def test_split_by_script_shares_no_script(folder):
    for seed in range(3):
        classes = glyphs(root=str(folder), split_sizes=SIZES, split_seed=seed, split_by_script=True)
        train, validation, test = (scripts(classes, s) for s in ("train", "validation", "test"))
        assert not train & validation
        assert not train & test
        assert not validation & test
        assert [len(indices) for indices in classes.splits.values()] == list(SIZES)


def test_distortion_zero_leaves_only_the_faces():
    from src.data.glyph_distortion import choose_warps, draw
    from src.data.glyph_rendering import open_faces, render

    fields = [render(face, ord("R")) for face in open_faces()[:3]]
    distances = np.stack([field.distances for field in fields])
    plain = draw(distances, *choose_warps(fields, ord("R"), 6, 0.0))
    np.testing.assert_array_equal(plain[:3], plain[3:])
    assert len({drawing.tobytes() for drawing in plain}) == 3
    distorted = draw(distances, *choose_warps(fields, ord("R"), 6, 1.0))
    assert len({drawing.tobytes() for drawing in distorted}) == 6


def test_split_does_not_depend_on_the_order_of_names():
    names = [f"s{i % 7}/{i:03d}" for i in range(100)]
    shuffled = [names[i] for i in np.random.default_rng(1).permutation(100)]
    for by_group in (False, True):
        first = split_classes(names, (60, 15, 10), 3, by_group)
        second = split_classes(shuffled, (60, 15, 10), 3, by_group)
        for split in first:
            assert {names[i] for i in first[split]} == {shuffled[i] for i in second[split]}
    other = split_classes(names, (60, 15, 10), 4)
    assert set(other["test"].tolist()) != set(split_classes(names, (60, 15, 10), 3)["test"])


def test_split_uses_every_class_of_omniglot():
    splits = split_classes([f"a{i % 50}/{i}" for i in range(1623)], (1200, 100, 323), 0)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(1623))


def test_split_by_group_finds_the_only_way():
    # Groups of 5, 3, 3, 2: only 5 | 3 + 3 | 2 gives (5, 6, 2).
    names = [
        f"{group}/{i}" for group, n in zip("abcd", (5, 3, 3, 2), strict=True) for i in range(n)
    ]
    for seed in range(10):
        splits = split_classes(names, (5, 6, 2), seed, by_group=True)
        assert {names[i][0] for i in splits["validation"]} == {"b", "c"}


def test_second_call_reads_the_cache(folder, monkeypatch, capsys):
    monkeypatch.setattr(module, "_build", lambda *_: pytest.fail("built again"))
    glyphs(root=str(folder), split_sizes=SIZES)
    assert capsys.readouterr().err == ""


def test_cache_follows_the_options(tmp_path, builds, capsys):
    for drawings, distortion in ((2, 1.0), (3, 1.0), (2, 0.5), (2, 1.0), (3, 1.0)):
        classes = glyphs(
            root=str(tmp_path), split_sizes=SMALL, num_drawings=drawings, distortion=distortion
        )
        assert classes.images.shape[1] == drawings
    assert builds == [(2, 1.0), (3, 1.0), (2, 0.5)]
    assert len(list(tmp_path.iterdir())) == 3
    assert capsys.readouterr().err.count("once, some seconds") == 3


def test_default_folder_is_the_users_cache(tmp_path, builds, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    glyphs(split_sizes=SMALL)
    assert len(list((tmp_path / "cache" / "bilevel" / "glyphs").glob("glyphs-*.npz"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    glyphs(split_sizes=SMALL)
    glyphs(split_sizes=SMALL)
    assert len(list((tmp_path / "home/.cache/bilevel/glyphs").iterdir())) == 1
    assert len(builds) == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(bytes(contents))


def exchange(path: Path) -> None:
    """A sound zip file whose images are not those that were written."""
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["images"][0, 0, 0, 0, 0] ^= 1
    np.savez(path, **arrays)


@pytest.mark.parametrize("damage", [cut, empty, flip, exchange])
def test_damaged_cache_is_built_anew(tmp_path, builds, damage):
    sound = glyphs(root=str(tmp_path), split_sizes=SMALL)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.warns(UserWarning, match=path.name):
        again = glyphs(root=str(tmp_path), split_sizes=SMALL)
    np.testing.assert_array_equal(again.images, sound.images)
    glyphs(root=str(tmp_path), split_sizes=SMALL)
    assert len(builds) == 2


def test_default_folder_that_cannot_be_written_is_no_error(tmp_path, builds, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept"):
        assert len(glyphs(split_sizes=SMALL).names) == 8


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / "shared.npz"
    arrays = {"images": np.arange(200_000)}
    threads = [threading.Thread(target=write_arrays, args=(path, arrays)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.name for entry in tmp_path.iterdir()] == ["shared.npz"]
    read = read_arrays(path)
    assert read is not None
    np.testing.assert_array_equal(read["images"], arrays["images"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_drawings": 1}, r"^num_drawings=1 .*choose num_drawings=20"),
        ({"distortion": -0.1}, r"^distortion=-0\.1 .*choose distortion=1"),
        ({"distortion": 2.5}, r"^distortion=2\.5 is outside 0\.\.2"),
        ({"distortion": float("nan")}, r"^distortion=nan"),
        ({"split_sizes": (4, 0, 2)}, r"^split_sizes=\[4, 0, 2\] .*at least 1"),
        (
            {"split_sizes": (4, 2, 3)},
            r"^split_sizes=\[4, 2, 3\] .*has 8; choose split_sizes=\[3,2,3\]",
        ),
        ({"split_sizes": (90, 90, 90)}, r"^split_sizes=.*choose split_sizes=\[4,2,2\] or smaller"),
        ({"split_by_script": True}, r"^split_sizes=.*made 8.*split_by_script=false"),
    ],
)
def test_refusals(tmp_path, builds, options, message):
    with pytest.raises(ValueError, match=message):
        glyphs(root=str(tmp_path), **{"split_sizes": SMALL, **options})


def test_refuses_a_root_that_cannot_be_written(tmp_path, builds):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^root=.*cannot be written"):
        glyphs(root=str(tmp_path / "file"), split_sizes=SMALL)
    assert not builds


def test_contact_sheet(tmp_path, whole):
    contact_sheet(whole, "test", tmp_path / "sheet.png", 0, num_classes=3, num_drawings=4)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_nearest_neighbour_refuses_too_few(whole):
    with pytest.raises(ValueError, match="ways=201"):
        nearest_neighbour_accuracy(whole, "test", 201, 1, 10, 0)
