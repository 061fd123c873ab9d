"""Penalties of a logistic regression by every method, against gradients.

The two data sets of src/figures/regularisation.py, with the rules of src/gallery/kinds_table.py:
nothing is tuned, and each method may spend the same number of gradients. Adam on the log penalties
from 0.1, as in that figure, to 0 along a cosine, as in that table. Conjugate gradients count with
the rounds that scipy's take from 0. h(x) - h* and |grad h(x)| are found by scipy at the x of a
method, whatever its y.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse.linalg

from bilevel import Problem, minimizer
from bilevel.choices import Method
from src.figures import regularisation
from src.figures.regularisation import (
    Case,
    as_problem,
    free_norm,
    largest_curvature,
    lower_hessian,
    lower_solution,
    truth,
    upper_slope,
)
from src.files import write_atomically
from src.gallery.kinds_table import (
    BATCHES,
    CONSTRAINTS,
    MOST_ITERATIONS,
    WAYS,
    gradients_of_an_iteration,
    listed,
    method_of,
)

BUDGET = 20_000  # gradients
PARTS = 25  # mini-batches of a data set
UPPER_STEP = 0.1
POINTS = 16  # of a curve
FAMILIES = {
    "through the lower steps": ("rhg", "trhg", "darts", "sama", "pzobo", "bda", "iaptt"),
    "by the linear system": ("hoag", "neumann", "soba"),
    "by f's least value": ("f2sa", "pbgd", "pbgd_gradient", "bome", "bvfsm", "meha"),
    "on mini-batches": ("saba", "srba", "amigo", "stocbio", "mrbo"),
}
BESIDE_ALL = "hoag"


class Curve(NamedTuple):
    """At POINTS of a run; `why` is set, and the rest empty, where it was refused."""

    gradients: np.ndarray = np.zeros(0)
    values: np.ndarray = np.zeros(0)  # h(x)
    norms: np.ndarray = np.zeros(0)  # |grad h(x)|
    iterations: int = 0
    seconds: float = 0.0
    why: str = ""


def report(names: Sequence[str], path: Path) -> list[str]:
    """The table in Markdown; draws the picture."""
    with jax.enable_x64(True):
        found = {}
        for case in (regularisation.table(), regularisation.texts()):
            of_system = rounds(case)
            curves = {name: curve(case, name, of_system) for name in names}
            # h has several minima, so that the best that anyone finds counts.
            ends = (one.values.min() for one in curves.values() if not one.why)
            found[case.name] = beyond(min([regularisation.least(case), *ends]), curves)
    draw(found, path)
    return lines_of(found)


def names_without_constraints() -> list[str]:
    """Of the methods that these problems are for."""
    return [name for name, way in WAYS.items() if way.needs != CONSTRAINTS]


def beyond(least: float, curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The same with h(x) - h* in place of h(x)."""
    return {name: one._replace(values=one.values - least) for name, one in curves.items()}


def curve(case: Case, name: str, of_system: int) -> Curve:
    """Run one method, its conjugate gradients counted as of_system rounds; with 64 bits."""
    inputs = case.train["inputs"]
    batched = WAYS[name].needs == BATCHES
    problem = as_problem(case, len(inputs) // PARTS, "epochs") if batched else as_problem(case)
    chosen = method_of(name, 1 / largest_curvature(case))
    try:
        each = gradients_of_an_iteration(problem, chosen, of_system)
        each /= PARTS if batched else 1
        number = min(int(BUDGET / each), MOST_ITERATIONS if batched else BUDGET)
        xs, seconds = followed(problem, chosen, number)
    except ValueError as error:
        return Curve(why=str(error))
    chosen_points = np.unique(np.geomspace(1, number, POINTS).round().astype(int))
    values, norms, y = [], [], np.zeros(inputs.shape[1])
    for n in chosen_points:
        value, gradient, y = truth(case, xs[n - 1], y)
        values.append(value)
        norms.append(free_norm(xs[n - 1], gradient))
    print(f"{case.name}, {name}: h = {values[-1]:.5f}, {seconds:.1f} s", file=sys.stderr)
    return Curve(each * chosen_points, np.array(values), np.array(norms), number, seconds)


def rounds(case: Case) -> int:
    """Of conjugate gradients from 0 to 1e-6, for grad_y F at y = 0: the more of two x."""
    return max(_rounds_at(case, x) for x in (regularisation.START, regularisation.START - 5))


def _rounds_at(case: Case, x: float) -> int:
    at = np.array([x])
    first = np.zeros(case.train["inputs"].shape[1])
    y = lower_solution(case, at, first, 1e-6)
    passes: list[None] = []
    scipy.sparse.linalg.cg(
        lower_hessian(case, at, y),
        upper_slope(case, first),
        rtol=1e-6,
        callback=lambda _: passes.append(None),
    )
    return len(passes)


def followed(problem: Problem, chosen: Method, number: int) -> tuple[np.ndarray, float]:
    """x after each iteration, and the seconds of all without compiling."""
    schedule = optax.cosine_decay_schedule(UPPER_STEP, number)
    descent = minimizer(problem, chosen, optax.adam(schedule))
    key = jax.random.key(0)

    def run(state):
        def step(state, n):
            state, _ = descent.step(state, jax.random.fold_in(key, n))
            return state, descent.x(state)

        return jax.lax.scan(step, state, jnp.arange(number))[1]

    state = jax.jit(descent.init)(key)
    compiled = jax.jit(run).lower(state).compile()
    began = time.perf_counter()
    xs = np.asarray(compiled(state))
    return xs, time.perf_counter() - began


def draw(found: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """A row for each data set, a column for each family, `hoag` in all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.2), layout="constrained")
    panels = figure.subplots(len(found), len(FAMILIES), sharex=True, sharey="row", squeeze=False)
    for panel, family in zip(panels[0], FAMILIES, strict=True):
        panel.set_title(family, fontsize=10)
    for row, (case, curves) in zip(panels, found.items(), strict=True):
        for panel, names in zip(row, FAMILIES.values(), strict=True):
            others = [name for name in names if name != BESIDE_ALL]
            looks = {BESIDE_ALL: ("0.4", "--")} | {n: (f"C{k}", "-") for k, n in enumerate(others)}
            for name, (color, style) in looks.items():
                one = curves.get(name, Curve())
                above = np.where(one.values > 0, one.values, np.nan)
                panel.loglog(one.gradients, above, style, color=color, label=name)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7, loc="lower left")
        row[0].set_ylabel(f"{case}\nh(x) - h*")
    for panel in panels[-1]:
        panel.set_xlabel("gradients of f or F")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def lines_of(found: Mapping[str, Mapping[str, Curve]]) -> list[str]:
    """Where each method ends, {data set: {method: curve}} side by side; then refusals."""
    lines = ["| method |", "| --- |"]
    for case in found:
        lines[0] += f" {case}: h - h* | norm of grad h | iterations | gradients | seconds |"
        lines[1] += " --- | --- | --- | --- | --- |"
    reasons: dict[str, list[str]] = {}
    for name in next(iter(found.values())):
        curves = [curves[name] for curves in found.values()]
        why = next((one.why for one in curves if one.why), "")
        if why:
            reasons.setdefault(why, []).append(f"`{name}`")
            continue
        cells = " | ".join(
            f"{one.values[-1]:.1e} | {one.norms[-1]:.1e} | {one.iterations:,} "
            f"| {one.gradients[-1]:,.0f} | {one.seconds:.2g}"
            for one in curves
        )
        lines.append(f"| `{name}` | {cells} |")
    return [*lines, *listed(reasons)]
