"""Rows of f and of F for each lower step: a few of them in place of all.

A mini-batch is a smaller (context, task): `task["train"]` holds the rows of f, `task["validation"]`
those of F. Which rows a step gets follows from the key that the task carries and from the step's
number alone, so that a method may ask for the rows of a step twice.

    rows     any rows, drawn anew with replacement
    blocks   one of the fixed blocks of f and one of F, drawn anew with replacement
    epochs   these blocks in a random order, then in another one: each row once per epoch

Each is uniform over all rows, so the mean of a gradient is that of all rows.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from bilevel.types import Array, BilevelProblem, Blocks, Index, Tree

KEY = "batch_key"  # in a task: the key of one upper iteration
Sampling = Literal["rows", "blocks", "epochs"]


def as_it_is(context: Tree, lower_rows: Array) -> Tree:
    """Of a context that has no rows."""
    del lower_rows
    return context


def in_mini_batches(
    problem: BilevelProblem,
    batch_size: int | None,
    num_lower_rows: int,
    num_upper_rows: int,
    *,
    sampling: Sampling = "rows",
    of_context: Callable[[Tree, Array], Tree] = as_it_is,
) -> BilevelProblem:
    """The problem whose lower steps see `batch_size` rows of f and as many of F; None: all rows.

    of_context(context, lower_rows) takes the context's part. Raises ValueError below 1, for a
    sampling without a batch_size, and, where blocks are to be drawn, on a batch_size that does not
    divide both numbers of rows.
    """
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling={sampling!r} is none of {', '.join(get_args(Sampling))}")
    if batch_size is None:
        if sampling != "rows":
            raise ValueError(
                f"sampling={sampling} has no meaning where every step sees all rows; choose a "
                "batch_size, or sampling=rows"
            )
        return problem
    if batch_size < 1:
        raise ValueError(
            f"batch_size={batch_size} must be at least 1; choose batch_size=null for all rows"
        )

    def of_rows(context: Tree, task: Tree, lower: Array, upper: Array) -> tuple[Tree, Tree]:
        smaller = {
            "train": rows(task["train"], lower),
            "validation": rows(task["validation"], upper),
        }
        return of_context(context, lower), {**task, **smaller}

    def at(context: Tree, task: Tree, lower: Index, upper: Index) -> tuple[Tree, Tree]:
        # Not neighbours: the rows of a file are often sorted by class.
        within = jnp.arange(batch_size)
        chosen = (lower + within * blocks.num_lower, upper + within * blocks.num_upper)
        return of_rows(context, task, *chosen)

    def of_step(task: Tree, k: Index) -> tuple[Index, Index]:
        numbers = blocks.num_lower, blocks.num_upper
        if sampling == "epochs":
            lower, upper = jax.random.split(task[KEY])
            return in_order(lower, k, numbers[0]), in_order(upper, k, numbers[1])
        bits = jax.random.bits(jax.random.fold_in(task[KEY], k), (2,), "uint32")
        return bits[0] % numbers[0], bits[1] % numbers[1]

    def any_rows(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        # Raw bits compile several times faster than randint; the bias of % is below n / 2^32.
        bits = jax.random.bits(jax.random.fold_in(task[KEY], k), (2, batch_size), "uint32")
        return of_rows(context, task, bits[0] % num_lower_rows, bits[1] % num_upper_rows)

    def one_block(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        return at(context, task, *of_step(task, k))

    blocks = Blocks(batch_size, num_lower_rows, num_upper_rows, at, of_step)
    if sampling != "rows" and not blocks.whole:
        raise ValueError(f"sampling={sampling}: {blocks.why_not_whole()}, or sampling=rows")
    return problem._replace(mini_batch=any_rows if sampling == "rows" else one_block, blocks=blocks)


def in_order(key: Array, k: Index, number: int) -> Array:
    """The k-th (from 1) of 0..number-1 in a random order, then in another random order, ..."""
    epoch, position = jnp.divmod(jnp.asarray(k) - 1, number)
    return jax.random.permutation(jax.random.fold_in(key, epoch), number)[position]


class Position(NamedTuple):
    """Where a method that goes on from iteration to iteration is in its sequence of mini-batches.

    steps   lower steps done in the run
    key     of the first iteration, which all later ones draw from: epochs go on, too
    """

    steps: Array
    key: Array

    def of(self, task: Tree) -> tuple["Position", Tree]:
        """The position, and the task with the key of the run in place of the iteration's."""
        if not (isinstance(task, Mapping) and KEY in task):
            return self, task
        key = jnp.where(self.steps == 0, task[KEY], self.key)
        return self._replace(key=key), {**task, KEY: key}

    def after(self, steps: int) -> "Position":
        """The position that many steps later."""
        return self._replace(steps=self.steps + steps)


def first_position() -> Position:
    """Before the first step of a run."""
    return Position(jnp.zeros((), jnp.int32), jax.random.key(0))


def going_on(problem: BilevelProblem, position: Position) -> BilevelProblem:
    """The problem whose step k is step position.steps + k of the run."""
    return with_steps(problem, lambda k: position.steps + k)


def with_steps(problem: BilevelProblem, step_of: Callable[[Index], Index]) -> BilevelProblem:
    """The problem whose step k has the rows of step step_of(k)."""
    mini_batch = problem.mini_batch
    if mini_batch is None:
        return problem
    return problem._replace(
        mini_batch=lambda context, task, k: mini_batch(context, task, step_of(k))
    )


def rows(part: Tree, indices: Array) -> Tree:
    """These rows of every array."""
    return jax.tree.map(lambda leaf: leaf[indices], part)


def with_keys(tasks: Tree, key: Array, n: int) -> Tree:
    """n tasks, each with a key for its mini-batches."""
    return {**tasks, KEY: jax.random.split(key, n)}
