"""What methods share that follow the lower level by first derivatives alone.

They move y, and often a second lower variable, along directions of their own: not along the d_k of
the lower dynamics, of which they take the step (size, momentum, projection) only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bilevel import option_checks as check
from bilevel.estimator import HypergradientOutput, Limit
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Index, Metrics, Tree

LARGEST_WEIGHT = 1e6  # float32 holds f(x, y) - f(x, z) to about 1e-7 of f


class Followed(NamedTuple):
    """What one iteration hands to the next.

    iteration   upper iterations done, n
    other       the second lower variable; () where there is none, or where tasks change
    """

    iteration: Array
    other: Tree = ()


def first(lower: LowerProblem, y0: Tree) -> Followed:
    """Before the first iteration: a second lower variable starts where y does."""
    return Followed(jnp.zeros((), jnp.int32), y0 if lower.persistent else ())


def counted(lower: LowerProblem, y0: Tree) -> Followed:
    """Before the first iteration, where there is no second lower variable."""
    del lower, y0
    return Followed(jnp.zeros((), jnp.int32))


def other_of(followed: Followed, point: Point) -> Tree:
    """The second lower variable: of the iteration before, or a new one at y0."""
    return followed.other if jax.tree.leaves(followed.other) else point.y0


def following(followed: Followed, other: Tree = ()) -> Followed:
    """What the next iteration starts from; `other` is dropped where tasks change."""
    return Followed(followed.iteration + 1, other if jax.tree.leaves(followed.other) else ())


class OfStep(NamedTuple):
    """f and F as functions of (context, y), on the rows of one step."""

    f: Callable[[Tree, Tree], Array]
    F: Callable[[Tree, Tree], Array]


def objectives(lower: LowerProblem, k: Index) -> OfStep:
    """f and F of the task, on the rows of step k."""
    problem, task = lower.problem, lower.task
    return OfStep(
        lambda context, y: problem.lower_objective(*problem.rows(context, task, k), y),
        lambda context, y: problem.upper_objective(*problem.rows(context, task, k), y)[0],
    )


def descend(
    lower: LowerProblem, point: Point, objective: Callable[[Tree, Index], Array], num_steps: int
) -> Tree:
    """y after num_steps lower steps from y0 along the gradient of objective(y, k), k = 1, 2, ..."""
    level = lower.at(point)._replace(direction=jax.grad(objective))
    return level.run(level.init(point.y0), 1, num_steps).y


def of_value_gap(
    lower: LowerProblem, point: Point, y: Tree, z: Tree, scale: Array
) -> tuple[Tree, Array]:
    """(dF/dx(y) + scale (df/dx(y) - df/dx(z)), f(y) - f(z)), on the rows after the last step."""
    rows = objectives(lower, lower.num_steps + 1)

    def lagrangian(context: Tree) -> tuple[Array, Array]:
        gap = rows.f(context, y) - rows.f(context, z)
        return rows.F(context, y) + scale * gap, gap

    return jax.grad(lagrangian, has_aux=True)(point.context)


def output_of(
    lower: LowerProblem,
    point: Point,
    y: Tree,
    of_context: Tree,
    diagnostics: Metrics,
    carry: Tree = (),
) -> HypergradientOutput:
    """An estimate in x alone, which is scored at y."""
    value, metrics = lower.at(point).upper(y)
    gradient = jax.tree.map(jnp.zeros_like, point)._replace(context=of_context)
    return HypergradientOutput(value, gradient, y, metrics, diagnostics, carry)


def growing(weight: float, power: float, iteration: Array) -> Array:
    """weight (n + 1)^power."""
    return weight * jnp.power(iteration + 1.0, power)


def refuse_weight(weight: float, power: float) -> None:
    """Raises ValueError unless 0 < weight <= 1e6 and 0 <= power <= 1."""
    check.number("weight", weight)
    check.number("power", power)
    if not 0 < weight <= LARGEST_WEIGHT:
        raise ValueError(f"weight={weight} is outside (0, {LARGEST_WEIGHT:g}]; choose weight=10")
    if not 0 <= power <= 1:
        raise ValueError(
            f"power={power} is outside [0, 1]: the weight is weight (n + 1)^power; choose power=0"
        )


WEIGHT_LIMIT = Limit(
    LARGEST_WEIGHT,
    f"the weight of the penalty grew past {LARGEST_WEIGHT:g}, where float32 no longer holds the "
    "difference that it multiplies",
    "hypergradient.power=0, or a smaller hypergradient.weight",
)
