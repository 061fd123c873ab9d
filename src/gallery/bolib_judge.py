"""A pair (x, y) of BOLIB judged: f* = min f(x, .) by a search of scipy from many starts.

Without constraints by L-BFGS-B; with them by SLSQP, among all y that violate no constraint of the
lower level by more than the y that was found, which is one of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from src.data.bolib import Instance, as_text
from src.data.expressions import formula
from src.gallery.judging import Ended, verdict

STARTS = 40  # of the search
FEASIBLE = 1e-6


class Outcome(NamedTuple):
    """How a method ended on a problem: a verdict, or why it was refused or stopped.

    strictly: the verdict with f* among what the search found alone, without the y of the method.
    """

    verdict: str
    ended: Ended = Ended()
    why: str = ""
    strictly: str = ""


def judged(problem: Instance, x: np.ndarray, y: np.ndarray) -> Outcome:
    """The verdict on a pair (x, y)."""
    import jax
    import jax.numpy as jnp

    assert problem.best is not None
    upper = float(formula(problem.F)(jnp.asarray(x), jnp.asarray(y)))
    lower = jax.jit(lambda y: formula(problem.f)(jnp.asarray(x), y))
    at = jnp.asarray(x), jnp.asarray(y)
    upper_texts, lower_texts = problem.G, (*problem.g, *as_text(problem.y_box))
    worst_lower, worst = (
        max((float(formula(text)(*at)) for text in texts), default=0.0)
        for texts in (lower_texts, (*upper_texts, *lower_texts))
    )
    if problem.g:
        found = lowest_constrained(lower, problem, x, y, max(worst_lower, FEASIBLE))
    else:
        found = lowest(lower, problem)
    best, value = problem.best, float(lower(y))
    least = min(value, found)
    ended = Ended(upper, value - least, worst)
    strictly = "no"
    if np.isfinite(found):
        strictly = verdict(ended._replace(lower_gap=value - found), best, found)
    return Outcome(verdict(ended, best, least), ended, strictly=strictly)


def starts_of(problem: Instance) -> list[np.ndarray]:
    """The start of the set, and STARTS others from its box, or from [-10, 10]."""
    box, rng = problem.y_box, np.random.default_rng(0)
    low, high = np.maximum(box.lower, -10.0), np.minimum(box.upper, 10.0)
    low, high = np.minimum(low, box.upper), np.maximum(high, box.lower)
    return [np.clip(problem.y0, low, high), *rng.uniform(low, high, (STARTS, len(low)))]


def with_slope(function: Callable) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Value and gradient for scipy."""
    import jax

    compiled = jax.jit(jax.value_and_grad(function))

    def both(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = compiled(y)
        return float(value), np.asarray(gradient, float)

    return both


def lowest(lower: Callable, problem: Instance) -> float:
    """min f(x, .) in the box, as the best of many starts of L-BFGS-B."""
    from scipy.optimize import minimize

    both = with_slope(lower)
    bounds = list(zip(problem.y_box.lower, problem.y_box.upper, strict=True))
    return min(
        float(minimize(both, start, jac=True, bounds=bounds, method="L-BFGS-B").fun)
        for start in starts_of(problem)
    )


def lowest_constrained(
    lower: Callable, problem: Instance, x: np.ndarray, y: np.ndarray, slack: float
) -> float:
    """min f(x, .) where g(x, .) <= slack, in the box, by SLSQP; infinite where it ends at none.

    y is one of the starts: where hardly another one is as feasible, the others may fail.
    """
    import jax
    import jax.numpy as jnp
    from scipy.optimize import minimize

    functions = [formula(text) for text in problem.g]
    values = jax.jit(lambda y: jnp.stack([g(jnp.asarray(x), y) for g in functions]))
    slopes = jax.jit(jax.jacobian(values))
    both = with_slope(lower)
    limits = {
        "type": "ineq",
        "fun": lambda y: slack - np.asarray(values(y), float),
        "jac": lambda y: -np.asarray(slopes(y), float),
    }
    bounds = list(zip(problem.y_box.lower, problem.y_box.upper, strict=True))
    found = [np.inf]
    for start in (np.clip(y, problem.y_box.lower, problem.y_box.upper), *starts_of(problem)):
        end = minimize(both, start, jac=True, bounds=bounds, constraints=limits, method="SLSQP")
        if np.all(np.isfinite(end.x)) and np.max(np.asarray(values(end.x))) <= slack + FEASIBLE:
            found.append(float(end.fun))
    return min(found)
