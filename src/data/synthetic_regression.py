"""A made-up linear regression with irrelevant features."""

import numpy as np

from src.data.image_classes import SPLITS
from src.data.labelled import Table


def synthetic_regression(
    *,
    num_rows: tuple[int, int, int],
    num_features: int,
    num_relevant: int,
    noise: float = 1.0,
    data_seed: int = 0,
) -> Table:
    """Rows of p features, with the targets inputs w + noise N(0, 1).

    w is N(0, 1) in `num_relevant` entries and 0 elsewhere. Raises ValueError on sizes below 1, on
    more relevant features than features, or on negative noise or seed.
    """
    if num_features < 1 or min(num_rows) < 1:
        raise ValueError(
            f"num_rows={list(num_rows)}, num_features={num_features}: every size must be at least 1"
        )
    if not 0 <= num_relevant <= num_features:
        raise ValueError(f"num_relevant={num_relevant} is outside 0..{num_features} (num_features)")
    if not noise >= 0:
        raise ValueError(f"noise={noise} must not be negative")
    if data_seed < 0:
        raise ValueError(f"data_seed={data_seed} must not be negative")
    generator = np.random.default_rng(data_seed)
    weights = np.zeros(num_features)
    relevant = generator.permutation(num_features)[:num_relevant]
    weights[relevant] = generator.standard_normal(num_relevant)
    inputs, targets = {}, {}
    for split, rows in zip(SPLITS, num_rows, strict=True):
        inputs[split] = generator.standard_normal((rows, num_features))
        targets[split] = inputs[split] @ weights + noise * generator.standard_normal(rows)
    return Table(inputs, targets, 0)
