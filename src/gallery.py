"""Gallery: `python -m src.gallery [problems=A,B] [methods=rhg,bda]`: which method solves what.

Every problem of BOLIB with bounds on single entries (src/data/bolib.py), from the set's starts,
with one setting per method: its upper step is the better of two on the problems of TRIED_ON. At the
end (x, y) is judged by what the method does not know:

    solved   |F - best| <= 0.01 max(1, |best|), and f(x, y) within 0.001 max(1, |f*|) of f*
    nearly   the same with 0.1 and 0.01
    no       else;  f* = min f(x, .) is the best of many starts of L-BFGS-B (scipy)

Prints a table in Markdown.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from src.data.bolib import Instance, admitted, instance
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
UPPER_STEPS = (0.02, 0.2)  # of Adam; falls to 0 along a cosine
NUM_ITERATIONS, NUM_LOWER_STEPS, LOWER_STEP = 2000, 50, 0.05
METHODS = ("rhg", "trhg", "hoag", "bda", "iaptt", "f2sa", "pbgd", "bome", "bvfsm", "meha", "soba")
STARTS = 40  # of the independent search


class Outcome(NamedTuple):
    """How a method ended on a problem: a verdict, or why it was refused or stopped."""

    verdict: str
    upper: float = np.nan
    lower_gap: float = np.nan
    why: str = ""


def main() -> None:
    """Print the table for what the command line names."""
    with refusals_as_messages(traceback=False):
        chosen = {"problems": ",".join(admitted()), "methods": ",".join(METHODS)}
        for argument in sys.argv[1:]:
            key, _, value = argument.partition("=")
            if key not in chosen:
                raise UserError(f"{argument}: there are problems=A,B and methods=A,B")
            chosen[key] = value
        problems, methods = (chosen[key].split(",") for key in ("problems", "methods"))
        for name in methods:
            if name not in METHODS:
                raise UserError(f"methods={name}: there are {', '.join(METHODS)}")
        try:
            instances = {name: instance(name) for name in problems}
        except ValueError as error:
            raise UserError(str(error)) from error
        print("\n".join(table(instances, methods)))


def table(instances: Mapping[str, Instance], methods: Sequence[str]) -> list[str]:
    """The lines of the table: one row per problem, one column per method; then the reasons."""
    steps = {method: better_step(method) for method in methods}
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
            if found.why:
                reasons.setdefault(found.why, []).append(f"`{method}` on {name}")
    lines.append(f"| solved, of {len(instances)} | {' | '.join(map(str, solved.values()))} |")
    lines += ["", *(f"- {', '.join(where)}: {why}" for why, where in reasons.items())]
    chosen = ", ".join(f"`{method}` {step:g}" for method, step in steps.items())
    return [*lines, "", f"Upper steps: {chosen}."]


def better_step(method: str) -> float:
    """The upper step with which the method solves more of TRIED_ON; the smaller where both do."""
    points = {"solved": 2, "nearly": 1}

    def score(step: float) -> int:
        found = (outcome(instance(name), method, step) for name in TRIED_ON)
        return sum(points.get(each.verdict, 0) for each in found)

    return max(UPPER_STEPS, key=score)


def outcome(problem: Instance, method: str, step: float) -> Outcome:
    """Run one method on one problem, and judge where it ends."""
    import jax
    import optax

    import bilevel
    from bilevel.own_problem import Problem
    from src.problems.bolib import bolib

    optimizer = optax.adam(optax.cosine_decay_schedule(step, NUM_ITERATIONS))
    with jax.enable_x64(True):
        options = {} if method in ("soba", "meha") else {"num_lower_steps": NUM_LOWER_STEPS}
        chosen = getattr(bilevel.methods, method)(step_size=LOWER_STEP, **options)
        try:
            found = bilevel.minimize(
                Problem(*bolib(instance=problem.name)),
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


def judged(problem: Instance, x: np.ndarray, y: np.ndarray) -> Outcome:
    """The verdict on a pair (x, y)."""
    import jax
    import jax.numpy as jnp

    upper = float(formula(problem.F)(jnp.asarray(x), jnp.asarray(y)))
    lower = jax.jit(lambda y: formula(problem.f)(jnp.asarray(x), y))
    least = min(float(lower(y)), lowest(lower, problem))
    gap = float(lower(y)) - least
    for verdict, of_upper, of_lower in (("solved", 0.01, 0.001), ("nearly", 0.1, 0.01)):
        close = abs(upper - problem.best) <= of_upper * max(1.0, abs(problem.best))
        if close and gap <= of_lower * max(1.0, abs(least)):
            return Outcome(verdict, upper, gap)
    return Outcome("no", upper, gap)


def lowest(lower: Callable, problem: Instance) -> float:
    """min f(x, .) in the box, as the best of many starts of L-BFGS-B."""
    import jax
    from scipy.optimize import minimize

    box, rng = problem.y_box, np.random.default_rng(0)
    low, high = np.maximum(box.lower, -10.0), np.minimum(box.upper, 10.0)
    low, high = np.minimum(low, box.upper), np.maximum(high, box.lower)
    starts = [np.clip(problem.y0, low, high), *rng.uniform(low, high, (STARTS, len(low)))]
    slope = jax.jit(jax.value_and_grad(lower))

    def both(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = slope(y)
        return float(value), np.asarray(gradient, float)

    bounds = list(zip(box.lower, box.upper, strict=True))
    return min(
        float(minimize(both, start, jac=True, bounds=bounds, method="L-BFGS-B").fun)
        for start in starts
    )


if __name__ == "__main__":
    main()
