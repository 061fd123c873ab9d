"""The four files of MNIST's form: where they are, what they hold, how it is split."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.data.idx import parse_idx, read_content
from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages, Sizes, split_parts, split_rows

PARTS = ("train", "t10k")
STEMS = tuple(f"{part}-{kind}-ubyte" for part in PARTS for kind in ("images-idx3", "labels-idx1"))
NUM_CLASSES = 10
SIDE = 28


class MnistFiles(NamedTuple):
    """What the four files hold.

    images, labels: {"train", "t10k": uint8 (n, 28, 28, 1) and int32 (n,)}
    digests: {path: SHA-256 of its unpacked content}
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    digests: dict[Path, str]


def find_files(folders: Iterable[Path]) -> list[Path] | None:
    """The files of the first folder with all four; None where there are none.

    Each plain or .gz, with "-idx3" or ".idx3" in its name, in a folder of its own or not. Raises
    ValueError where a folder holds some of them and no folder all.
    """
    incomplete = ""
    for folder in folders:
        found = {stem: path for stem in STEMS if (path := _find(folder, stem))}
        if len(found) == len(STEMS):
            return list(found.values())
        if found and not incomplete:
            absent = ", ".join(f"{stem}(.gz)" for stem in STEMS if stem not in found)
            names = ", ".join(path.name for path in found.values())
            incomplete = f"{folder} holds {names} but not {absent}; put it beside the rest"
    if incomplete:
        raise ValueError(incomplete)
    return None


def _find(folder: Path, stem: str) -> Path | None:
    dotted = stem.replace("-idx", ".idx")
    names = [f"{form}{suffix}" for form in (stem, dotted) for suffix in ("", ".gz")]
    places = [folder / name for name in names]
    places += [folder / outer / name for outer in names for name in names]
    return next((path for path in places if path.exists() and not path.is_dir()), None)


def read_files(paths: list[Path]) -> MnistFiles:
    """What `find_files` found. Raises ValueError where a file is damaged or of another form."""
    images, labels, digests = {}, {}, {}
    pairs = zip(paths[::2], paths[1::2], strict=True)
    for part, (of_images, of_labels) in zip(PARTS, pairs, strict=True):
        contents = {path: read_content(path) for path in (of_images, of_labels)}
        pixels = parse_idx(contents[of_images], of_images, num_dimensions=3)
        classes = parse_idx(contents[of_labels], of_labels, num_dimensions=1)
        _check(of_images, pixels, of_labels, classes)
        images[part] = pixels[..., None]
        labels[part] = classes.astype(np.int32)
        digests |= {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
    return MnistFiles(images, labels, digests)


def split_files(files: MnistFiles, sizes: Sizes, seed: int | None, pooled: bool) -> LabelledImages:
    """Training and validation from the train file and test from t10k, or all three from a pool.

    The pool is the train file, then t10k. Raises ValueError on sizes that cannot be had.
    """
    images, labels = ([of[part] for part in PARTS] for of in (files.images, files.labels))
    counts = [len(of_part) for of_part in labels]
    if pooled:
        # BDA's reader (TensorFlow's read_data_sets, joined again) puts rows 5000.. of the train
        # file first. The sizes are those of its protocol; its order is not reproduced.
        images, labels = [np.concatenate(images)], [np.concatenate(labels)]
        rows = split_rows(sum(counts), sizes, seed)
    else:
        rows = split_parts(list(zip(counts, (SPLITS[:2], SPLITS[2:]), strict=True)), sizes, seed)
    # Of a pool, the last part is the first one too.
    source = {"train": 0, "validation": 0, "test": -1}
    return LabelledImages(
        {split: images[source[split]][rows[split]] for split in SPLITS},
        {split: labels[source[split]][rows[split]] for split in SPLITS},
        NUM_CLASSES,
    )


def _check(of_images: Path, images: np.ndarray, of_labels: Path, labels: np.ndarray) -> None:
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{of_images} holds images of {images.shape[1]}x{images.shape[2]}, but {SIDE}x{SIDE} "
            "is needed; get the file again"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{of_images} holds {len(images)} images, but {of_labels} {len(labels)} labels; get "
            "both files again, from one place"
        )
    if labels.size and labels.max() >= NUM_CLASSES:
        row = int(np.argmax(labels >= NUM_CLASSES))
        raise ValueError(
            f"{of_labels} has the label {labels[row]} (row {row}), but labels are "
            f"0..{NUM_CLASSES - 1}; get the file again"
        )
