"""Finite-difference hypergradient (DARTS): the last lower step, without second derivatives.

Liu, Simonyan, Yang: DARTS, ICLR 2019 (arXiv 1806.09055), eq. 7 and 8, with the perturbation taken
at y_{K-1}, the point from which the last step starts (for K = 1 that is y_0, as in the paper):

    v = grad_y F(x, y_K),   u = (d y_K / d d_K)^T v   (SGD: u = -step_size v),   eps = radius / |u|
    g = dF/dx + [grad_x psi(x, y_{K-1} + eps u) - grad_x psi(x, y_{K-1} - eps u)] / (2 eps)

psi = w_F F + w_f f is what step K descends. The same quotient in place of grad_x gives the
gradients of learned alpha, s, t and, for a learned start, of y_{K-1} (whose Jacobian with respect
to y_0 is taken as the identity, as in `truncated`); that of a step size needs no quotient. As
radius -> 0 it is truncated(keep_last=1). Valid for K = 1, where that is unrolled; for larger K it
is a heuristic.

Time: one lower solve and four gradients. Memory: one lower iterate. The error of the quotient is of
order radius^2, plus rounding of order (float epsilon) / radius: the default radius,
(float epsilon)^(1/3) times the size of an entry of y (or 1), balances the two.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.hypergradients.truncated import one_step
from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Tree


def finite_difference(*, radius: float | None = None) -> Hypergradient:
    """The DARTS estimate. radius: length of the perturbation of y; None chooses by float type.

    Raises ValueError where radius <= 0.
    """
    check.numbers(radius=radius)
    if radius is not None and not radius > 0:
        raise ValueError(f"radius={radius} must be positive; choose radius=null to follow the type")

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        level = lower.at(point)
        state = level.run(level.init(point.y0), 1, lower.num_steps - 1)
        state, last = lax.stop_gradient(state), jnp.int32(lower.num_steps)

        def gradient_of_psi(y: Tree) -> Point:
            """In the context, the learned parameters, and y in the place of the start."""
            at_y = point._replace(y0=y)
            return jax.grad(lambda moved: lower.at(moved).objective(moved.y0, last))(at_y)

        def move(moved: Point, direction: Tree) -> Tree:
            return lower.at(moved).move(direction, state._replace(y=moved.y0), last).y

        direction = gradient_of_psi(state.y).y0
        y, pull_back = jax.vjp(move, point._replace(y0=state.y), direction)
        (value, metrics), (of_context, v) = jax.value_and_grad(
            lambda context, y: lower.at(point._replace(context=context)).upper(y),
            argnums=(0, 1),
            has_aux=True,
        )(point.context, y)
        through_move, u = pull_back(v)

        eps = _length(state.y, radius) / _not_zero(optax.tree.norm(u))
        plus, minus = (
            gradient_of_psi(jax.tree.map(lambda w, d, s=sign: w + s * eps * d, state.y, u))
            for sign in (1, -1)
        )
        mixed = jax.tree.map(lambda a, b: (a - b) / (2 * eps), plus, minus)
        # The context does not enter the move but through the direction.
        direct = through_move._replace(context=of_context)
        return HypergradientOutput(value, jax.tree.map(jnp.add, direct, mixed), y, metrics)

    as_radius_shrinks = one_step().target
    assert as_radius_shrinks is not None
    return Hypergradient(
        "finite_difference",
        estimate,
        "g = dF/dx + [grad_x psi(y + eps u) - grad_x psi(y - eps u)] / (2 eps), "
        "y = y_{K-1}, u = (d y_K / d d_K)^T grad_y F(y_K)",
        Target(
            "F(x, y_K(x)) with all but the last step frozen, as radius -> 0", as_radius_shrinks.at
        ),
        direction_alone=True,
        dropped_steps=lambda num_steps: num_steps - 1,
    )


def _length(y: Tree, radius: float | None) -> Array | float:
    if radius is not None:
        return radius
    leaves = jax.tree.leaves(y)
    entry = optax.tree.norm(y) / sum(leaf.size for leaf in leaves) ** 0.5
    epsilon = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    return epsilon ** (1 / 3) * jnp.maximum(1, entry)


def _not_zero(norm: Array) -> Array:
    """1 in place of 0: the perturbation, and with it the quotient, is then zero as well."""
    return jnp.where(norm > 0, norm, 1)
