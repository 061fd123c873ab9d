"""miniImageNet at 84x84: from class folders, from CSV splits, or from cached pickles."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.data.data_root import data_root
from src.data.decoded_once import decode_once
from src.data.image_classes import SPLITS, ImageClasses, overfills, stack_classes, usual_count
from src.data.image_files import shown_in
from src.data.mini_imagenet_files import HEADER, PARTS, list_csv, list_folders
from src.data.mini_imagenet_pickles import PICKLES, UNNAMED, read_pickles, resized_classes

ADVICE = (
    "put there train/, val/ and test/ with a folder of images for each class; or images/ with "
    f"train.csv, val.csv and test.csv; or {', '.join(names[0] for names in PICKLES[0])}"
)
# Folders below a root in which the data set is, as in BOML; any single folder is looked at too.
PLACES = (".", "mini_v3", "imagenet/mini_v3")
# How to read what is there, and the paths of its parts.
Form = tuple[Callable[[Sequence[Path]], Mapping[str, Any]], list[Path]]


def mini_imagenet(
    *, root: str | None, streamed: Literal["auto", True, False] = "auto"
) -> ImageClasses:
    """100 classes of ImageNet, 600 photographs each: uint8 84x84x3, from what `root` holds.

    The first whole one of these; what it says is the split, as published 64, 16 and 20 classes:
    train/, val/ (or validation/), test/ with class folders; images/, flat or with class folders,
    and train.csv, val.csv, test.csv beside it or in split/; pickles (mini_imagenet_pickles.py). In
    `root`, or in mini_v3/ or imagenet/mini_v3/ below it (BOML), or in one more folder of any name.
    Images of another size are resized. Image files are decoded once and then read from the user's
    cache folder. Names are "split/class". A class may have fewer images than others, of which a
    warning tells. Vinyals et al., NeurIPS 2016; splits of Ravi and Larochelle, ICLR 2017.

    streamed: images stay in the computer's memory, and those of a task go to the accelerator when
    it is drawn. auto: where they would fill more than half of the accelerator's memory.

    Raises ValueError where nothing is found, where what is found is damaged or of another form,
    where a class has no image, or where a class is in two splits, by its name or by over half of
    its images (bit by bit: another encoding of the same photographs is not seen).
    """
    folder = data_root(root, ADVICE)
    try:
        images, counts, names = _read(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"root={root}: {error}") from error
    split_of = np.array([name.partition("/")[0] for name in names])
    splits = {split: np.flatnonzero(split_of == split) for split in SPLITS}
    if streamed == "auto":
        streamed = overfills(images.nbytes)
    return ImageClasses(images, names, splits, streamed, counts)


def _read(root: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """(uint8 (classes, images of each, 84, 84, 3), how many there are of each, "split/class")."""
    read, parts = _find(root)
    found = dict(sorted(read(parts).items()))
    _refuse_shared(found)
    for name, of_class in found.items():
        if not len(of_class):
            raise ValueError(
                f"the class {name} has no images; copy the data set again, or leave the class out"
            )
    number_of = {name: len(of_class) for name, of_class in found.items()}
    most = usual_count(list(number_of.values()))
    _tell_fewer(number_of, most)
    kept = [of_class[:most] for of_class in found.values()]
    if read is read_pickles:
        images, counts = stack_classes(resized_classes(kept), most)
    else:
        paths = [path for of_class in kept for path in of_class]
        decoded = decode_once("mini_imagenet", paths, root, HEADER, upright=False)
        ends = np.cumsum([len(of_class) for of_class in kept])
        if ends[-1] == most * len(kept):  # the usual case, without another copy
            images, counts = decoded.reshape(len(kept), most, *decoded.shape[1:]), None
        else:
            images, counts = stack_classes(np.split(decoded, ends[:-1]), most)
    _refuse_copies(images, counts, tuple(found))
    return images, counts, tuple(found)


def _find(root: Path) -> Form:
    """How to read what is there. Raises ValueError where a part, or all, is missing."""
    incomplete = ""
    for base in _bases(root):
        for read, parts in _forms(base):
            there = [next(filter(Path.exists, names), None) for names in parts]
            if all(there):
                return read, [path for path in there if path is not None]
            if any(there) and not incomplete:
                absent = [
                    str(n[0].relative_to(root)) for n, p in zip(parts, there, strict=True) if not p
                ]
                held = ", ".join(str(path.relative_to(root)) for path in there if path is not None)
                incomplete = f"it holds {held} but not {', '.join(absent)}; put it beside the rest"
    raise ValueError(incomplete or f"no miniImageNet is there: {ADVICE}")


def _bases(root: Path) -> Iterator[Path]:
    """Where the data set may start."""
    yield from (root / place for place in PLACES)
    yield from (path for path in shown_in(root) if path.is_dir())


def _forms(base: Path) -> Iterator[tuple[Callable, list[list[Path]]]]:
    """(how to read it, of each part the paths under which people have it)."""
    yield list_folders, [[base / name for name in names] for names in PARTS.values()]
    for tables in (base, base / "split", base / "splits"):
        csv = [[tables / f"{name}.csv" for name in names] for names in PARTS.values()]
        yield list_csv, [[base / "images"], *csv]
    for pickles in PICKLES:
        yield read_pickles, [[base / name for name in names] for names in pickles]


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


def _tell_fewer(number_of: Mapping[str, int], usual: int) -> None:
    """A copy that stopped half-way leaves classes with fewer images."""
    fewest = min(number_of, key=lambda name: number_of[name])
    fewer = sum(number < usual for number in number_of.values())
    if fewer:
        others = f" ({fewer} classes have fewer)" if fewer > 1 else ""
        warnings.warn(
            f"the class {fewest} has {number_of[fewest]} images where {usual} are usual{others}; "
            "copy the missing images, unless it is meant so",
            stacklevel=2,
        )


def _refuse_copies(images: np.ndarray, counts: np.ndarray | None, names: Sequence[str]) -> None:
    """As `_refuse_shared`, for classes that have other names but the same images."""
    # 60,000 images take 1.5 seconds. 8 bytes suffice against chance, and half a class must agree.
    numbers = [images.shape[1]] * len(names) if counts is None else counts
    digests = {
        name: [blake2b(image, digest_size=8).digest() for image in of_class[:number]]
        for name, of_class, number in zip(names, images, numbers, strict=True)
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
