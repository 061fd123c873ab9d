"""Rows of f and of F for each lower step, drawn anew with replacement."""

from collections.abc import Callable

import jax

from src.bilevel.types import Array, Tree

KEY = "batch_key"  # in a task: the key of one upper iteration


def mini_batches(
    batch_size: int, num_lower_rows: int, num_upper_rows: int
) -> Callable[[Tree, Array | int], Tree]:
    """batch(task, k) -> {"lower": (batch_size,), "upper": (batch_size,)} row indices of step k.

    Independent and uniform over all rows, hence unbiased gradients. Raises ValueError below 1.
    """
    if batch_size < 1:
        raise ValueError(
            f"batch_size={batch_size} must be at least 1; choose batch_size=null for all rows"
        )

    def batch(task: Tree, k: Array | int) -> Tree:
        # Raw bits compile several times faster than randint; the bias of % is below n / 2^32.
        bits = jax.random.bits(jax.random.fold_in(task[KEY], k), (2, batch_size), "uint32")
        return {"lower": bits[0] % num_lower_rows, "upper": bits[1] % num_upper_rows}

    return batch


def with_keys(tasks: Tree, key: Array, n: int) -> Tree:
    """n tasks, each with a key for its mini-batches."""
    return {**tasks, KEY: jax.random.split(key, n)}
