"""Gallery: `python -m src.gallery [problems=boxes|constrained|A,B] [methods=rhg,bda]`: which method
solves what of BOLIB (src/data/bolib.py).

boxes: every problem with bounds on single entries alone. constrained: all others, by `hoag` and
`kkt`; their constraints are penalties (src/bilevel/constraints.py), bounds of y too, and the lower
level is solved by accelerated gradient descent with a line search. From the set's starts, with one
setting per method: its upper step is the better of two on five problems that are named here. At the
end (x, y) is judged by what the method does not know:

    solved   |F - best| <= 0.01 max(1, |best|),  |f(x, y) - f*| <= 0.001 max(1, |f*|), and no
             constraint above 0.01
    nearly   the same with 0.1, 0.01 and 0.1
    no       else;  f* = min f(x, .) is the best of many starts of L-BFGS-B, or, with constraints,
             of SLSQP (scipy), among all y that violate no constraint of the lower level by more
             than the y that was found, which is one of them

Prints a table in Markdown, and which are solved only as the y that was found is one of them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.data.bolib import Instance, as_text, entries, instance, with_boxes_alone
from src.data.expressions import formula
from src.settings.cli import refusals_as_messages
from src.settings.errors import UserError

TRIED_ON = (
    "HatzEtal2013",
    "LamparielloSagratella2017Ex32",
    "LucchettiEtal1987",
    "MacalHurter1997",
    "MitsosBarton2006Ex317",
)
CONSTRAINED_TRIED_ON = (
    "AiyoshiShimizu1984Ex2",
    "Bard1984b",
    "Bard1991Ex1",
    "DempeDutta2012Ex31",
    "Outrata1990Ex1a",
)
UPPER_STEPS = (0.02, 0.2)  # of Adam; falls to 0 along a cosine
NUM_ITERATIONS, NUM_LOWER_STEPS, LOWER_STEP = 2000, 50, 0.05
METHODS = ("rhg", "trhg", "hoag", "bda", "iaptt", "f2sa", "pbgd", "bome", "bvfsm", "meha", "soba")
CONSTRAINED_METHODS = ("hoag", "kkt")
STARTS = 40  # of the independent search
FEASIBLE = 1e-6
COUNTED = "solved, but only as the y that was found counts too: the search finds none as good"


class Outcome(NamedTuple):
    """How a method ended on a problem: a verdict, or why it was refused or stopped.

    strictly: the verdict with f* among what the search found alone, without the y of the method.
    """

    verdict: str
    upper: float = np.nan
    lower_gap: float = np.nan
    violation: float = np.nan
    why: str = ""
    strictly: str = ""


def main() -> None:
    """Print the table for what the command line names."""
    with refusals_as_messages(traceback=False):
        chosen = {"problems": "boxes", "methods": ",".join(METHODS)}
        for argument in sys.argv[1:]:
            key, _, value = argument.partition("=")
            if key not in chosen:
                raise UserError(
                    f"{argument}: there are problems=boxes, problems=constrained, problems=A,B "
                    "and methods=A,B"
                )
            chosen[key] = value
        if chosen["problems"] == "constrained" and chosen["methods"] == ",".join(METHODS):
            chosen["methods"] = ",".join(CONSTRAINED_METHODS)
        chosen["problems"] = {
            "boxes": ",".join(with_boxes_alone()),
            "constrained": ",".join(constrained()),
        }.get(chosen["problems"], chosen["problems"])
        problems, methods = (chosen[key].split(",") for key in ("problems", "methods"))
        for name in methods:
            if name not in (*METHODS, *CONSTRAINED_METHODS):
                raise UserError(f"methods={name}: there are {', '.join(METHODS)}, kkt")
        try:
            instances = {name: instance(name) for name in problems}
        except ValueError as error:
            raise UserError(str(error)) from error
        print("\n".join(table(instances, methods)))


def constrained() -> tuple[str, ...]:
    """The names of all others whose best value is known."""
    others = (instance(name) for name in entries() if name not in with_boxes_alone())
    return tuple(one.name for one in others if one.best is not None)


def table(instances: Mapping[str, Instance], methods: Sequence[str]) -> list[str]:
    """The lines of the table: one row per problem, one column per method; then the reasons."""
    has_others = any(has_constraints(problem) for problem in instances.values())
    tried_on = CONSTRAINED_TRIED_ON if has_others else TRIED_ON
    steps = {method: better_step(method, tried_on) for method in methods}
    lines = [
        f"| problem | {' | '.join(f'`{m}`' for m in methods)} |",
        "| --- " * (len(methods) + 1) + "|",
    ]
    solved, reasons = dict.fromkeys(methods, 0), dict[str, list[str]]()
    for name, problem in instances.items():
        outcomes = {method: outcome(problem, method, steps[method]) for method in methods}
        lines.append(f"| {name} | {' | '.join(found.verdict for found in outcomes.values())} |")
        print(f"{name}: {outcomes}", file=sys.stderr)
        for method, found in outcomes.items():
            solved[method] += found.verdict == "solved"
            if found.verdict == "solved" and found.strictly != "solved":
                reasons.setdefault(COUNTED, []).append(f"`{method}` on {name}")
            if found.why:
                reasons.setdefault(found.why, []).append(f"`{method}` on {name}")
    lines.append(f"| solved, of {len(instances)} | {' | '.join(map(str, solved.values()))} |")
    lines += ["", *(f"- {', '.join(where)}: {why}" for why, where in reasons.items())]
    chosen = ", ".join(f"`{method}` {step:g}" for method, step in steps.items())
    return [*lines, "", f"Upper steps: {chosen}."]


def better_step(method: str, tried_on: Sequence[str]) -> float:
    """The upper step with which the method solves more of these; the smaller where both do."""
    points = {"solved": 2, "nearly": 1}

    def score(step: float) -> int:
        found = (outcome(instance(name), method, step) for name in tried_on)
        return sum(points.get(each.verdict, 0) for each in found)

    return max(UPPER_STEPS, key=score)


def outcome(problem: Instance, method: str, step: float) -> Outcome:
    """Run one method on one problem, and judge where it ends."""
    import jax
    import optax

    import bilevel
    from bilevel.own_problem import Problem
    from src.problems.bolib import bolib

    lower_bounds = "penalty" if has_constraints(problem) else "project"
    if has_constraints(problem) and method not in CONSTRAINED_METHODS:
        return Outcome("not tried", why="its lower steps are too long for the penalties")
    optimizer = optax.adam(optax.cosine_decay_schedule(step, NUM_ITERATIONS))
    with jax.enable_x64(True):
        chosen = getattr(bilevel.methods, method)(**settings(method, has_constraints(problem)))
        try:
            found = bilevel.minimize(
                Problem(*bolib(instance=problem.name, lower_bounds=lower_bounds)),
                chosen,
                optimizer=optimizer,
                num_iterations=NUM_ITERATIONS,
            )
        except FloatingPointError as error:
            return Outcome(
                "diverged",
                why=str(error).partition(":")[0].partition(" became")[0] + " grew without end",
            )
        except ValueError as error:
            return Outcome("refused", why=str(error))
        x, y = np.asarray(found.x), np.asarray(found.y)
        return judged(problem, x, y)


def settings(method: str, constrained: bool) -> dict[str, Any]:
    """The options of a method: its only ones, on all problems with constraints or without."""
    import bilevel

    if not constrained:
        steps = {} if method in ("soba", "meha") else {"num_lower_steps": NUM_LOWER_STEPS}
        return {"step_size": LOWER_STEP, **steps}
    # A linear f has no curvature but that of its constraints.
    of_hoag = {"tolerance": 1e-6, "tolerance_decay": 1.0, "damping": 1e-3}
    return {
        "lower_tolerance": 1e-6,
        "num_lower_steps": 500,
        "lower_start": "warm",
        "lower_optimizer": bilevel.lower_solvers.gradient_descent(acceleration=True),
        **(of_hoag if method == "hoag" else {}),
    }


def has_constraints(problem: Instance) -> bool:
    """Other than bounds of single entries."""
    return bool(problem.G or problem.g)


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

    def verdict(least: float) -> str:
        for word, of_upper, of_lower, of_constraints in (
            ("solved", 0.01, 0.001, 0.01),
            ("nearly", 0.1, 0.01, 0.1),
        ):
            close = abs(upper - best) <= of_upper * max(1.0, abs(best))
            lowest_there = abs(value - least) <= of_lower * max(1.0, abs(least))
            if close and lowest_there and worst <= of_constraints:
                return word
        return "no"

    least = min(value, found)
    strictly = verdict(found) if np.isfinite(found) else "no"
    return Outcome(verdict(least), upper, value - least, worst, strictly=strictly)


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


if __name__ == "__main__":
    main()
