"""IAPTT-GM's toy: a lower problem with many minimisers in a box, some of them at its edge.

Liu, Liu, Zeng, Zhang: Towards gradient-based bilevel optimization with non-convex followers and
beyond, NeurIPS 2021 (arXiv 2110.00455):

    F(x, y) = x + x y,     f(x, y) = -sin(x y),     1 <= x <= 10,   -2 <= y <= 2

The lower solutions are all y in the box with x y = pi/2 + 2 pi k. The optimistic one has the
smallest such k, hence F(x, y*(x)) = x + pi/2 + 2 pi k: slope 1, and a drop by 2 pi wherever one
more k enters the box, at x = 3 pi/4 + pi j. The best of these points is the solution,

    x* = 11 pi/4,   y* = -2,   F* = -11 pi/4 = -8.6394

The box of y is the lower optimizer's (conf/problem/iaptt_toy.yaml chooses `projected`), that of x
is this problem's. What a gradient method reaches depends on its start: `rhg`, with a lower level
that is solved, ends

    from y0 = -2   at the nearest of x = 3 pi/4, 7 pi/4, 11 pi/4, where F = -x: x* where x0 > 9 pi/4
    from y0 = 2    at x = 1, y = pi/2, F = 1 + pi/2, from any x0

Below 3 pi/4 + pi j, f pushes y = -2 against the box and F = -x; above, y follows its minimiser and
F rises like x. The authors start at x = 1, y = 2, learn y0 as well, and take 40 lower steps of
5e-4, in which y hardly moves: that, and upper steps of 0.1, carry x past the first two valleys.
A lower step that mixes in F may leave the lower solutions, and F then falls below F*; at a lower
solution `lower_loss` is -1.
"""

import math

import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, Exact, TaskSource, Tree

UPPER_BOUNDS = (1.0, 10.0)
LOWER_BOUNDS = (-2.0, 2.0)
UPPER_SOLUTION = 11 * math.pi / 4
LOWER_SOLUTION = -2.0


def iaptt_toy(
    *, upper_start: float = 8.0, lower_start: float = -2.0
) -> tuple[BilevelProblem, TaskSource]:
    """x in [1, 10] from upper_start, y in [-2, 2] from lower_start, both scalars.

    Raises ValueError where a start lies outside its box.
    """
    for name, value, (low, high), example in (
        ("upper_start", upper_start, UPPER_BOUNDS, 8.0),
        ("lower_start", lower_start, LOWER_BOUNDS, -2.0),
    ):
        if not low <= value <= high:
            raise ValueError(
                f"{name}={value} is outside [{low:g}, {high:g}], to which the variable is "
                f"confined; choose for example {name}={example}"
            )

    def lower(x: Array, y: Array, task: Tree) -> Array:
        """f(x, y) = -sin(x y)"""
        del task
        return -jnp.sin(x * y)

    def upper(x: Array, y: Array, task: Tree) -> Array:
        """F(x, y) = x + x y"""
        del task
        return x + x * y

    def evaluate(x: Array, y: Array, task: Tree) -> dict[str, Array]:
        """Distances from the optimistic solution."""
        del task
        return {
            "upper_variable_error": jnp.abs(x - UPPER_SOLUTION),
            "lower_variable_error": jnp.abs(y - LOWER_SOLUTION),
        }

    def lower_solution(x: Array, task: Tree) -> Array:
        """(pi/2 + 2 pi k) / x with the smallest k in the box; k enters 3e-6 before its point.

        The margin is for rounding: at x* itself k = -3 is due, and y = -2.
        """
        del task
        k = jnp.ceil(-x / jnp.pi - 0.25 - 1e-6)
        return jnp.maximum((jnp.pi / 2 + 2 * jnp.pi * k) / x, LOWER_BOUNDS[0])

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.full((), float(upper_start)),
        init_lower=lambda key: jnp.full((), float(lower_start)),
        evaluate=evaluate,
        exact=Exact(
            lower_solution=lower_solution,
            # Of F(x, y*(x)) = x + pi/2 + 2 pi k, away from the drops.
            hypergradient=lambda x, task: jnp.ones_like(x),
            upper_solution=lambda task: jnp.full((), UPPER_SOLUTION),
        ),
    )
    return problem._replace(project_upper=lambda x: jnp.clip(x, *UPPER_BOUNDS)), persistent_source(
        {}
    )
