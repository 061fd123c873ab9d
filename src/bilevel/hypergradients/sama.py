"""SAMA: a finite difference along a direction that the lower optimizer has preconditioned.

    v = -(d y_K / d d_K)^T grad_y F(x, y_K),    e = radius / |v|
    g = dF/dx - [grad_x psi(x, y_K + e v) - grad_x psi(x, y_K - e v)] / (2 e)

d_K is the direction of the last lower step and psi = w_F F + w_f f what that step descends. The
derivative of the step in its direction is that of the optimizer: v = eta grad_y F for gradient
descent, and for Adam this times the derivative of its update. The inverse of the lower Hessian is
replaced by the identity. The same quotient gives the gradients of learned alpha, s and t; that of a
step size is the derivative of the last step. Where v = 0, g = dF/dx.

Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing: Making scalable meta learning practical, NeurIPS
2023 (arXiv 2310.05674), with radius their alpha. Their code (Betty) leaves eta out for gradient
descent, and has it for Adam, whose bias correction it leaves out: there the second part of g is
another multiple. Mini-batches: psi is that of the rows of step K, as there; F has all rows.

Time: one lower solve, a gradient of F, the last update back, two gradients of psi. First
derivatives only. Memory: one lower iterate. Valid where the inverse of the lower Hessian is near
what the optimizer multiplies gradients by; as radius -> 0 it is the derivative of one more update
from a solution. The default radius is long: the quotient is exact where grad_x psi is a polynomial
of degree 2 in y, and an average of slopes elsewhere.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput, Phi, Target
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.types import Array, Tree


def sama(*, radius: float = 1.0) -> Hypergradient:
    """The SAMA estimate. radius: length of the perturbation of y.

    Raises ValueError where radius is not positive and finite; `check` does where the lower steps
    end in a projection, because y_K + e v may lie outside.
    """
    radius = check.number("radius", radius)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius={radius} must be positive and finite; choose radius=1")

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        state, direction, k = before_last(lower, point)

        def move(moved: Point, direction: Tree) -> Tree:
            return lower.at(moved).move(direction, state, k).y

        def gradient_of_psi(y: Tree) -> Point:
            """In the context and the learned parameters."""
            return jax.grad(lambda moved: lower.at(moved).objective(y, k))(point)

        y, pull_back = jax.vjp(move, point, direction)
        (value, metrics), (of_context, slope) = jax.value_and_grad(
            lambda context, y: lower.at(point._replace(context=context)).upper(y),
            argnums=(0, 1),
            has_aux=True,
        )(point.context, y)
        through_move, u = pull_back(slope)  # u = -v

        length = optax.tree.norm(u)
        # Where u = 0 any number does: the perturbation, and with it the quotient, is 0.
        e = radius / jnp.where(length > 0, length, 1)
        plus, minus = (
            gradient_of_psi(jax.tree.map(lambda w, d, s=sign: w + s * e * d, y, u))
            for sign in (1, -1)
        )
        mixed = jax.tree.map(lambda a, b: (a - b) / (2 * e), plus, minus)
        # The context does not enter the move but through the direction.
        direct = through_move._replace(context=of_context)
        return HypergradientOutput(value, jax.tree.map(jnp.add, direct, mixed), y, metrics)

    def target(lower: LowerProblem, point: Point, key: Array) -> Phi:
        state, direction, k = before_last(lower, point)
        y = lower.at(point).move(direction, state, k).y
        there = lower.at(point).direction(y, k)

        def phi(moved: Point) -> Array:
            level = lower.at(moved)
            turned = jax.tree.map(
                lambda last, d, d0: last + d - d0, direction, level.direction(y, k), there
            )
            return level.upper(level.move(turned, state, k).y)[0]

        return phi

    return Hypergradient(
        "sama",
        estimate,
        "g = dF/dx - [grad_x psi(y + e v) - grad_x psi(y - e v)] / (2 e),  y = y_K, "
        f"v = -(d y_K / d d_K)^T grad_y F,  e = {radius:g} / |v|;  psi = what step K descends",
        Target(
            "F(x, the last update with d_K + d(x, y_K) - d(x0, y_K) in place of d_K), as radius "
            "-> 0",
            target,
        ),
        differentiates=frozenset({"context", "aggregation", "lower_optimizer"}),
        direction_alone=True,
        dropped_steps=lambda num_steps: num_steps - 1,
        certified_with={"radius": (1e-5,)},
        check=_check,
    )


def before_last(lower: LowerProblem, point: Point) -> tuple[LowerState, Tree, Array]:
    """The state before the last step, held fixed, the direction of that step, and its number."""
    level, k = lower.at(point), jnp.int32(lower.num_steps)
    state = lax.stop_gradient(level.run(level.init(point.y0), 1, lower.num_steps - 1))
    return state, level.direction(state.y, k), k


def _check(lower: LowerProblem, shapes: Point) -> None:
    del shapes
    if lower.dynamics.projection is not None:
        own = lower.problem.project_lower is None
        raise ValueError(
            "hypergradient=sama takes gradients at a distance from y_K, but the lower steps keep y "
            "inside bounds, outside of which f may have no meaning; choose "
            f"hypergradient=implicit_identity{', or lower_optimizer=sgd' if own else ''}"
        )
