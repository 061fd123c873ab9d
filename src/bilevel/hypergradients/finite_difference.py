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

from src.bilevel.hypergradients.truncated import target as truncated_target
from src.bilevel.lower_solve import run_steps
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    Tree,
)

DIFFERENTIATES = ("context", "aggregation", "lower_optimizer", "start")


def target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    radius: float | None,
):
    """F(x, y_K(x)) with all but the last step frozen, as radius -> 0."""
    del radius
    return truncated_target(problem, dynamics, num_lower_steps, keep_last=1)


TARGET = target


def dropped_steps(num_lower_steps: int, *, radius: float | None) -> int:
    """How many of the first lower steps no gradient reaches."""
    del radius
    return num_lower_steps - 1


def finite_difference(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    radius: float | None = None,
) -> Hypergradient:
    """The DARTS estimate. radius: length of the perturbation of y; null chooses by float type.

    Raises ValueError where radius <= 0.
    """
    if radius is not None and not radius > 0:
        raise ValueError(f"radius={radius} must be positive; choose radius=null to follow the type")

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key
        state = dynamics.init(params, y0)
        state = run_steps(problem, dynamics, params, context, task, state, 1, num_lower_steps - 1)
        state, last = lax.stop_gradient(state), jnp.int32(num_lower_steps)

        def gradient_of_psi(y: Tree) -> tuple[Tree, Tree, Tree]:
            """In (params, context, y)."""
            return jax.grad(dynamics.objective, argnums=(1, 2, 4))(
                problem, params, context, task, y, last
            )

        direction = gradient_of_psi(state.y)[2]
        y, pull_back = jax.vjp(
            lambda params, d, y: dynamics.move(params, d, state._replace(y=y), last).y,
            params,
            direction,
            state.y,
        )
        (value, metrics), (of_context, v) = jax.value_and_grad(
            problem.upper_objective, argnums=(0, 2), has_aux=True
        )(context, task, y, None)
        of_params, u, of_start = pull_back(v)

        eps = _length(state.y, radius) / _not_zero(optax.tree.norm(u))
        plus, minus = (
            gradient_of_psi(jax.tree.map(lambda w, d, s=sign: w + s * eps * d, state.y, u))
            for sign in (1, -1)
        )
        mixed = jax.tree.map(lambda a, b: (a - b) / (2 * eps), plus, minus)
        params_gradient, context_gradient, start_gradient = jax.tree.map(
            jnp.add, (of_params, of_context, of_start), mixed
        )
        return HypergradientOutput(
            value,
            context_gradient,
            params_gradient,
            start_gradient,
            y=y,
            metrics=metrics,
            diagnostics={},
            carry=carry,
        )

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula=(
            "g = dF/dx + [grad_x psi(y + eps u) - grad_x psi(y - eps u)] / (2 eps), "
            f"y = y_{num_lower_steps - 1}, u = (d y_K / d d_K)^T grad_y F(y_K)"
        ),
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
