"""A running mean of all that is learned: scores may be of it, in place of the last iterate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.algorithm import AlgorithmState
from bilevel.types import Array, Tree


class RunningMean(NamedTuple):
    """number: how many iterates `mean` is of; its leaves have their shapes. share: of the last."""

    number: Array
    mean: Tree
    share: Array


def running_mean(decay: float) -> optax.GradientTransformation:
    """Changes no update, and keeps m_n = m_{n-1} + max(1 - decay, 1 / n) (x_{n-1} - m_{n-1}).

    x_0, x_1, ... are the iterates before each update: after n updates m_n is of x_0, ...,
    x_{n-1}. It is their plain mean while n <= 1 / (1 - decay) (Polyak and Juditsky, SIAM J. Control
    Optim. 30(4), 1992), and one with weights that fall by `decay` with age after that.
    Raises ValueError where decay is outside [0, 1).
    """
    check.number("average", decay)
    if not 0 <= decay < 1:
        raise ValueError(
            f"average={decay} is outside [0, 1): the mean is of about 1 / (1 - average) iterates; "
            "choose for example average=0.99, or average=null for none"
        )

    def init(params: Tree) -> RunningMean:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RunningMean(jnp.zeros((), jnp.int32), zeros, jnp.zeros((), jnp.result_type(float)))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, RunningMean]:
        if params is None:
            raise ValueError("a running mean is of variables: update(gradients, state, variables)")
        number = jnp.asarray(optax.safe_increment(state.number))
        share = jnp.maximum(1 - decay, 1 / number.astype(jnp.result_type(float)))
        return updates, RunningMean(number, _nearer(state.mean, params, share), share)

    return optax.GradientTransformation(init, update)


class WarmStart(NamedTuple):
    """Where a running mean of x is kept: the last y, and the same mean of all of them."""

    last: Tree
    mean: Tree


def first_start(upper_state: Any, y0: Tree) -> Tree:
    """A warm start before the first iteration: y0, with a mean of its own beside that of x."""
    return y0 if _found(upper_state) is None else WarmStart(y0, jax.tree.map(jnp.zeros_like, y0))


def last_of(start: Tree) -> Tree:
    """The y of a warm start that the next iteration goes on from."""
    return start.last if isinstance(start, WarmStart) else start


def next_start(upper_state: Any, start: Tree, y: Tree) -> Tree:
    """After an update of the upper optimizer; y goes with the x before the update."""
    found = _found(upper_state)
    return y if found is None else WarmStart(y, _nearer(start.mean, y, found.share))


def scored(state: AlgorithmState) -> AlgorithmState:
    """The state as it is scored: its x is the running mean where one is kept, after an update.

    So is a warm start: a few lower steps from the y of the last x would not reach that of the
    mean. Without what only training needs. With a leading axis of seeds, or without one. The mean
    of points of a convex set lies in it. The upper optimizer may keep one mean, not several.
    """
    variables, start, found = state.variables, state.start, _found(state.upper_state)
    if found is not None:

        def of_leaf(x: Array, mean: Array) -> Array:
            number = found.number
            trailing = (1,) * (mean.ndim - number.ndim)
            return jnp.where(number.reshape(number.shape + trailing) > 0, mean, x)

        variables = jax.tree.map(of_leaf, variables, found.mean)
        if isinstance(start, WarmStart):
            start = jax.tree.map(of_leaf, start.last, start.mean)
    return state._replace(variables=variables, upper_state=(), carry=(), start=start)


def _nearer(mean: Tree, value: Tree, share: Array) -> Tree:
    return jax.tree.map(lambda m, x: m + share.astype(m.dtype) * (x - m), mean, value)


def _found(upper_state: Any) -> RunningMean | None:
    parts = jax.tree.leaves(upper_state, is_leaf=_is_mean)
    means = [part for part in parts if _is_mean(part)]
    if not means:
        return None
    (mean,) = means
    return mean


def _is_mean(part: object) -> bool:
    return isinstance(part, RunningMean)
