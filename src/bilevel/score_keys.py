"""The random keys of scored tasks: the same for a run of the library and of the command line."""

import jax
import jax.numpy as jnp

from bilevel.types import Array

_SPLITS = {"validation": 1, "test": 2}  # the numbers that tell their keys apart


def score_keys(key: Array, split: str, num_tasks: int, persistent: bool) -> Array:
    """One key per task of the split, shape (num_tasks,), from the key of the run's seed.

    Of one fixed task all splits score one y_K: the same mini-batches, the same start.
    """
    base = jax.random.fold_in(key, 2**31 - _SPLITS["validation" if persistent else split])
    return jax.vmap(jax.random.fold_in, (None, 0))(base, jnp.arange(num_tasks))
