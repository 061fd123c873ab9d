"""Error of every estimator against lower steps and solver steps, and the memory of unrolling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bilevel.hypergradients import unrolled
from src.certification.cases import Where, where
from src.certification.certify import (
    bias_at,
    default_node,
    exact_node,
    ridge_case,
    sgd_of,
    unchecked,
    unrolled_bytes,
    with_options,
)
from src.files import write_atomically
from src.settings.groups import names_of

LOWER_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SOLVER_STEPS = (1, 2, 3, 5, 8, 12, 16, 20, 30, 50, 100)
MEMORY_STEPS = (10, 30, 100, 300, 1000)
MEMORY_SIZE = 100_000


def hypergradient_figure(path: Path) -> None:
    """Draw the three panels."""
    from matplotlib.figure import Figure

    with jax.enable_x64(True):
        by_lower, by_solver = errors_by_lower_steps(LOWER_STEPS), errors_by_solver_steps()
    memory = {
        label: [unrolled_bytes(estimator, k, MEMORY_SIZE) / 2**20 for k in MEMORY_STEPS]
        for label, estimator in {
            "all iterates": unrolled(checkpoints="none"),
            "checkpoints=steps": unrolled(checkpoints="steps"),
            "checkpoints=sqrt": unrolled(checkpoints="sqrt"),
        }.items()
    }
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    looks = {name: _look(number) for number, name in enumerate(by_lower)}
    for name, errors in by_lower.items():
        _curve(left, LOWER_STEPS, errors, name, looks[name])
    left.set(xlabel="lower steps K", ylabel="relative error of the hypergradient")
    left.set_title("Ridge regression, default options")
    for name, (work, errors) in by_solver.items():
        _curve(middle, work, errors, name, looks[name])
    middle.set(xlabel="solver steps, terms or rank", title="The same, lower level solved")
    for number, (label, sizes) in enumerate(memory.items()):
        _curve(right, MEMORY_STEPS, sizes, label, _look(number))
    root = np.sqrt(np.array(MEMORY_STEPS) / MEMORY_STEPS[0])
    right.plot(MEMORY_STEPS, memory["checkpoints=sqrt"][0] * root, "k:", label="slope 1/2")
    right.set(xlabel="lower steps K", ylabel="MiB", title=f"unrolled, y of {MEMORY_SIZE:,} float32")
    for axes in (left, middle, right):
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.25)
    for axes in (left, middle):
        axes.set_ylim(3e-16, 30)
    right.legend(fontsize="small", frameon=False)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        fontsize="small",
        frameon=False,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def errors_by_lower_steps(steps: Sequence[int]) -> dict[str, list[float]]:
    """Relative error of each estimator on ridge regression for each K."""
    return {
        name: [bias_at(default_node(name), on_ridge(k)) for k in steps]
        for name in names_of("hypergradient")
    }


def on_ridge(num_lower_steps: int) -> Where:
    """Ridge regression, y0 = 0."""
    return where(ridge_case(), sgd_of(0.3), num_lower_steps)


def errors_by_solver_steps() -> dict[str, tuple[list[int], list[float]]]:
    """Relative error against the work of the linear solve, from the exact lower solution."""
    lower, point = on_ridge(1)
    solution = lower.problem.exact.lower_solution
    assert solution is not None
    solved = Where(lower, point._replace(y0=solution(point.context, lower.task)))
    curves = {}
    for name in names_of("hypergradient"):
        default, node = default_node(name), exact_node(name)
        work = unchecked(default).work
        if not work or node is None:
            continue
        # Too few columns of a matrix say nothing without the damping that stands for the others.
        node = with_options(node, {k: v for k, v in default.options.items() if k == "damping"})
        steps = list(SOLVER_STEPS)
        curves[name] = steps, [bias_at(with_options(node, {work: s}), solved) for s in steps]
    return curves


def _look(number: int) -> Mapping[str, Any]:
    """Colour, line and marker of the estimator of that number: the same in every panel."""
    return {
        "color": [*(f"C{n}" for n in range(10)), "black"][number % 11],
        "linestyle": ("-", "--", ":")[number % 3],
        "marker": "osv^D<>"[number % 7],
        "markersize": 4,
    }


def _curve(
    axes: Any, steps: Sequence[int], values: Sequence[float], label: str, look: Mapping[str, Any]
) -> None:
    axes.plot(steps, np.maximum(values, 1e-15), label=label, **look)
