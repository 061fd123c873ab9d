"""A small problem of one's own: how strongly to penalise two weights."""

import jax.numpy as jnp
import numpy as np

import bilevel

ROWS = {"inputs": np.ones((6, 2)), "targets": np.arange(6.0)}
DATA = {"train": ROWS, "validation": ROWS}
RHG = bilevel.methods.rhg(num_lower_steps=3)


def f(x, y, rows):
    """f(x, y) = mean square + penalty"""
    return jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2) + x * jnp.sum(y**2)


def F(x, y, rows):
    return jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2)


def problem(lower=f, upper=F, **changed):
    options = {"upper_start": 0.5, "lower_start": jnp.zeros(2), **DATA, **changed}
    return bilevel.problem(lower, upper, **options)
