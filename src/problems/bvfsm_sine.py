"""BVFSM's sine toy: infinitely many isolated lower minimisers, one of which F prefers.

Liu, Liu, Yuan, Zeng, Zhang: A value-function-based interior-point method for non-convex bi-level
optimization, ICML 2021 (arXiv 2106.07991); extended by Liu, Liu, Zeng, Zhang, Zhang (BVFSM, arXiv
2110.04974). x is a scalar, y in R^n:

    F(x, y) = (x - a)^2 + sum_i (y_i - a - c)^2,     f(x, y) = sum_i sin(x + y_i - c)

The lower solutions are y_i = c - x + u with u = 3 pi/2 + 2 pi k_i. The optimistic one takes the k
that brings y_i nearest to a + c, the same for all i, and F(x, y*(x)) = (x - a)^2 + n (x + a - u)^2:

    x* = (a + n (u - a)) / (1 + n),   y* = c - x* + u,   F* = n (2 a - u)^2 / (n + 1)

where u is the one nearest to 2 a. For a = c = 2, n = 2: u = 3 pi/2, x* = 2.47493, y* = 4.23746,
F* = 0.33833.

What a gradient method reaches depends on its start: y settles at the u whose basin (u - pi, u + pi)
holds x + y0 - c, and `rhg` takes x to the formula above with that u, or into another basin on its
way there. From x = y0 = 0, the start of the authors' code, u is -pi/2: x = -1.71386, F = 20.69.
From y0 = 4 it ends at the solution. A lower step along alpha grad F + (1 - alpha) grad f does
not depend on the start where alpha > 1/3, for that mix is convex in y. Its limit is no lower
solution: the larger alpha, the further away (alpha = 0.4, n = 2: x = 2.186, and F = 0.135 < F*).
"""

import math

import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, Exact, TaskSource, Tree


def bvfsm_sine(
    *,
    dimension: int = 2,
    target: float = 2.0,
    shift: float = 2.0,
    upper_start: float = 0.0,
    lower_start: float = 0.0,
) -> tuple[BilevelProblem, TaskSource]:
    """x in R from upper_start, y in R^n from lower_start in every entry, n = dimension.

    `target` is a and `shift` is c. Raises ValueError where dimension < 1, or where a number is
    not finite.
    """
    if dimension < 1:
        raise ValueError(f"dimension={dimension} must be at least 1; choose dimension=2")
    for name, value, example in (
        ("target", target, 2.0),
        ("shift", shift, 2.0),
        ("upper_start", upper_start, 0.0),
        ("lower_start", lower_start, 0.0),
    ):
        if not math.isfinite(value):
            raise ValueError(
                f"{name}={value} is not a finite number; choose for example {name}={example}"
            )

    def lower(x: Array, y: Array, task: Tree) -> Array:
        """f(x, y) = sum_i sin(x + y_i - c)"""
        del task
        return jnp.sum(jnp.sin(x + y - shift))

    def upper(x: Array, y: Array, task: Tree) -> Array:
        """F(x, y) = (x - a)^2 + sum_i (y_i - a - c)^2"""
        del task
        return (x - target) ** 2 + jnp.sum((y - target - shift) ** 2)

    def evaluate(x: Array, y: Array, task: Tree) -> dict[str, Array]:
        """Largest coordinate errors against the optimistic solution."""
        x_star = upper_solution(task)
        return {
            "upper_variable_error": jnp.abs(x - x_star),
            "lower_variable_error": jnp.abs(y - lower_solution(x_star, task)).max(),
        }

    def lower_solution(x: Array, task: Tree) -> Array:
        """y_i nearest to a + c, hence u nearest to x + a."""
        del task
        return jnp.full(dimension, shift - x + _nearest_minimiser(x + target))

    def hypergradient(x: Array, task: Tree) -> Array:
        """Of (x - a)^2 + n (x + a - u)^2, away from the points where u changes."""
        del task
        return 2 * (x - target) + 2 * dimension * (x + target - _nearest_minimiser(x + target))

    def upper_solution(task: Tree) -> Array:
        del task
        u = _nearest_minimiser(jnp.full((), 2 * float(target)))
        return (target + dimension * (u - target)) / (1 + dimension)

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.full((), float(upper_start)),
        init_lower=lambda key: jnp.full(dimension, float(lower_start)),
        evaluate=evaluate,
        exact=Exact(
            lower_solution=lower_solution,
            hypergradient=hypergradient,
            upper_solution=upper_solution,
        ),
    )
    return problem, persistent_source({})


def _nearest_minimiser(angle: Array) -> Array:
    """The minimiser u = 3 pi/2 + 2 pi k of sin that is nearest to the angle."""
    first, period = 1.5 * math.pi, 2 * math.pi
    return first + period * jnp.round((angle - first) / period)
