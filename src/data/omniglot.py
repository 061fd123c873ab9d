"""Omniglot at 28x28: from the official archives, their folders, or one npz file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.data_root import data_root
from src.data.image_classes import ImageClasses, add_rotations, split_classes
from src.data.npz import read_npz
from src.data.omniglot_images import OFFICIAL, RESIZED, find_sources, read_images

FILE = "omniglot28.npz"
ADVICE = (
    f"download {OFFICIAL[0]}.zip and {OFFICIAL[1]}.zip from "
    "https://github.com/brendenlake/omniglot (folder python), put them there, zipped or unpacked; "
    "or choose data=glyphs, which needs no file"
)


def omniglot(
    *,
    root: str | None,
    split_sizes: tuple[int, int, int],
    split_seed: int = 0,
    rotations: bool = False,
) -> ImageClasses:
    """1,623 characters of 50 alphabets, 20 drawings each, from what `root` holds.

    Either images_background and images_evaluation, each as the official zip file or unpacked
    (105x105, averaged down), in `root`, python/ (a clone of the official repository) or
    omniglot-py/ (torchvision's); or all alphabets as folders; or omniglot_resized/ (BOML's folder);
    or omniglot28.npz: `images`, uint8 (classes, drawings, 28, 28) with 0 for ink, and `characters`,
    "alphabet/character".
    `rotations` adds each character turned by 90, 180 and 270 degrees as further classes, in the
    split of the character (Santoro et al., ICML 2016). Lake, Salakhutdinov, Tenenbaum: Human-level
    concept learning through probabilistic program induction, Science 2015.

    Raises ValueError where nothing is found, or what is found is damaged or of another form.
    """
    folder = data_root(root, ADVICE)
    try:
        found = _read(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"root={root}: {error}") from error
    if found is None:
        looked_for = ", ".join((*OFFICIAL, RESIZED, FILE))
        raise ValueError(f"root={root} holds none of {looked_for}: {ADVICE}")
    images, names = found
    order = np.argsort(names)
    sorted_names = tuple(str(names[i]) for i in order)
    ink = 255 - images[order][..., None]
    splits = split_classes(sorted_names, split_sizes, split_seed)
    classes = ImageClasses(ink, sorted_names, splits)
    return add_rotations(classes) if rotations else classes


def _read(folder: Path) -> tuple[np.ndarray, Sequence[str] | np.ndarray] | None:
    """(images, names) from the first form of the data set that is there; None without any."""
    if (folder / FILE).is_file():
        return _read_npz(folder / FILE)
    sources = find_sources(folder)
    return read_images(sources) if sources else None


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    arrays = read_npz(path, ("images", "characters"))
    for name in ("images", "characters"):
        if name not in arrays:
            raise ValueError(f"{FILE} has no member {name}: it is not the file that is meant")
    images, names = arrays["images"], arrays["characters"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2:] != (28, 28):
        raise ValueError(
            f"`images` of {FILE} is {images.dtype} {images.shape}, "
            "but uint8 (classes, drawings, 28, 28) is needed"
        )
    if names.shape != images.shape[:1] or names.dtype.kind != "U":
        raise ValueError(
            f"`characters` of {FILE} is {names.dtype} {names.shape}, but a text for "
            f"each of the {images.shape[0]} classes is needed"
        )
    if len(np.unique(names)) < len(names):
        raise ValueError(
            f"`characters` of {FILE} names a class twice; a class is in one split only"
        )
    return images, names
