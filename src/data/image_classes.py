"""Classes of images, and the split of the classes into training, validation and test."""

from collections.abc import Sequence
from statistics import median_high
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")
# What people call the three splits, in folder names and in tables.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ImageClasses(NamedTuple):
    """Classes of images: uint8, of which a network sees value / 255; or of float64 rows.

    Drawings (glyphs, Omniglot) have 255 for ink and 0 for paper, so files with dark ink are
    inverted when they are read; the pixels of photographs (miniImageNet) are those of the files.
    """

    images: np.ndarray  # (classes, images of each, height, width, channels); rows: (..., p)
    names: tuple[str, ...]  # "script/character", "split/class" or "class", sorted
    splits: dict[str, np.ndarray]  # "train", "validation", "test": indices of classes
    streamed: bool = False  # whether images go to the device with each task, not all at the start
    # (classes,): how many of a class's images there are, the first ones; None: all of `images`.
    counts: np.ndarray | None = None
    # (mean, deviation), each (p,), of rows that were standardised, as of Table.
    scaling: tuple[np.ndarray, np.ndarray] | None = None


def split_classes(
    names: Sequence[str], sizes: Sequence[int], seed: int, by_group: bool = False
) -> dict[str, np.ndarray]:
    """{"train", "validation", "test"}: sorted, disjoint int indices into `names`, `sizes` of each.

    A function of the set of names, not of their order. by_group: a group, which is what a name has
    before its first "/", gives classes to one split only. Raises ValueError on sizes that cannot
    be had.
    """
    key = f"split_sizes={list(sizes)}"
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"{key} must be three counts of at least 1, of the characters for training, "
            "validation and test; choose for example split_sizes=[60,20,20]"
        )
    if seed < 0:
        raise ValueError(f"split_seed={seed} must not be negative; choose split_seed=0")
    if sum(sizes) > len(names):
        raise ValueError(
            f"{key} asks for {sum(sizes)} characters, but the data set has {len(names)}; "
            f"choose {_fitting(sizes, len(names))}"
        )
    generator = np.random.default_rng(seed)
    by_name = np.array(sorted(range(len(names)), key=lambda i: names[i]))
    order = by_name[generator.permutation(len(names))]
    if by_group:
        groups = [str(names[i]).partition("/")[0] for i in order]
        owner = _assign(groups, sizes, generator, key)
        parts = [order[[owner[g] == split for g in groups]] for split in range(3)]
    else:
        parts = np.split(order, np.cumsum(sizes))[:3]
    return {
        split: np.sort(part[:size]) for split, part, size in zip(SPLITS, parts, sizes, strict=True)
    }


def add_rotations(classes: ImageClasses) -> ImageClasses:
    """Each class, then the same turned by 90, 180 and 270 degrees as classes of their own.

    The four stay in one split: a turned character is no new character for the test.
    """
    turned = [np.rot90(classes.images, quarter, axes=(2, 3)) for quarter in range(4)]
    images = np.stack(turned, axis=1).reshape(-1, *classes.images.shape[1:])
    suffixes = ("", "/turned090", "/turned180", "/turned270")
    names = tuple(f"{name}{suffix}" for name in classes.names for suffix in suffixes)
    splits = {
        split: (4 * chosen[:, None] + np.arange(4)).ravel()
        for split, chosen in classes.splits.items()
    }
    counts = None if classes.counts is None else np.repeat(classes.counts, 4)
    return classes._replace(images=images, names=names, splits=splits, counts=counts)


def usual_count(counts: Sequence[int]) -> int:
    """What at least half of the classes have."""
    return median_high(counts)


def kept_count(counts: Sequence[int]) -> int:
    """How many images of a class are kept at most, where classes have different numbers.

    All are stored as many, so that one class of thousands among small ones would multiply the
    memory: the largest of `counts` of which no more than half is empty.
    """

    def half_full(most: int) -> bool:
        return most * len(counts) <= 2 * sum(min(count, most) for count in counts)

    return max(filter(half_full, counts))


def stack_classes(classes: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(images, counts) of ImageClasses: at most `most` images of each, zeros after the last.

    counts is None where all classes have as many.
    """
    counts = np.array([min(len(of_class), most) for of_class in classes])
    images = np.zeros((len(classes), most, *classes[0].shape[1:]), classes[0].dtype)
    for target, of_class, number in zip(images, classes, counts, strict=True):
        target[:number] = of_class[:number]
    return images, None if (counts == most).all() else counts


def overfills(size: int) -> bool:
    """Whether `size` bytes are over half of the accelerator's memory; False where it is unknown."""
    import jax

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return False
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit is not None and 2 * size > limit


def _assign(
    groups: list[str], sizes: Sequence[int], generator: np.random.Generator, key: str
) -> dict[str, int]:
    """The split (0, 1, 2) of each group, so that every split gets at least its size.

    Groups come in random order, and each goes to a random split from which the sizes can still be
    reached. `reachable[i][v]` is a set of bits: bit t says that with v classes in validation and
    t in test, the groups from i on can be shared out; all else goes to training.
    """
    shuffled = generator.permutation(sorted(set(groups)))
    sizes_of = {str(group): groups.count(group) for group in shuffled}
    spare = len(groups) - sum(sizes)
    last = [0] * sizes[1] + [((1 << (spare - v + 1)) - 1) << sizes[2] for v in range(spare + 1)]
    reachable = [last]
    for count in reversed(sizes_of.values()):
        after = reachable[0]
        more = after[count:] + [0] * min(count, len(after))
        now = [a | (a >> count) | b for a, b in zip(after, more, strict=True)]
        reachable.insert(0, now)
    if not reachable[0][0] & 1:
        listed = ", ".join(f"{group} {count}" for group, count in sorted(sizes_of.items()))
        raise ValueError(
            f"{key} cannot be had from whole scripts, since none may be in two splits and they "
            f"have these sizes: {listed}; choose smaller split_sizes, or split_by_script=false"
        )
    owner, validation, test = {}, 0, 0
    for (group, count), after in zip(sizes_of.items(), reachable[1:], strict=True):
        for split in generator.permutation(3):
            v, t = validation + count * (split == 1), test + count * (split == 2)
            if v < len(after) and (after[v] >> int(t)) & 1:
                owner[group], validation, test = int(split), v, t
                break
    return owner


def _fitting(sizes: Sequence[int], total: int) -> str:
    """The same sizes with less for training if that fits, or else in the same proportions."""
    train = total - sizes[1] - sizes[2]
    if train < 1:
        if total < 3:
            return "a data set with at least 3 characters"
        held = [max(size * total // sum(sizes), 1) for size in sizes[1:]]
        held = [min(size, (total - 1) // 2) for size in held]
        train, sizes = total - sum(held), [train, *held]
    return f"split_sizes=[{train},{sizes[1]},{sizes[2]}] or smaller"
