"""Error of every estimator against lower steps and solver steps, and the memory of unrolling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from src.certification.cases import Case, Point, point_of
from src.certification.certify import (
    bias_at,
    default_node,
    ridge_case,
    sgd_of,
    unrolled_bytes,
)
from src.experiment.combinations import names_of
from src.experiment.config import Node
from src.files import write_atomically

LOWER_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SOLVER_STEPS = (1, 2, 3, 5, 8, 12, 16, 20, 30, 50, 100)
MEMORY_STEPS = (10, 30, 100, 300, 1000)
MEMORY_SIZE = 100_000
# The option that counts a solver's work.
WORK = ("max_solver_steps", "num_terms", "rank")


def hypergradient_figure(path: Path) -> None:
    """Draw the three panels."""
    from matplotlib.figure import Figure

    with jax.enable_x64(True):
        by_lower, by_solver = errors_by_lower_steps(LOWER_STEPS), errors_by_solver_steps()
    memory = {
        label: [unrolled_bytes(checkpoints, k, MEMORY_SIZE) / 2**20 for k in MEMORY_STEPS]
        for label, checkpoints in {"all iterates": "none", "checkpoints=sqrt": "sqrt"}.items()
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
        name: [bias_at(default_node(name), sgd_case(k), k) for k in steps]
        for name in names_of("hypergradient")
    }


def sgd_case(num_lower_steps: int) -> tuple[Case, Point]:
    """Ridge regression and its point, y0 = 0."""
    case = ridge_case()
    return case, point_of(case, sgd_of(0.3), num_lower_steps)


def errors_by_solver_steps() -> dict[str, tuple[list[int], list[float]]]:
    """Relative error against the work of the linear solve, from the exact lower solution."""
    case, point = sgd_case(1)
    solution = case.problem.exact.lower_solution
    assert solution is not None
    solved = case, point._replace(y0=solution(point.context, point.task))
    curves = {}
    for name in names_of("hypergradient"):
        node = default_node(name)
        work = next((option for option in WORK if option in node.options), None)
        if work is None:
            continue
        steps = [s for s in SOLVER_STEPS if work != "rank" or s <= 20]
        curves[name] = (
            steps,
            [bias_at(_working(node, work, s), solved, 1) for s in steps],
        )
    return curves


def _working(node: Node, work: str, steps: int) -> Node:
    exact: Mapping[str, Any] = {"tolerance": 1e-15, "max_residual": 1e9}
    given = {key: value for key, value in exact.items() if key in node.options}
    restart = {"restart": steps} if "restart" in node.options else {}
    return node._replace(options={**node.options, **given, **restart, work: steps})


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
