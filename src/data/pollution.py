"""Wrong labels, put in on purpose: which rows and which labels follow from a key."""

from typing import Literal

import jax
import jax.numpy as jnp

from bilevel.types import Array

Pollution = Literal["exact", "uniform"]


def pollute(
    key: Array, labels: Array, num_classes: int, share: float, kind: Pollution
) -> tuple[Array, Array]:
    """(labels, drawn): round(share n) rows, drawn without replacement, get another label.

    exact: uniform over the wrong classes, so that every drawn row is wrong (BDA, Franceschi et al.
    2017). uniform: uniform over all classes, so that 1 in num_classes drawn rows stays right (the
    protocol of IAPTT-GM, PBGD and BOAT). drawn: bool (n,).
    """
    rows_key, label_key = jax.random.split(key)
    size = labels.shape[0]
    rows = jax.random.permutation(rows_key, size)[: number_polluted(size, share)]
    if kind == "exact":
        shift = jax.random.randint(label_key, rows.shape, 1, num_classes, labels.dtype)
        new = (labels[rows] + shift) % num_classes
    else:
        new = jax.random.randint(label_key, rows.shape, 0, num_classes, labels.dtype)
    return labels.at[rows].set(new), jnp.zeros(size, bool).at[rows].set(True)


def number_polluted(size: int, share: float) -> int:
    """How many of `size` rows are drawn."""
    return round(share * size)
