"""Omniglot at 28x28 from one npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from src.data.image_classes import ImageClasses, split_classes

FILE = "omniglot28.npz"


def omniglot(
    *, root: str | None, split_sizes: tuple[int, int, int], split_seed: int = 0
) -> ImageClasses:
    """1,623 characters of 50 alphabets, 20 drawings each, from `root`/omniglot28.npz.

    The file holds `images`, uint8 (classes, drawings, 28, 28) with 0 for ink and 255 for paper,
    and `characters`, "alphabet/character" per class. Lake, Salakhutdinov, Tenenbaum: Human-level
    concept learning through probabilistic program induction, Science 2015.

    Raises ValueError where the file is missing, truncated or of another form.
    """
    if root is None:
        raise ValueError(
            f"root is not set: name the folder that holds {FILE}, with data.root=FOLDER or the "
            "environment variable BILEVEL_DATA; data=glyphs needs no file"
        )
    path = Path(root) / FILE
    if not path.is_file():
        raise ValueError(
            f"root={root} holds no {FILE}: name the folder that does, or choose data=glyphs, "
            "which needs no file"
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            images, names = archive["images"], archive["characters"]
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"root={root}: {FILE} is damaged or not the file that is meant ({error}); copy it again"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2:] != (28, 28):
        raise ValueError(
            f"root={root}: `images` of {FILE} is {images.dtype} {images.shape}, "
            "but uint8 (classes, drawings, 28, 28) is needed"
        )
    if names.shape != images.shape[:1] or names.dtype.kind != "U":
        raise ValueError(
            f"root={root}: `characters` of {FILE} is {names.dtype} {names.shape}, but a text for "
            f"each of the {images.shape[0]} classes is needed"
        )
    order = np.argsort(names)
    sorted_names = tuple(str(name) for name in names[order])
    ink = 255 - images[order][..., None]
    return ImageClasses(ink, sorted_names, split_classes(sorted_names, split_sizes, split_seed))
