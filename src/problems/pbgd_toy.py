"""PBGD's toy: a lower problem that is not convex but has one solution, under a wavy F.

Shen, Chen: On penalty-based bilevel gradient descent method, ICML 2023 (arXiv 2302.05185):

    F(x, y) = cos(4 y + 2) / (1 + exp(2 - 4 x)) + 1/2 ln((4 x - 2)^2 + 1)
    f(x, y) = (x + y)^2 + x sin(x + y)^2,     0 <= x <= 3

The slope of f in y is 2 t + x sin 2 t with t = x + y. It vanishes at t = 0 alone while x < 4.6,
hence y*(x) = -x, although f is not convex in y where x > 1. With z = 4 x - 2 and
s = 1 / (1 + exp -z), what the upper level minimises is

    h(x)  = F(x, -x) = s cos z + 1/2 ln(z^2 + 1)
    h'(x) = 4 (s (1 - s) cos z - s sin z + z / (z^2 + 1))

with three local minima in [0, 3], none at a bound: x = 0.38236 (h = 0.44271), x* = 1.21515
(h = 0.19991) and x = 2.82964 (h = 1.24346), parted by maxima at x = 0.74712 and 2.10933. Methods
that descend h with small steps end in the valley they start in, from any y0.
"""

import math

import jax
import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, Exact, TaskSource, Tree

UPPER_BOUNDS = (0.0, 3.0)


def pbgd_toy(
    *, upper_start: float = 2.0, lower_start: float = 0.0
) -> tuple[BilevelProblem, TaskSource]:
    """x in [0, 3] from upper_start, y in R from lower_start, both scalars.

    Raises ValueError where x starts outside its bounds, or y at no number.
    """
    low, high = UPPER_BOUNDS
    if not low <= upper_start <= high:
        raise ValueError(
            f"upper_start={upper_start} is outside [{low:g}, {high:g}], to which x is confined; "
            "choose for example upper_start=2.0"
        )
    if not math.isfinite(lower_start):
        raise ValueError(
            f"lower_start={lower_start} is not a finite number; choose for example lower_start=0.0"
        )

    def lower(x: Array, y: Array, task: Tree) -> Array:
        """f(x, y) = (x + y)^2 + x sin(x + y)^2"""
        del task
        return (x + y) ** 2 + x * jnp.sin(x + y) ** 2

    def upper(x: Array, y: Array, task: Tree) -> Array:
        """F(x, y) = cos(4 y + 2) / (1 + exp(2 - 4 x)) + 1/2 ln((4 x - 2)^2 + 1)"""
        del task
        z = 4 * x - 2
        return jnp.cos(4 * y + 2) * jax.nn.sigmoid(z) + 0.5 * jnp.log1p(z**2)

    def hypergradient(x: Array, task: Tree) -> Array:
        """h'(x)"""
        del task
        z = 4 * x - 2
        s = jax.nn.sigmoid(z)
        return 4 * (s * (1 - s) * jnp.cos(z) - s * jnp.sin(z) + z / (z**2 + 1))

    def upper_solution(task: Tree) -> Array:
        """The best point of a grid, and Newton's method on h' = 0 from there."""
        grid = jnp.linspace(low, high, 3001)
        best = grid[jnp.argmin(upper(grid, -grid, task))]

        def newton(_, x: Array) -> Array:
            return x - hypergradient(x, task) / jax.grad(hypergradient)(x, task)

        return jax.lax.fori_loop(0, 3, newton, best)

    def evaluate(x: Array, y: Array, task: Tree) -> dict[str, Array]:
        """Distances of x from x*, and of y from y*(x)."""
        return {
            "upper_variable_error": jnp.abs(x - upper_solution(task)),
            "lower_variable_error": jnp.abs(y + x),
        }

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.full((), float(upper_start)),
        init_lower=lambda key: jnp.full((), float(lower_start)),
        evaluate=evaluate,
        exact=Exact(
            lower_solution=lambda x, task: -x,
            hypergradient=hypergradient,
            upper_solution=upper_solution,
        ),
    )
    problem = problem._replace(project_upper=lambda x: jnp.clip(x, low, high))
    return problem, persistent_source({})
