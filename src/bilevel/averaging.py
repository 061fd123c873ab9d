"""A running mean of all that is learned: scores may be of it, in place of the last iterate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithm import AlgorithmState
from bilevel.types import Array, Tree


class RunningMean(NamedTuple):
    """number: how many iterates `mean` is of; its leaves have their shapes."""

    number: Array
    mean: Tree


def running_mean(decay: float) -> optax.GradientTransformation:
    """Changes no update, and keeps m_n = m_{n-1} + max(1 - decay, 1 / n) (x_{n-1} - m_{n-1}).

    x_0, x_1, ... are the iterates before each update: after n updates m_n is of x_0, ...,
    x_{n-1}. It is their plain mean while n <= 1 / (1 - decay) (Polyak and Juditsky, SIAM J. Control
    Optim. 30(4), 1992), and one with weights that fall by `decay` with age after that.
    Raises ValueError where decay is outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(
            f"average={decay} is outside [0, 1): the mean is of about 1 / (1 - average) iterates; "
            "choose for example average=0.99, or average=null for none"
        )

    def init(params: Tree) -> RunningMean:
        return RunningMean(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, RunningMean]:
        if params is None:
            raise ValueError("a running mean is of variables: update(gradients, state, variables)")
        number = jnp.asarray(optax.safe_increment(state.number))
        share = jnp.maximum(1 - decay, 1 / number.astype(jnp.result_type(float)))
        mean = jax.tree.map(lambda m, x: m + share.astype(m.dtype) * (x - m), state.mean, params)
        return updates, RunningMean(number, mean)

    return optax.GradientTransformation(init, update)


def scored(state: AlgorithmState) -> AlgorithmState:
    """The state as it is scored: its x is the running mean where one is kept, after an update.

    Without what only training needs. With a leading axis of seeds, or without one. The mean of
    points of a convex set lies in it. The upper optimizer may keep one mean, not several.
    """
    parts = jax.tree.leaves(state.upper_state, is_leaf=_is_mean)
    means = [part for part in parts if _is_mean(part)]
    variables = state.variables
    if means:
        (found,) = means

        def of_leaf(x: Array, mean: Array) -> Array:
            number = found.number
            trailing = (1,) * (mean.ndim - number.ndim)
            return jnp.where(number.reshape(number.shape + trailing) > 0, mean, x)

        variables = jax.tree.map(of_leaf, variables, found.mean)
    return state._replace(variables=variables, upper_state=(), carry=())


def _is_mean(part: object) -> bool:
    return isinstance(part, RunningMean)
