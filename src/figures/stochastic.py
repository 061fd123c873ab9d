"""Methods on mini-batches beside each other: |grad h(x)| against passes over the rows.

Two problems of benchmark_bilevel in small: sums of random quadratics (problem=quadratic), and a
penalty for each feature of a logistic regression on a table like ijcnn1 (figures/regularisation).
Each method has the steps of y (and of q) and of x that end lowest on one seed, which is not among
those drawn; all have the same budget. One pass: as many rows, each for one gradient or one product
with a second derivative, as f and F have together. Lines are medians over seeds, bands from the
20th to the 80th percentile.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel import Problem, methods, minimizer, upper_optimizers
from bilevel.shapes import one_task
from bilevel.types import Array
from src.figures.regularisation import as_problem, free_norm, table, truth
from src.files import write_atomically
from src.problems.quadratic import quadratic

NUM_SEEDS, TUNED_ON = 10, 100
POINTS = 24  # of a curve
PASSES = 400
LOWER_STEPS = (0.03, 0.1, 0.3, 1.0)
K = 10  # lower steps, and steps of the linear system, where a method takes several
LINES = {"": "-", " all rows": "--", " falling steps": ":"}
NUM_QUADRATICS, NUM_TABLE_ROWS, BATCH = 256, 2048, 16


class Case(NamedTuple):
    """A problem with rows of f and of F.

    upper_steps   of x, to choose from
    norms(xs)     |grad h| at x of shape (..., dimension)
    """

    name: str
    problem: Problem
    whole: Problem  # the same without mini-batches
    num_rows: int  # of f, and as many of F
    upper_steps: tuple[float, ...]
    norms: Callable[[np.ndarray], np.ndarray]


class Way(NamedTuple):
    """A method by its lower step, and the rows that an iteration takes.

    whole        whether it sees all rows
    step_power   p where its steps of x fall as (n + 1)^-p; those of y and q are the method's
    """

    method: Callable[[float], methods.Method]
    rows: float
    whole: bool = False
    step_power: float = 0.0


def ways(num_rows: int) -> dict[str, Way]:
    """{name: way}; n and m are num_rows."""
    period = 2 * num_rows // BATCH
    system = {"num_system_steps": K}
    single = 4.0 * BATCH  # d, two products with second derivatives, grad F
    implicit = BATCH * (2.0 * K + 2)

    def by(method: Callable[..., methods.Method], **options: float) -> Callable:
        return lambda step: method(step_size=step, step_size_of_system=step, **options)

    def on_all_rows(step: float) -> methods.Method:
        return methods.hoag(
            step_size=step, num_lower_steps=K, lower_start="warm", tolerance=1e-6, max_steps=K
        )

    averaged = 2 * BATCH * (K + 3.0)
    return {
        "soba": Way(by(methods.soba), single),
        "soba, falling steps": Way(by(methods.soba, step_power=0.5), single, step_power=0.5),
        "saba": Way(by(methods.saba), single),
        "srba": Way(by(methods.srba, period=period), 2 * single + 4.0 * num_rows / period),
        "mrbo": Way(by(methods.mrbo, **system), averaged),
        "mrbo, falling steps": Way(
            by(methods.mrbo, **system, step_power=1 / 3), averaged, step_power=1 / 3
        ),
        "amigo": Way(by(methods.amigo, **system), implicit),
        "stocbio": Way(by(methods.stocbio, **system), implicit),
        "hoag, all rows": Way(on_all_rows, num_rows * (2.0 * K + 2), whole=True),
    }


def quadratics() -> Case:
    """Rows of f and of F that are quadratics; h is one, too."""
    make = partial(quadratic, num_lower_rows=NUM_QUADRATICS, num_upper_rows=NUM_QUADRATICS)
    batched, whole = Problem(*make(batch_size=BATCH, sampling="epochs")), Problem(*make())
    task = one_task(whole.source, whole.source.data, jax.random.key(0), "train")
    exact = whole.problem.exact.hypergradient
    assert exact is not None
    gradient = jax.jit(jax.vmap(lambda x: jnp.linalg.norm(exact(x, task))))

    def norms(xs: np.ndarray) -> np.ndarray:
        flat = jnp.asarray(xs.reshape(-1, xs.shape[-1]))
        return np.asarray(gradient(flat)).reshape(xs.shape[:-1])

    return Case("quadratics", batched, whole, NUM_QUADRATICS, (0.01, 0.03, 0.1, 0.3), norms)


def penalties() -> Case:
    """A table of 22 features, a penalty for each."""
    rows = table(2 * NUM_TABLE_ROWS)
    start = np.zeros(rows.train["inputs"].shape[1])

    def norm(x: np.ndarray) -> float:
        return free_norm(x, truth(rows, x, start)[1]) if np.isfinite(x).all() else np.inf

    batched = as_problem(rows, batch_size=BATCH, sampling="epochs")
    return Case(
        "penalties of a logistic regression",
        batched,
        as_problem(rows),
        NUM_TABLE_ROWS,
        (1.0, 3.0, 10.0, 30.0),  # grad h is a hundredth of the quadratics'
        lambda xs: np.apply_along_axis(norm, -1, xs),
    )


def followed(case: Case, way: Way, lower_step: float, upper_step: float, seeds: range) -> Array:
    """x at POINTS of the budget, evenly spread, of each seed: (seeds, POINTS, dimension)."""
    problem = case.whole if way.whole else case.problem
    optimizer = upper_optimizers.sgd(step_size=upper_step, step_power=way.step_power)
    descent = minimizer(problem, way.method(lower_step), optimizer)
    between = max(1, round(PASSES * 2 * case.num_rows / way.rows / POINTS))

    def of_seed(seed: Array) -> Array:
        key = jax.random.key(seed)

        def step(state, n: Array):
            return descent.step(state, jax.random.fold_in(key, n))[0], None

        def stretch(state, first: Array):
            state, _ = lax.scan(step, state, first + jnp.arange(between))
            return state, descent.x(state)

        start = descent.init(jax.random.fold_in(key, 2**31))
        return lax.scan(stretch, start, between * jnp.arange(POINTS))[1]

    return jax.jit(partial(lax.map, of_seed))(jnp.asarray(seeds))


def tuned(case: Case, way: Way) -> tuple[float, float]:
    """The steps that end lowest on the seed TUNED_ON."""

    def end(steps: tuple[float, float]) -> float:
        xs = followed(case, way, *steps, range(TUNED_ON, TUNED_ON + 1))
        value = float(case.norms(np.asarray(xs[:, -1]))[0])
        return value if np.isfinite(value) else np.inf

    # Steps that fall must be longer at first.
    upper_steps = [step * (10 if way.step_power else 1) for step in case.upper_steps]
    return min(itertools.product(LOWER_STEPS, upper_steps), key=end)


def curves(case: Case) -> Mapping[str, tuple[tuple[float, float], np.ndarray]]:
    """{method: (its steps, |grad h| at x: (seeds, POINTS))}."""
    found = {}
    for name, way in ways(case.num_rows).items():
        steps = tuned(case, way)
        xs = np.asarray(followed(case, way, *steps, range(NUM_SEEDS)))
        found[name] = steps, case.norms(xs)
    return found


def stochastic_figure(path: Path) -> str:
    """A panel for each problem; returns the table of what each method ends at, in Markdown."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    lines = [
        "| problem | method | steps of y, x | median of the last norm | 20 % to 80 % |",
        "| --- | --- | --- | --- | --- |",
    ]
    with jax.enable_x64(True):
        cases = (quadratics(), penalties())
        for panel, case in zip(figure.subplots(1, len(cases)), cases, strict=True):
            passes = PASSES * np.arange(1, POINTS + 1) / POINTS
            colours: dict[str, str] = {}
            for name, (steps, norms) in curves(case).items():
                low, middle, high = np.maximum(np.percentile(norms, [20, 50, 80], axis=0), 1e-16)
                method, comma, which = name.partition(",")
                colour = colours.setdefault(method, f"C{len(colours)}")
                style = {"color": colour, "linestyle": LINES[which]}
                panel.semilogy(passes, middle, label=name, **style)
                panel.fill_between(passes, low, high, color=colour, alpha=0.2, lw=0)
                lines.append(
                    f"| {case.name} | `{method}`{comma}{which} "
                    f"| {steps[0]:g}, {steps[1]:g} | {middle[-1]:.1e} | {low[-1]:.1e} to "
                    f"{high[-1]:.1e} |"
                )
            panel.set(title=case.name, xlabel="passes over the rows", ylabel="|grad h(x)|")
            panel.grid(alpha=0.3)
        figure.axes[0].legend(fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
    return "\n".join(lines) + "\n"
