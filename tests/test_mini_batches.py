"""Which rows a lower step sees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.mini_batches import in_mini_batches, in_order
from bilevel.proximal import proximal
from bilevel.shapes import one_task
from src.problems.quadratic import quadratic


def made(sampling):
    """Six rows of f and four of F, two in each step."""
    problem, source = quadratic(
        num_lower_rows=6,
        num_upper_rows=4,
        dim_upper=2,
        dim_lower=3,
        batch_size=2,
        sampling=sampling,
    )
    return problem, one_task(source, source.data, jax.random.key(7), "train")


@pytest.mark.parametrize("number", [1, 5])
def test_an_epoch_takes_each_block_once_in_a_new_order(number):
    orders = np.array(
        [int(in_order(jax.random.key(3), k, number)) for k in range(1, 4 * number + 1)]
    )
    epochs = orders.reshape(4, number)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(number), (4, 1)))
    assert number == 1 or len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("sampling", ["blocks", "epochs"])
def test_the_blocks_hold_each_row_once_and_steps_take_blocks(sampling):
    problem, task = made(sampling)
    task = {**task, "train": np.arange(6), "validation": np.arange(4)}
    parts = [problem.blocks.at((), task, i, i % 2)[1] for i in range(3)]
    assert sorted(np.concatenate([part["train"] for part in parts])) == list(range(6))
    assert sorted(np.concatenate([part["validation"] for part in parts[:2]])) == list(range(4))
    blocks = {tuple(np.asarray(part["train"])) for part in parts}
    seen = [tuple(np.asarray(problem.mini_batch((), task, k)[1]["train"])) for k in range(1, 4)]
    assert set(seen) <= blocks
    assert sampling == "blocks" or set(seen) == blocks


def test_a_proximal_term_keeps_the_blocks():
    problem, task = made("blocks")
    wrapped = proximal(problem, 0.5)
    context = wrapped.prepare(jnp.ones(2), task)
    assert wrapped.blocks is not None
    seen, smaller = wrapped.blocks.at(context, task, 1, 0)
    np.testing.assert_array_equal(smaller["train"]["a"], task["train"]["a"][jnp.array([1, 4])])
    assert set(seen) == {"problem", "centre"}


@pytest.mark.parametrize(
    ("batch_size", "sampling", "message"),
    [
        (
            4,
            "epochs",
            "sampling=epochs: batch_size=4 must divide the 6 rows of f and the 4 of F; choose "
            "batch_size=2, or sampling=rows",
        ),
        (2, "all", "sampling='all' is none of"),
        (
            None,
            "blocks",
            "sampling=blocks has no meaning where every step sees all rows; choose a batch_size",
        ),
    ],
)
def test_what_is_refused(batch_size, sampling, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        in_mini_batches(made("rows")[0], batch_size, 6, 4, sampling=sampling)
