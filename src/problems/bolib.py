"""A problem of BOLIB with bounds on single entries of x and y (src/data/bolib.py).

    min over x in a box of F(x, y),   y minimises f(x, .) in a box

Where f has several minimisers the best one for F counts (optimistic). `upper_gap` is F less the
best value that is known: it may be negative at a y that is no lower solution, so read it together
with `stationarity_norm`. Some lower levels are not convex, and some solutions cannot be reached by
steps that look at f alone: that is what the set is for.
"""

import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, TaskSource, Tree
from src.data.bolib import instance as read
from src.data.expressions import formula


def bolib(*, instance: str) -> tuple[BilevelProblem, TaskSource]:
    """x: (nx,), y: (ny,), from the starts of the set, moved into their boxes.

    Raises ValueError for an unknown instance, with the nearest names, and for one whose constraints
    are no boxes.
    """
    found = read(instance)
    upper, lower = formula(found.F), formula(found.f)

    def into_upper_box(x: Array) -> Array:
        return jnp.clip(x, jnp.asarray(found.x_box.lower), jnp.asarray(found.x_box.upper))

    def into_lower_box(y: Array) -> Array:
        return jnp.clip(y, jnp.asarray(found.y_box.lower), jnp.asarray(found.y_box.upper))

    def evaluate(x: Tree, y: Tree, task: Tree) -> dict[str, Array]:
        return {"upper_gap": upper(x, y) - found.best}

    problem = problem_from_objectives(
        lambda x, y, task: lower(x, y),
        lambda x, y, task: upper(x, y),
        init_upper=lambda key: into_upper_box(jnp.asarray(found.x0)),
        init_lower=lambda key: into_lower_box(jnp.asarray(found.y0)),
        evaluate=evaluate,
        formulas={"f": f"f(x, y) = {found.f}", "F": f"F(x, y) = {found.F}"},
    )
    problem = problem._replace(project_upper=into_upper_box)
    if jnp.isfinite(jnp.asarray([found.y_box.lower, found.y_box.upper])).any():
        problem = problem._replace(project_lower=into_lower_box)
    return problem, persistent_source({})
