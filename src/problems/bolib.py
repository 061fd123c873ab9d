"""A problem of BOLIB, a public set of bilevel test problems (src/data/bolib.py).

    min over x in a box of F(x, y) where G(x, y) <= 0,   y minimises f(x, .) in a box where
    g(x, y) <= 0

Bounds of single entries are projections; all other constraints are squares of their violation
(src/bilevel/constraints.py), so that a solution is off by a multiple of 1 / constraint_weight.
Where f has several minimisers the best one for F counts (optimistic). `upper_gap` is F less the
best value that is known, if there is one. It may be negative at a y that is no lower solution, so
read it together with `stationarity_norm` and the violations. Some lower levels are not convex, and
some solutions cannot be reached by steps that look at f alone: that is what the set is for.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from bilevel import problem_checks as check
from bilevel.constraints import PENALISED, Constraints, with_constraints
from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, TaskSource, Tree
from src.data.bolib import as_text
from src.data.bolib import instance as read
from src.data.expressions import formula


def bolib(
    *,
    instance: str,
    constraint_weight: float = 1000.0,
    lower_bounds: Literal["project", "penalty"] = "project",
) -> tuple[BilevelProblem, TaskSource]:
    """x: (nx,), y: (ny,), from the starts of the set, moved into their boxes.

    lower_bounds: whether bounds of y are kept by a projection after each lower step, or penalised
    as the other constraints are; a lower solver such as L-BFGS takes no projection.

    Raises ValueError for an unknown instance, with the nearest names, and a weight that is not
    positive.
    """
    check.positive("constraint_weight", constraint_weight)
    found = read(instance)
    upper, lower = formula(found.F), formula(found.f)

    def into_upper_box(x: Array) -> Array:
        return jnp.clip(x, jnp.asarray(found.x_box.lower), jnp.asarray(found.x_box.upper))

    def into_lower_box(y: Array) -> Array:
        return jnp.clip(y, jnp.asarray(found.y_box.lower), jnp.asarray(found.y_box.upper))

    def evaluate(x: Tree, y: Tree, task: Tree) -> dict[str, Array]:
        value = upper(x, y)
        # Of no constraints, unless `with_constraints` puts another in its place.
        scores = {PENALISED: value}
        return scores if found.best is None else {**scores, "upper_gap": value - found.best}

    problem = problem_from_objectives(
        lambda x, y, task: lower(x, y),
        lambda x, y, task: upper(x, y),
        init_upper=lambda key: into_upper_box(jnp.asarray(found.x0)),
        init_lower=lambda key: into_lower_box(jnp.asarray(found.y0)),
        evaluate=evaluate,
        formulas={"f": f"f(x, y) = {found.f}", "F": f"F(x, y) = {found.F}"},
    )
    problem = problem._replace(project_upper=into_upper_box)
    g = found.g
    bounded = np.isfinite([found.y_box.lower, found.y_box.upper]).any()
    if bounded and lower_bounds == "project":
        problem = problem._replace(project_lower=into_lower_box)
    elif bounded:
        g += as_text(found.y_box)
    problem = with_constraints(problem, together(g), together(found.G), constraint_weight)
    return problem, persistent_source({})


def together(constraints: Sequence[str]) -> Constraints | None:
    """The values of all constraints as one array; None where there are none."""
    if not constraints:
        return None
    functions = [formula(text) for text in constraints]
    return lambda x, task, y: jnp.stack([function(x, y) for function in functions])
