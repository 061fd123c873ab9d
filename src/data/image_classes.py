from typing import NamedTuple

import numpy as np


class ImageClasses(NamedTuple):
    images: np.ndarray
    names: tuple[str, ...]
    splits: dict[str, np.ndarray]


def split_classes(names, sizes, seed, by_group=False):
    order = np.random.default_rng(seed).permutation(len(names))
    cuts = np.cumsum((0,) + tuple(sizes))
    return {
        s: np.sort(order[cuts[i] : cuts[i + 1]])
        for i, s in enumerate(("train", "validation", "test"))
    }
