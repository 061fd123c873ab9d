"""Handwritten digits at 8x8 that come with scikit-learn."""

import numpy as np

from src.data.image_classes import SPLITS
from src.data.labelled import LabelledImages, Sizes, split_rows


def digits(*, split_sizes: Sizes, split_seed: int | None) -> LabelledImages:
    """Digits 0..9: uint8 8x8x1, 1,797 of them, no file needed; values 0..16 scaled to 0..255.

    The splits are drawn from all by split_seed; null: in scikit-learn's order. Raises ValueError
    on sizes that cannot be had. The test file of Alpaydin, Kaynak: Optical recognition of
    handwritten digits, UCI 1998.
    """
    # Imported here: it takes most of a second.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    rows = split_rows(len(images), split_sizes, split_seed)
    return LabelledImages(
        {split: images[rows[split]] for split in SPLITS},
        {split: labels[rows[split]].astype(np.int32) for split in SPLITS},
        10,
    )
