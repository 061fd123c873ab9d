"""Several seeds in one program: everything that a seed has of its own has a leading axis of seeds.

Data that all seeds share is stored and read once for all of them. A seed's numbers are those of a
run of that seed alone, up to the rounding of the compiler.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Array, Tree
from src.running.intervals import mean_and_half_width


def seed_keys(first: int, number: int) -> Array:
    """The keys of the seeds first, first + 1, ... , shape (number,)."""
    return jnp.stack([jax.random.key(seed) for seed in range(first, first + number)])


def chosen(mask: np.ndarray, ours: Tree, others: Tree) -> Tree:
    """Seed by seed `ours` where the mask (seeds,) holds, else `others`."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, ours, others)


def across(values: np.ndarray, alive: Sequence[bool]) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean over the seeds that are alive (axis 0), and its 95 % half-width (None for one)."""
    return mean_and_half_width(np.asarray(values)[np.asarray(alive)], axis=0)


def with_half_widths(rows: Mapping[str, np.ndarray], alive: Sequence[bool]) -> dict[str, Any]:
    """{name: mean over seeds, name_ci95: half-width} of {name: (seeds, ...)}."""
    summary: dict[str, Any] = {}
    for name, values in rows.items():
        summary[name], half = across(values, alive)
        if half is not None:
            summary[f"{name}_ci95"] = half
    return summary
