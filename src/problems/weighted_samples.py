"""Training samples with learned weights: what tables and pictures of hyper-cleaning are made of."""

from typing import NamedTuple

from bilevel.types import Array


class WeightedSamples(NamedTuple):
    """weights (n,), wrong (n,) bool, images (n, height, width, channels) in [0, 1], labels (n,).

    A weight below `threshold` is a report of a wrong label.
    """

    weights: Array
    wrong: Array
    images: Array
    labels: Array
    threshold: float = 0.5
