"""Which method solves what of BOLIB (src/data/bolib.py).

Problems whose only bounds are those of single entries are run by all methods; all others by `hoag`
and `kkt`: their constraints are penalties (src/bilevel/constraints.py), bounds of y too, and the
lower level is solved by accelerated gradient descent with a line search. From the set's starts,
with one setting per method: its upper step is the better of two on five problems that are named
here.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.data.bolib import Instance, entries, instance, with_boxes_alone
from src.gallery.bolib_judge import Outcome, judged

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
COUNTED = "solved, but only as the y that was found counts too: the search finds none as good"


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
