"""Labelled samples that are not split yet: by their classes, or each class by its samples.

Which of the two is meant, the problem says: few-shot tasks are tested on classes never seen in
training; all others on samples never seen, of the same classes.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from src.data.image_classes import SPLITS, ImageClasses, kept_count, overfills, stack_classes
from src.data.labelled import (
    SHARES,
    LabelledImages,
    Sizes,
    order_of,
    scaled,
    scaling_of,
    split_parts,
    standardised,
)


class Pool(NamedTuple):
    """Labelled samples, with what is known of how to split them.

    inputs: uint8 images (n, height, width, channels), or float64 rows (n, p)
    labels: int32 (n,), in 0..len(names) - 1
    names: of the classes
    serves: of each part of the files, the splits that are cut from it
    parts: int (n,): the part that a sample is in
    origins: of each sample its file or its row, for people
    split_sizes, split_seed: of classes, or of the samples of each class, as in `split_parts`
    standardise: rows by those of training
    scaling: (mean, deviation) by which rows were standardised before, as of Table; None: they were
        not
    streamed: as of ImageClasses; auto: where they fill over half of the accelerator's memory
    """

    inputs: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    serves: tuple[tuple[str, ...], ...] = (SPLITS,)
    parts: np.ndarray | None = None  # None: all in the one part
    origins: tuple[str, ...] = ()
    split_sizes: Sizes | None = None
    split_seed: int | None = 0
    standardise: bool = False
    scaling: tuple[np.ndarray, np.ndarray] | None = None
    streamed: Literal["auto", True, False] = "auto"


def by_classes(pool: Pool) -> ImageClasses:
    """Each class in one split. Raises ValueError where a class is in two parts of the files, and
    on split_sizes that cannot be had.
    """
    parts = _parts(pool)
    part_of = _part_of_each(pool, parts)
    inside = [np.flatnonzero(part_of == part) for part in range(len(pool.serves))]
    served = [(len(of), splits) for of, splits in zip(inside, pool.serves, strict=True)]
    sizes = pool.split_sizes or _fair_sizes(served)
    chosen = split_parts(served, sizes, pool.split_seed, "classes")
    source = {split: part for part, splits in enumerate(pool.serves) for split in splits}
    by_split = {split: inside[source[split]][chosen[split]] for split in SPLITS}
    kept = np.sort(np.concatenate(list(by_split.values())))
    splits = {split: np.searchsorted(kept, np.sort(of)) for split, of in by_split.items()}
    inputs, scaling = pool.inputs, pool.scaling
    if pool.standardise:
        scaling = scaling_of(inputs[np.isin(pool.labels, by_split["train"])])
        inputs = scaled({"all": inputs}, scaling)["all"]
        scaling = _one_after_the_other(pool.scaling, scaling)
    number_of = np.bincount(pool.labels, minlength=len(pool.names))
    most = kept_count(number_of[kept].tolist())
    _tell_cut(pool.names, number_of, kept, most)
    images, counts = stack_classes([inputs[pool.labels == label] for label in kept], most)
    streamed = pool.streamed
    if streamed == "auto":
        streamed = overfills(images.nbytes)
    names = tuple(pool.names[label] for label in kept)
    return ImageClasses(images, names, splits, streamed, counts, scaling)


def _one_after_the_other(
    first: tuple[np.ndarray, np.ndarray] | None, second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The one (mean, deviation) that does what both do."""
    if first is None:
        return second
    gone = np.isinf(first[1])
    factor = np.where(gone, 0, first[1])
    return first[0] + factor * second[0], np.where(gone, np.inf, first[1]) * second[1]


def _tell_cut(names: Sequence[str], number_of: np.ndarray, kept: np.ndarray, most: int) -> None:
    cut = [label for label in kept if number_of[label] > most]
    if cut:
        others = f" (and {len(cut) - 1} classes more)" if len(cut) > 1 else ""
        warnings.warn(
            f"of the {number_of[cut[0]]} images of the class {names[cut[0]]}{others} the first "
            f"{most} take part: classes of few-shot tasks are stored as large as the largest, and "
            "most have far fewer",
            stacklevel=2,
        )


def within_classes(pool: Pool) -> LabelledImages:
    """The samples of each class in all splits. Raises ValueError on split_sizes that cannot be had
    of a class, on one class alone, and where the parts of the files have other classes.
    """
    if len(pool.names) < 2:
        raise ValueError(
            f"every sample is of the class {', '.join(pool.names)}, but at least two classes are "
            "needed; add samples of another (of images in folders: one folder for each class)"
        )
    parts = _parts(pool)
    order = order_of(len(pool.labels), pool.split_seed)
    _refuse_disjoint(pool, parts)
    rows: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label, name in enumerate(pool.names):
        of_class = order[pool.labels[order] == label]
        inside = [of_class[parts[of_class] == part] for part in range(len(pool.serves))]
        served = [(len(of), splits) for of, splits in zip(inside, pool.serves, strict=True)]
        sizes = pool.split_sizes or _fair_sizes(served)
        chosen = split_parts(served, sizes, None, f"samples of the class {name}")
        for of, splits in zip(inside, pool.serves, strict=True):
            for split in splits:
                rows[split].append(of[chosen[split]])
    found = {split: np.sort(np.concatenate(of)) for split, of in rows.items()}
    inputs = {split: pool.inputs[of] for split, of in found.items()}
    origins = {}
    if pool.origins:
        origins = {split: tuple(pool.origins[i] for i in of) for split, of in found.items()}
    return LabelledImages(
        standardised(inputs) if pool.standardise else inputs,
        {split: pool.labels[of].astype(np.int32) for split, of in found.items()},
        len(pool.names),
        pool.names,
        origins,
    )


def _fair_sizes(parts: Sequence[tuple[int, Sequence[str]]]) -> Sizes | None:
    """40 : 30 : 30 of each part, as near as whole numbers come; None where a part has too few.

    With few, the rounding of `split_parts`, always down but for the last, would deal 6 out as 2, 1,
    3.
    """
    sizes: dict[str, int] = {}
    for number, splits in parts:
        if number < len(splits):
            return None  # which split_parts refuses
        total = sum(SHARES[split] for split in splits)
        parts_of = {split: divmod(number * SHARES[split], total) for split in splits}
        sizes |= {split: whole for split, (whole, _) in parts_of.items()}
        left = number - sum(whole for whole, _ in parts_of.values())
        for split in sorted(splits, key=lambda split: -parts_of[split][1])[:left]:
            sizes[split] += 1
    return sizes["train"], sizes["validation"], sizes["test"]


def _parts(pool: Pool) -> np.ndarray:
    return np.zeros(len(pool.labels), int) if pool.parts is None else pool.parts


def _part_of_each(pool: Pool, parts: np.ndarray) -> np.ndarray:
    """(classes,): the part in which a class is; -1 for one without samples."""
    part_of = np.full(len(pool.names), -1)
    for part in range(len(pool.serves)):
        for label in np.unique(pool.labels[parts == part]):
            if part_of[label] >= 0:
                one, other = (_named(pool.serves[of]) for of in (part_of[label], part))
                raise ValueError(
                    f"the class {pool.names[label]} is among the samples for {one} and among those "
                    f"for {other}, but few-shot tasks are tested on classes never seen in "
                    "training: give each class to one split, or give all samples without a split "
                    "and let split_sizes share the classes out"
                )
            part_of[label] = part
    return part_of


def _refuse_disjoint(pool: Pool, parts: np.ndarray) -> None:
    """Files that are split by classes, where each class is to be split."""
    present = [set(pool.labels[parts == part].tolist()) for part in range(len(pool.serves))]
    if len(present) > 1 and not set.intersection(*present):
        raise ValueError(
            f"no class is in all of {', '.join(map(_named, pool.serves))}: these files are split "
            "by classes, as problem=few_shot needs it, but here every class is needed in every "
            "split; give all samples without a split and let split_sizes share them out"
        )


def _named(splits: Sequence[str]) -> str:
    return " and ".join(splits)
