"""The minimiser of a smooth, strictly convex function, for the closed forms of a problem."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from bilevel.types import Array

MAX_ITERATIONS = 50  # Newton steps; a logistic regression that is nearly separable takes 10 to 20
MAX_HALVINGS = 30  # of one step


def newton(
    value: Callable[[Array], Array],
    derivatives: Callable[[Array], tuple[Array, Array]],
    start: Array,
) -> Array:
    """y <- y + t s, s = -H^-1 g, with t halved from 1 until f falls by t |g.s| / 10^4 at least.

    value(y) -> f; derivatives(y) -> (g, H) of shapes (d,), (d, d), y flat. Boyd and Vandenberghe,
    Convex Optimization (2004), algorithm 9.5. Far from its minimum a logistic loss is nearly linear
    and a full step overshoots, hence the halving. It ends after the step from a point at which
    |g.s| is below the rounding of f; as convergence is quadratic, that step leaves an error of
    the order of the rounding of y. Where rounding lets no step descend it ends as well, and in any
    case after MAX_ITERATIONS: also in float32, also where H is singular to working precision.
    """
    rounding = jnp.finfo(start.dtype).eps

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, count, done = carry
        return ~done & (count < MAX_ITERATIONS)

    def body(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y, count, _ = carry
        here = value(y)
        gradient, hessian = derivatives(y)
        step = -jnp.linalg.solve(hessian, gradient)
        slope = jnp.sum(gradient * step)
        # Near the minimum f cannot show a decrease that is smaller than its own rounding.
        slack = 10 * rounding * jnp.abs(here)

        def descends(size: Array) -> Array:
            return value(y + size * step) <= here + 1e-4 * size * slope + slack

        def too_long(search: tuple[Array, Array]) -> Array:
            size, halvings = search
            return ~descends(size) & (halvings < MAX_HALVINGS)

        size, halvings = lax.while_loop(
            too_long,
            lambda search: (search[0] / 2, search[1] + 1),
            (jnp.ones_like(slope), jnp.array(0)),
        )
        found = (halvings < MAX_HALVINGS) & (slope <= 0)
        y = jnp.where(found, y + size * step, y)
        return y, count + 1, ~found | (-slope <= rounding * jnp.abs(here))

    return lax.while_loop(unfinished, body, (start, jnp.array(0), jnp.array(False)))[0]
