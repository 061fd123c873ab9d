"""miniImageNet at 84x84: from class folders, from CSV splits, or from cached pickles."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from statistics import median_high
from typing import Any, Literal

import jax
import numpy as np

from src.data.array_cache import default_folder, read_arrays, write_arrays
from src.data.data_root import data_root
from src.data.image_classes import SPLITS, ImageClasses
from src.data.mini_imagenet_files import decode_files, fingerprint, list_csv, list_folders
from src.data.mini_imagenet_pickles import PICKLES, UNNAMED, read_pickles, stack

PARTS = ("train", "val", "test")
FEWEST = 20  # images of a class: five to learn from and fifteen to be tested on
ADVICE = (
    "put there train/, val/ and test/ with a folder of images for each class; or images/ with "
    f"train.csv, val.csv and test.csv; or {', '.join(PICKLES[0])}"
)
Form = tuple[Callable[[Sequence[Path]], Mapping[str, Any]], list[Path]]


def mini_imagenet(
    *, root: str | None, streamed: Literal["auto", True, False] = "auto"
) -> ImageClasses:
    """100 classes of ImageNet, 600 photographs each: uint8 84x84x3, from what `root` holds.

    The first whole one of these; what it says is the split, as published 64, 16 and 20 classes:
    train/, val/, test/ with class folders (in `root`, or mini_v3/ or imagenet/mini_v3/ below it,
    as in BOML); images/ with train.csv, val.csv, test.csv; pickles (mini_imagenet_pickles.py).
    Images of another size are resized. Of every class as many images are kept as the smallest has,
    the first ones by file name, with a warning where most have more. Image files are decoded once
    and then read from the user's cache folder. Names are "split/class". Vinyals et al., NeurIPS
    2016; splits of Ravi and Larochelle, ICLR 2017.

    streamed: images stay in the computer's memory, and those of a task go to the accelerator when
    it is drawn. auto: where they would fill more than half of the accelerator's memory.

    Raises ValueError where nothing is found, where what is found is damaged or of another form,
    where a class has fewer than 20 images, or where a class is in two splits, by its name or by
    over half of its images (bit by bit: another encoding of the same photographs is not seen).
    """
    folder = data_root(root, ADVICE)
    try:
        images, names = _read(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"root={root}: {error}") from error
    split_of = np.array([name.partition("/")[0] for name in names])
    splits = {split: np.flatnonzero(split_of == split) for split in SPLITS}
    if streamed == "auto":
        streamed = _overfills(images.nbytes, jax.devices()[0])
    return ImageClasses(images, names, splits, streamed)


def _read(root: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(uint8 (classes, images of each, 84, 84, 3), "split/class", sorted)."""
    read, parts = _find(root)
    found = dict(sorted(read(parts).items()))
    _refuse_shared(found)
    for name, of_class in found.items():
        if len(of_class) < FEWEST:
            raise ValueError(
                f"the class {name} has {len(of_class)} images, but at least {FEWEST} are needed; "
                "copy the data set again, or leave the class out"
            )
    count = _common_count({name: len(of_class) for name, of_class in found.items()})
    images = stack(found, count) if read is read_pickles else _decode_once(found, count)
    _refuse_copies(images, tuple(found))
    return images, tuple(found)


def _find(root: Path) -> Form:
    """How to read what is there. Raises ValueError where a part, or all, is missing."""
    forms: list[Form] = [
        (list_folders, [base / part for part in PARTS])
        for base in (root, root / "mini_v3", root / "imagenet" / "mini_v3")
    ]
    forms.append((list_csv, [root / "images", *(root / f"{part}.csv" for part in PARTS)]))
    forms += [(read_pickles, [root / name for name in names]) for names in PICKLES]
    incomplete = ""
    for read, parts in forms:
        missing = [part for part in parts if not part.exists()]
        if not missing:
            return read, parts
        if len(missing) < len(parts) and not incomplete:
            there = ", ".join(part.name for part in parts if part not in missing)
            absent = ", ".join(str(part.relative_to(root)) for part in missing)
            incomplete = f"it holds {there} but not {absent}; put it beside the rest"
    raise ValueError(incomplete or f"no miniImageNet is there: {ADVICE}")


def _refuse_shared(names: Mapping[str, Any]) -> None:
    """A class of training that is tested on makes every score too good."""
    split_of: dict[str, str] = {}
    for name in names:
        split, _, label = name.partition("/")
        if not label.startswith(UNNAMED) and split_of.setdefault(label, split) != split:
            raise ValueError(
                f"the class {label} is in two splits, {split_of[label]} and {split}, so test "
                "scores would mean nothing; copy the published splits again"
            )


def _common_count(count_of: Mapping[str, int]) -> int:
    """The count of the smallest class, with a warning where that costs the usual class images."""
    shortest = min(count_of, key=lambda name: count_of[name])
    count, usual = count_of[shortest], median_high(count_of.values())
    if count < usual:
        warnings.warn(
            f"the class {shortest} has {count} images where {usual} are usual, so every class is "
            f"cut to {count}; copy the missing images, or leave the class out",
            stacklevel=2,
        )
    return count


def _refuse_copies(images: np.ndarray, names: Sequence[str]) -> None:
    """As `_refuse_shared`, for classes that have other names but the same images."""
    # 60,000 images take 1.5 seconds. 8 bytes suffice against chance, and half a class must agree.
    digests = {
        name: [blake2b(image, digest_size=8).digest() for image in of_class]
        for name, of_class in zip(names, images, strict=True)
    }
    for split in SPLITS:
        inside = [name for name in names if name.startswith(f"{split}/")]
        owner = {digest: name for name in inside for digest in digests[name]}
        for name in sorted(digests.keys() - inside):
            copies = Counter(owner[digest] for digest in digests[name] if digest in owner)
            if 2 * copies.total() > len(digests[name]):
                other, _ = copies.most_common(1)[0]
                raise ValueError(
                    f"{copies.total()} of the {len(digests[name])} images of the class {name} are "
                    f"also in the class {other}, hence in two splits, so test scores would mean "
                    "nothing; copy the published splits again"
                )


def _decode_once(files: Mapping[str, Any], count: int) -> np.ndarray:
    """`decode_files`, kept in the user's cache folder."""
    folder = default_folder("mini_imagenet")
    path = None if folder is None else folder / f"images-{fingerprint(files, count)}.npz"
    arrays = None if path is None else read_arrays(path)
    if arrays is None:
        number = len(files) * count
        print(f"decoding {number:,} images once; 60,000 take some minutes", file=sys.stderr)
        arrays = {"images": decode_files(files, count)}
        try:
            if path is None:
                raise OSError("there is no home folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Photographs hardly get smaller, and unpacking would take longer than reading.
            write_arrays(path, arrays, compress=False)
        except OSError as error:
            warnings.warn(f"the images are not kept for the next run: {error}", stacklevel=2)
    return arrays["images"]


def _overfills(size: int, device: Any) -> bool:
    """Whether `size` bytes are over half of the device's memory; False where that is unknown."""
    if device.platform == "cpu":
        return False
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit is not None and 2 * size > limit
