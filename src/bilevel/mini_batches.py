"""Rows of f and of F for each lower step, drawn anew with replacement.

A mini-batch is a smaller (context, task): `task["train"]` holds the rows of f, `task["validation"]`
those of F.
"""

from collections.abc import Callable

import jax

from bilevel.types import Array, Index, MiniBatch, Tree

KEY = "batch_key"  # in a task: the key of one upper iteration


def as_it_is(context: Tree, lower_rows: Array) -> Tree:
    """Of a context that has no rows."""
    del lower_rows
    return context


def mini_batches(
    batch_size: int,
    num_lower_rows: int,
    num_upper_rows: int,
    of_context: Callable[[Tree, Array], Tree] = as_it_is,
) -> MiniBatch:
    """`batch_size` rows of f and as many of F for each step, from the key that the task carries.

    Independent and uniform over all rows, hence unbiased gradients. of_context(context, lower_rows)
    takes the context's part. Raises ValueError below 1.
    """
    if batch_size < 1:
        raise ValueError(
            f"batch_size={batch_size} must be at least 1; choose batch_size=null for all rows"
        )

    def mini_batch(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        # Raw bits compile several times faster than randint; the bias of % is below n / 2^32.
        bits = jax.random.bits(jax.random.fold_in(task[KEY], k), (2, batch_size), "uint32")
        lower, upper = bits[0] % num_lower_rows, bits[1] % num_upper_rows
        smaller = {
            "train": rows(task["train"], lower),
            "validation": rows(task["validation"], upper),
        }
        return of_context(context, lower), {**task, **smaller}

    return mini_batch


def rows(part: Tree, indices: Array) -> Tree:
    """These rows of every array."""
    return jax.tree.map(lambda leaf: leaf[indices], part)


def with_keys(tasks: Tree, key: Array, n: int) -> Tree:
    """n tasks, each with a key for its mini-batches."""
    return {**tasks, KEY: jax.random.split(key, n)}
