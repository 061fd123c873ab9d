"""The counter-example, solved with the numbers that conf/problem/counterexample.yaml recommends.

Where each law of aggregation ends, found and in closed form, as a picture and as a table.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.aggregation import descent, laws_by_name, lower_only
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.hypergradients import unrolled
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from bilevel.upper_optimizers import sgd as upper_sgd
from src.files import write_atomically
from src.problems.counterexample import counterexample
from src.settings.cli import compose_config
from src.settings.config import resolve

LAWS = ("constant", "harmonic", "geometric", "upper_geometric", "tpami")
LARGER_K = (400, 40_000)
STEPS = (8, 16, 64)  # K of the panels of draw_starts
STARTS = (0.0, 4.0)  # of x, y1 and y2 together


class Solved(NamedTuple):
    """x_0 .. x_N of a run; phi_K as a function of x; weights(K) -> (K, 2) of grad F and grad f."""

    iterates: Sequence[float]
    phi: Callable[[Any], Any]
    weights: Callable[[int], np.ndarray]


def recommended() -> dict[str, Any]:
    """What conf/problem/counterexample.yaml recommends."""
    return resolve(compose_config(["problem=counterexample"])[0])["problem"]["recommended"]


def solve(settings: dict[str, Any], law: str | None, x: float = 0.0, y: float = 0.0) -> Solved:
    """The counter-example (n = 1) under one aggregation law; None is `lower_only`, that is RHG.

    From x; y1 and y2 from y.
    """
    problem, source = counterexample(upper_start=x)
    problem = problem._replace(
        init_lower=lambda key, x: {"y1": jax.numpy.full(1, y), "y2": jax.numpy.full(1, y)}
    )
    aggregation = descent(law=law, alpha=settings["alpha"]) if law else lower_only()
    dynamics = compose(aggregation, sgd(step_size=settings["lower_step_size"]))
    num_lower_steps = settings["num_lower_steps"]
    algorithm = hypergradient_descent(
        problem,
        dynamics,
        unrolled(),
        upper_sgd(step_size=settings["upper_step_size"]),
        num_lower_steps=num_lower_steps,
        persistent=True,
    )
    key = jax.random.key(0)
    tasks = source.sample(source.data, key, "train", 1)
    step = jax.jit(algorithm.step)
    state = algorithm.init(key)
    iterates = [float(state.variables["problem"][0])]
    for _ in range(settings["num_iterations"]):
        state, _ = step(state, key, tasks)
        iterates.append(float(state.variables["problem"][0]))

    y0 = problem.init_lower(key, state.variables["problem"])
    params = dynamics.init_params(num_lower_steps, y0)
    lower = LowerProblem(problem, dynamics, num_lower_steps, persistent=True, task={})

    def phi(x: Any) -> Any:
        point = Point(x[None], params, y0)
        return lower.at(point).upper(lower.solve(point))[0]

    def weights(steps: int) -> np.ndarray:
        each = aggregation.weights({}, jax.numpy.arange(1, steps + 1))
        return np.stack([np.broadcast_to(0.0 if w is None else w, steps) for w in each], axis=1)

    return Solved(iterates, jax.jit(phi), weights)


def closed_form(weights: np.ndarray, step_size: float) -> tuple[float, float]:
    """(x, F) at the minimiser of phi_K, from the scalar recursion of the K lower steps.

    weights: (K, 2), those of grad F and of grad f. From y = 0, y1_K = A + B x and y2_K = R x, so
    phi_K = ((1 - R) x)^2/2 + (A + B x - 1)^2/2 and x = B (1 - A) / ((1 - R)^2 + B^2).
    """
    offset, slope, pulled = 0.0, 0.0, 0.0
    for a, b in weights.tolist():
        offset -= step_size * (a * (offset - 1) + b * offset)
        slope -= step_size * (a * slope + b * (slope - 1))
        pulled -= step_size * a * (pulled - 1)
    x = slope * (1 - offset) / ((1 - pulled) ** 2 + slope**2)
    return x, 0.5 * ((1 - pulled) * x) ** 2 + 0.5 * (offset + slope * x - 1) ** 2


def _definitions() -> str:
    """All laws by their docstrings, as Markdown."""
    rows = ["| `law=` | a_k | b_k | option (default) | |", "| --- | --- | --- | --- | --- |"]
    for name, law in laws_by_name().items():
        formula, _, remark = inspect.cleandoc(law.__doc__ or "").partition("\n\n")
        upper, _, lower = formula.removeprefix("a_k = ").rstrip(".").partition(", b_k = ")
        options = [
            f"`{option}` ({parameter.default})"
            for option, parameter in inspect.signature(law).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        remark = " ".join(remark.split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {upper} | {lower} | {', '.join(options)} | {remark} |")
    return (
        "Lower step k = 1, ..., K of BDA (Bi-level Descent Aggregation) moves along\n"
        "d_k = s a_k grad_y F + t b_k grad_y f. The *law* (`aggregation.law=`, in Python\n"
        '`bilevel.methods.bda(law="harmonic")`) says what a_k and b_k are. `alpha`, in [0, 1], is\n'
        "the share of F that it starts from. s and t are factors of the two parts: 1, unless you\n"
        "set them (`aggregation.s=`, `aggregation.t=`) or let the upper level learn them\n"
        "(`'aggregation.learn=[s,t]'`; alpha can be learned in the same way). New tasks of a test\n"
        "are scored without F: d_k = t grad_y f.\n\n" + "\n".join(rows) + "\n\n"
        "In Python a law can also be a function of yours, of alpha and of k = 1..K, which is\n"
        "traced (`jnp.where(k < 3, a, b)` in place of an `if`):\n\n"
        "    bilevel.methods.bda(law=lambda alpha, k: (alpha / k**2, 1 - alpha / k**2))"
    )


def law_table(solved: dict[str | None, Solved], settings: dict[str, Any]) -> str:
    """Where each law ends on the counter-example, measured and by theory, as Markdown."""
    num_lower_steps, step_size = settings["num_lower_steps"], settings["lower_step_size"]
    larger = [f"x, F theory, K = {k:,}" for k in LARGER_K]
    header = ["law", "x found", "x theory", "F found", "F theory", *larger]
    rows = [header, ["---"] * len(header)]
    for law, result in solved.items():
        x, value = closed_form(result.weights(num_lower_steps), step_size)
        found = result.iterates[-1]
        beyond = [closed_form(result.weights(k), step_size) for k in LARGER_K]
        rows.append(
            [
                law or "none (RHG)",
                f"{found:.6f}",
                f"{x:.6f}",
                f"{float(result.phi(np.float64(found))):.2e}",
                f"{value:.2e}",
                *(f"{x:.4f}, {value:.1e}" for x, value in beyond),
            ]
        )
    return (
        f"# The laws of BDA, and where each ends\n\n{_definitions()}\n\n"
        "## Where each law ends on the counter-example\n\n"
        f"The counter-example (n = 1) after {settings['num_iterations']} upper iterations in "
        f"float64: K = {num_lower_steps},\nlower step {step_size:g}, alpha {settings['alpha']:g}. "
        "The solution is x = 1 with F = 0. Theory is the minimiser of\nF(x, y_K(x)) in closed "
        "form.\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
    )


def draw(solved: dict[str | None, Solved], path: Path) -> None:
    """What each method minimises, and where its iterates go."""
    from matplotlib.figure import Figure

    shown = {
        None: "RHG: descends f alone",
        "constant": "BDA, constant law",
        "harmonic": "BDA, harmonic law",
    }
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    landscape, progress = figure.subplots(1, 2)
    grid = np.linspace(0, 1.6, 161)
    landscape.plot(grid, 0.5 * (grid - 1) ** 2, "k:", label="the truth")
    for (law, label), colour in zip(shown.items(), ("C3", "C0", "C1"), strict=True):
        result = solved[law]
        landscape.plot(grid, [float(result.phi(x)) for x in grid], colour, label=label)
        end = result.iterates[-1]
        landscape.plot(end, float(result.phi(np.float64(end))), "o", color=colour)
        progress.plot(result.iterates, colour, label=label)
    landscape.set(xlabel="x", ylabel="F(x, y_K(x))", title="What is minimised (dots: where x ends)")
    landscape.set_ylim(-0.02, 0.62)
    progress.axhline(1, color="k", linestyle=":")
    progress.set(xlabel="upper iteration", ylabel="x", title="Where x goes", xlim=(0, 60))
    for axes in (landscape, progress):
        axes.grid(alpha=0.25)
    handles, labels = landscape.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))


def draw_starts(settings: dict[str, Any], path: Path) -> None:
    """The error of x by iteration: one panel for K, from two starts; as Liu et al., ICML 2020."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(STEPS), sharey=True, squeeze=False)[0]
    kinds = (
        (None, "RHG", "C3"),
        ("constant", "BDA, constant law", "C0"),
        ("harmonic", "BDA, harmonic law", "C1"),
    )
    for panel, steps in zip(panels, STEPS, strict=True):
        for law, label, colour in kinds:
            for start, style in zip(STARTS, ("-", "--"), strict=True):
                result = solve({**settings, "num_lower_steps": steps}, law, start, start)
                errors = np.maximum(np.abs(np.array(result.iterates) - 1), 1e-16)
                panel.semilogy(errors, style, color=colour, label=f"{label}, from {start:g}")
        panel.set(title=f"K = {steps}", xlabel="upper iteration")
        panel.grid(alpha=0.25)
    panels[0].set(ylabel="|x - 1|", ylim=(1e-8, 9))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
