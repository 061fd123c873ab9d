"""PZOBO: how y_K answers to x, by differences along random directions.

    delta_j = [y_K(x + radius u_j) - y_K(x)] / radius,    u_j ~ N(0, I),  j = 1..J
    g = dF/dx + 1/J sum_j <delta_j, grad_y F> u_j,        at y_K

As radius -> 0 the mean of g is the derivative of F(x, y_K(x)), since E u u^T = I; for a y_K that
is linear in x it is so at any radius. Its noise is that of J directions: the second part has a
variance of (d + 1) / J times its square, d the number of entries of x. The same directions move
learned weights alpha, s, t and a learned start. They do not move a learned step size, which may be
far smaller than the radius, nor the logits of a mask, whose steps no difference sees.

Sow, Ji, Liang: On the convergence theory for Hessian-free bilevel algorithms, NeurIPS 2022 (arXiv
2110.07004).

Time: J + 1 lower solves, one gradient of F. First derivatives only, and no derivative of a lower
step: any solver will do. Memory: J + 1 lower iterates and J directions, which go side by side.
Valid where x has few entries, or y_K answers to few of them. Bounds of x (a projection) do not hold
x + radius u: f must have a meaning a little outside.
"""

import math

import jax
import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_tolerance import refuse_stopping
from bilevel.types import Array, Tree


def zeroth_order(*, radius: float = 0.01, num_directions: int = 10) -> Hypergradient:
    """g = dF/dx + mean over j of <[y_K(x + radius u_j) - y_K(x)] / radius, grad_y F> u_j.

    radius: length of the perturbation of an entry. num_directions: J.
    Raises ValueError where radius is not positive and finite, or num_directions < 1; `check` does
    for a solver as lower optimizer where the lower steps see mini-batches.
    """
    radius = check.number("radius", radius)
    if not 0 < radius < math.inf:
        raise ValueError(f"radius={radius} must be positive and finite; choose radius=0.01")
    num_directions = check.whole_number("num_directions", num_directions, least=None)
    if num_directions < 1:
        raise ValueError(
            f"num_directions={num_directions} must be at least 1; choose num_directions=10"
        )

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        y = lower.solve(point)
        (value, metrics), (direct, slope) = jax.value_and_grad(
            lambda context, y: lower.at(point._replace(context=context)).upper(y),
            argnums=(0, 1),
            has_aux=True,
        )(point.context, y)

        def along(key: Array) -> Point:
            """<delta, grad_y F> u"""
            u = _direction(lower, point, key)
            moved = jax.tree.map(lambda leaf, u: leaf + radius * u, point, u)
            delta = jax.tree.map(lambda a, b: (a - b) / radius, lower.solve(moved), y)
            answer = optax.tree.vdot(delta, slope)
            return jax.tree.map(lambda u: answer * u, u)

        each = jax.vmap(along)(jax.random.split(key, num_directions))
        gradient: Point = jax.tree.map(lambda leaf: leaf.mean(axis=0), each)
        of_context = jax.tree.map(jnp.add, direct, gradient.context)
        return HypergradientOutput(value, gradient._replace(context=of_context), y, metrics)

    return Hypergradient(
        "zeroth_order",
        estimate,
        "g = dF/dx + mean over j of <[y_K(x + r u_j) - y_K(x)] / r, grad_y F> u_j,  u_j ~ N(0, I), "
        f"j = 1..{num_directions},  r = {radius:g}",
        None,
        differentiates=frozenset({"context", "aggregation", "start"}),
        through_steps=False,
        check=lambda lower, shapes: refuse_stopping(lower, None),
    )


def _direction(lower: LowerProblem, point: Point, key: Array) -> Point:
    """u; 0 for step sizes and masks, and for a start that is not learned: noise alone."""
    leaves, form = jax.tree.flatten(point)
    keys = jax.random.split(key, len(leaves))
    # Of 32 bits whatever x has, so that both see the same directions.
    drawn = [
        jax.random.normal(k, v.shape, jnp.float32).astype(v.dtype)
        for k, v in zip(keys, leaves, strict=True)
    ]
    u: Point = form.unflatten(drawn)
    still = jax.tree.map(jnp.zeros_like, u)
    of_step = {"lower_optimizer": still.dynamics_params["lower_optimizer"]}
    u = u._replace(dynamics_params={**u.dynamics_params, **of_step})
    if lower.problem.learned_start:
        return u
    return u._replace(y0=still.y0)
