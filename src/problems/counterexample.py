"""The BDA counter-example: the lower problem has many solutions.

Liu, Mu, Yuan, Zeng, Zhang, ICML 2020 (arXiv 2006.04045), example 1, in n dimensions:

    F(x, y) = 1/2 |x - y2|^2 + 1/2 |y1 - e|^2,     f(x, y) = 1/2 |y1|^2 - x . y1,     e = (1..1)

y2 does not occur in f, so every y2 is a lower solution. The optimistic solution is
x = y1 = y2 = e with F = 0. Methods that descend f alone never move y2 and end at
x = (y2_0 + c) / (1 + c^2), c = 1 - (1 - step_size)^K: 1/2 from y2_0 = 0, with F = n/4.
"""

import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, Exact, Objectives, TaskSource, Tree


def counterexample(
    *, dimension: int = 1, upper_start: float = 0.0
) -> tuple[BilevelProblem, TaskSource]:
    """x in R^n from upper_start, y = (y1, y2) in R^n x R^n from 0, n = dimension.

    Raises ValueError where dimension < 1.
    """
    if dimension < 1:
        raise ValueError(f"dimension={dimension} must be at least 1; choose dimension=1")

    def lower(x: Array, y: Tree, task: Tree) -> Array:
        """f(x, y) = 1/2 |y1|^2 - x . y1"""
        del task
        return 0.5 * jnp.sum(y["y1"] ** 2) - jnp.sum(x * y["y1"])

    def upper(x: Array, y: Tree, task: Tree) -> Array:
        """F(x, y) = 1/2 |x - y2|^2 + 1/2 |y1 - e|^2"""
        del task
        return 0.5 * jnp.sum((x - y["y2"]) ** 2) + 0.5 * jnp.sum((y["y1"] - 1) ** 2)

    def evaluate(x: Array, y: Tree, task: Tree) -> dict[str, Array]:
        """Largest coordinate errors against the optimistic solution."""
        del task
        return {
            "upper_variable_error": jnp.abs(x - 1).max(),
            "lower_variable_error": jnp.maximum(
                jnp.abs(y["y1"] - 1).max(), jnp.abs(y["y2"] - 1).max()
            ),
        }

    def zeros() -> Array:
        return jnp.zeros(dimension)

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.full(dimension, float(upper_start)),
        init_lower=lambda key: {"y1": zeros(), "y2": zeros()},
        evaluate=evaluate,
        exact=Exact(
            # The optimistic one of the many lower solutions: y2 = x minimises F.
            lower_solution=lambda x, task: {"y1": x, "y2": x},
            upper_solution=lambda task: jnp.ones(dimension),
        ),
    )
    # y2 does not occur in f, while F fixes it.
    return problem._replace(singular_hessians=frozenset({Objectives.f})), persistent_source({})
