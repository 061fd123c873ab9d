"""How strongly to regularise a logistic regression: hypergradients beside searches, against time.

Two data sets that scikit-learn and numpy draw: a *table* like ijcnn1 (22 features, a tenth of the
rows positive, one penalty for each feature) and *texts* like 20 newsgroups (1,000 words, normalised
counts, one penalty). h(x) = F(x, y*(x)) and its gradient are taken by scipy at what each way has
found, outside its time.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from bilevel import Problem, lower_optimizers, lower_solvers, methods, minimizer, problem
from bilevel.mini_batches import Sampling
from bilevel.types import Array
from src.files import write_atomically

SECONDS = 40.0  # for each way on each data set, the compilation within
LEAST, MOST, START = -12.0, 0.0, -2.0  # log penalties
POINTS = 25  # of a curve
Rows = dict[str, np.ndarray]  # inputs (n, d), targets (n,) in {-1, 1}


class Case(NamedTuple):
    """A data set; `separate`: a penalty for each feature, not one for all."""

    name: str
    train: Rows
    validation: Rows
    separate: bool

    @property
    def num_penalties(self) -> int:
        return self.train["inputs"].shape[1] if self.separate else 1


class Trace(NamedTuple):
    """Seconds after the start, and the x there."""

    seconds: list[float]
    xs: list[np.ndarray]


def table(num_rows: int = 1200) -> Case:
    """22 features, 7 of which say something; a tenth of the rows is positive."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        num_rows,
        22,
        n_clusters_per_class=1,
        n_informative=7,
        n_redundant=3,
        weights=[0.9],
        flip_y=0.1,
        class_sep=2.0,
        random_state=0,
    )
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    return _split("table, 22 penalties", inputs, 2.0 * targets - 1.0, True)


def texts(num_rows: int = 3000, num_words: int = 1000, length: int = 60) -> Case:
    """Texts of 60 words, as frequent as in a language (Zipf); each word tells a topic a little.

    Of the targets 15 % are wrong.
    """
    random = np.random.default_rng(0)
    common = 1.0 / np.arange(10, num_words + 10)
    tilt = np.exp(0.7 * random.normal(size=num_words))
    topics = [common * tilt, common / tilt]
    told = random.choice([-1.0, 1.0], num_rows)
    counts = np.stack(
        [random.multinomial(length, (p := topics[int(t > 0)]) / p.sum()) for t in told]
    )
    targets = np.where(random.random(num_rows) < 0.15, -told, told)
    inputs = np.log1p(counts) * np.log(num_rows / (1 + (counts > 0).sum(0)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return _split("texts, 1 penalty", inputs, targets, False)


def _split(name: str, inputs: np.ndarray, targets: np.ndarray, separate: bool) -> Case:
    half = len(targets) // 2
    first, second = (
        {"inputs": inputs[s], "targets": targets[s]} for s in (slice(half), slice(half, None))
    )
    return Case(name, first, second, separate)


# ---- the truth, by scipy ----


def lower_solution(case: Case, x: np.ndarray, start: np.ndarray, tolerance: float) -> np.ndarray:
    """y*(x) by scipy's L-BFGS, to a gradient of `tolerance`."""
    inputs, targets = case.train.values()
    penalties = np.exp(np.broadcast_to(x, start.shape))

    def value_and_gradient(y: np.ndarray) -> tuple[float, np.ndarray]:
        margins = targets * (inputs @ y)
        slopes = -targets * scipy.special.expit(-margins) / len(targets)
        value = np.logaddexp(0, -margins).mean() + 0.5 * np.sum(penalties * y**2)
        return value, inputs.T @ slopes + penalties * y

    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": 5000, "maxcor": 30}
    return scipy.optimize.minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", options=options
    ).x


def upper_value(case: Case, y: np.ndarray) -> float:
    inputs, targets = case.validation.values()
    return float(np.logaddexp(0, -targets * (inputs @ y)).mean())


def lower_hessian(case: Case, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of f in y."""
    inputs, targets = case.train.values()
    share = scipy.special.expit(targets * (inputs @ y))
    penalties = np.exp(np.broadcast_to(x, y.shape))
    return (inputs.T * (share * (1 - share) / len(share))) @ inputs + np.diag(penalties)


def upper_slope(case: Case, y: np.ndarray) -> np.ndarray:
    """grad_y F."""
    inputs, targets = case.validation.values()
    return inputs.T @ (-targets * scipy.special.expit(-targets * (inputs @ y)) / len(targets))


def largest_curvature(case: Case) -> float:
    """A bound of |lower_hessian| for all y, and x up to MOST."""
    inputs = case.train["inputs"]
    return float(np.linalg.norm(inputs, 2) ** 2 / (4 * len(inputs)) + np.exp(MOST))


def truth(case: Case, x: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """h(x), its gradient by the implicit function theorem, and y*(x)."""
    y = lower_solution(case, x, start, 1e-9)
    q = scipy.linalg.solve(lower_hessian(case, x, y), upper_slope(case, y), assume_a="pos")
    gradient = -np.exp(np.broadcast_to(x, y.shape)) * y * q
    return upper_value(case, y), gradient if case.separate else gradient.sum(keepdims=True), y


def least(case: Case) -> float:
    """h*: scipy's L-BFGS on h with that gradient, from where a user would start."""
    start = [np.zeros(case.train["inputs"].shape[1])]

    def h(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, start[0] = truth(case, x, start[0])
        return value, gradient

    bounds = [(LEAST, MOST)] * case.num_penalties
    first = np.full(case.num_penalties, START)
    options = {"gtol": 1e-10, "ftol": 0.0, "maxiter": 60}
    found = scipy.optimize.minimize(
        h, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return float(found.fun)


# ---- what a user would do without hypergradients ----


def search(
    case: Case, propose: Callable[[int], np.ndarray], tell: Callable[[float], None]
) -> Trace:
    """h at proposal after proposal; the trace holds the best so far."""
    trace, best, began = Trace([], []), np.inf, time.perf_counter()
    n, start = 0, np.zeros(case.train["inputs"].shape[1])
    while not trace.xs or time.perf_counter() - began < SECONDS:
        try:
            x = propose(n)
        except StopIteration:
            break
        start = lower_solution(case, x, start, 1e-6)
        value = upper_value(case, start)
        tell(value)
        if value < best:
            best = value
            trace.seconds.append(time.perf_counter() - began)
            trace.xs.append(x)
        n += 1
    return trace


def grid(case: Case) -> Trace:
    """49 penalties from e^-12 to 1, the same for all features."""
    values: Iterator[float] = iter(np.linspace(LEAST, MOST, 49))
    return search(case, lambda n: np.full(case.num_penalties, next(values)), lambda value: None)


def random_search(case: Case) -> Trace:
    """Log penalties uniform in the box."""
    random = np.random.default_rng(0)
    return search(
        case, lambda n: random.uniform(LEAST, MOST, case.num_penalties), lambda value: None
    )


def tree_parzen(case: Case) -> Trace:
    """Optuna's TPE (Bergstra et al., NIPS 2011) in the box."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    trials: list[Any] = []

    def propose(n: int) -> np.ndarray:
        trials.append(study.ask())
        names = range(case.num_penalties)
        return np.array([trials[-1].suggest_float(f"x{i}", LEAST, MOST) for i in names])

    return search(case, propose, lambda value: study.tell(trials[-1], value))


# ---- with hypergradients ----


def as_problem(case: Case, batch_size: int | None = None, sampling: Sampling = "rows") -> Problem:
    """The same f and F for this library."""

    def loss(y: Array, rows: dict[str, Array]) -> Array:
        return jnp.mean(jax.nn.softplus(-rows["targets"] * (rows["inputs"] @ y)))

    def f(x: Array, y: Array, rows: dict[str, Array]) -> Array:
        return loss(y, rows) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def F(x: Array, y: Array, rows: dict[str, Array]) -> Array:
        return loss(y, rows)

    return problem(
        f,
        F,
        upper_start=jnp.full(case.num_penalties, START),
        lower_start=jnp.zeros(case.train["inputs"].shape[1]),
        train=case.train,
        validation=case.validation,
        batch_size=batch_size,
        sampling=sampling,
        project=lambda x: jnp.clip(x, LEAST, MOST),
    )


def by_hypergradient(method: methods.Method, case: Case) -> Trace:
    """Adam on the log penalties, iteration by iteration; the compilation counts."""
    began = time.perf_counter()
    descent = minimizer(as_problem(case), method, optax.adam(0.1))
    step = jax.jit(descent.step)
    state, n, trace = descent.init(jax.random.key(0)), 0, Trace([], [])
    while not trace.xs or time.perf_counter() - began < SECONDS:
        state, _ = step(state, jax.random.key(n))
        trace.xs.append(np.asarray(descent.x(state)))  # waits for the iteration
        trace.seconds.append(time.perf_counter() - began)
        n += 1
    return trace


def ways(case: Case) -> dict[str, Callable[[Case], Trace]]:
    """{name: way}: three hypergradients from warm starts, three searches."""
    steps = {"lower_optimizer": lower_optimizers.sgd(step_size=1 / largest_curvature(case))}
    exactly = methods.hoag(
        lower_tolerance=0.1,
        num_lower_steps=100,
        lower_start="warm",
        lower_optimizer=lower_solvers.lbfgs(tolerance=1e-8),
    )
    warm = {"num_lower_steps": 20, "lower_start": "warm", **steps}
    return {
        "hoag": partial(by_hypergradient, exactly),
        "neumann": partial(by_hypergradient, methods.neumann(**warm)),
        "unrolled (rhg)": partial(by_hypergradient, methods.rhg(**warm)),
        "grid search": grid,
        "random search": random_search,
        "TPE": tree_parzen,
    }


# ---- the picture ----


def free_norm(x: np.ndarray, gradient: np.ndarray) -> float:
    """|grad h| without the entries that push x against a bound where it is."""
    at_bound = ((x >= MOST) & (gradient < 0)) | ((x <= LEAST) & (gradient > 0))
    return float(np.linalg.norm(np.where(at_bound, 0.0, gradient)))


def judged(case: Case, trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds, h(x) and |grad h(x)| at POINTS of a trace, evenly spread over log seconds."""
    seconds = np.array(trace.seconds)
    wanted = np.geomspace(seconds[0], seconds[-1], POINTS)
    chosen = np.unique(np.searchsorted(seconds, wanted).clip(max=len(seconds) - 1))
    y, values, norms = np.zeros(case.train["inputs"].shape[1]), [], []
    for i in chosen:
        value, gradient, y = truth(case, trace.xs[i], y)
        values.append(value)
        norms.append(free_norm(trace.xs[i], gradient))
    return seconds[chosen], np.array(values), np.array(norms)


def regularisation_figure(path: Path) -> None:
    """Two columns, a data set each: h(x) - h* above, |grad h(x)| below, against seconds."""
    from matplotlib.figure import Figure

    cases = (table(), texts())
    figure = Figure(figsize=(9.5, 6.4), layout="constrained")
    panels = figure.subplots(2, len(cases), sharex="col", squeeze=False)
    with jax.enable_x64(True):
        for column, case in zip(panels.T, cases, strict=True):
            found = {name: judged(case, way(case)) for name, way in ways(case).items()}
            best = min(least(case), *(values.min() for _, values, _ in found.values()))
            for k, (name, (seconds, values, norms)) in enumerate(found.items()):
                style = {"color": f"C{k}", "label": name, "linestyle": "-" if k < 3 else "--"}
                marks = {"marker": "o", "markersize": 3}
                column[0].loglog(seconds, np.maximum(values - best, 1e-12), **style, **marks)
                column[1].loglog(seconds, np.maximum(norms, 1e-12), **style, **marks)
                print(f"{case.name}: {name}: h - h* = {values[-1] - best:.2e}, {seconds[-1]:.1f} s")
            column[0].set(title=case.name, ylabel="h(x) - h*")
            column[1].set(xlabel="seconds, compilation within", ylabel="|grad h(x)|")
            for panel in column:
                panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format="png"))
