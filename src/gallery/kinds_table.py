"""Every method on one problem of each kind, all with the same budget of gradients.

Nothing is tuned: K = 50 lower steps (one where the method says so), y goes on from the iteration
before, Adam on x from 0.05 to 0 along a cosine, every other setting the default. A method takes as
many iterations as its budget allows; how many gradients one costs is counted in its program
(src/gallery/counting.py), what is logged included. At the end (x, y) is judged by

    solved   |F - best| <= 0.01 scale,  |f(x, y) - f*| <= 0.001 max(1, |f*|), and no constraint
             above 0.01;    nearly   0.1, 0.01 and 0.1;    no   else

where scale is |best|, or F at the start where the best value is 0.
"""

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bilevel
from bilevel import Problem, methods
from bilevel.choices import Method
from src.gallery.counting import entries, gradients, marked
from src.gallery.judging import Ended, verdict
from src.gallery.kinds import Kind, Variant, kind, values

BUDGET = 200_000  # gradients
MOST_ITERATIONS = 20_000  # on mini-batches, whose gradients are a small share of one
NUM_LOWER_STEPS, LAST_STEPS = 50, 5
UPPER_STEP = 0.05
TIMED = 500  # iterations
NOTHING, BATCHES, CONSTRAINTS = "", "rows", "constraints"


class Way(NamedTuple):
    """A method, made of a lower step, and what it needs."""

    make: Callable[..., Method]
    needs: str = NOTHING
    single: bool = False  # one lower step, or as many as its own default


WAYS: dict[str, Way] = {
    "alternating": Way(methods.alternating),
    "rhg": Way(methods.rhg),
    "trhg": Way(partial(methods.trhg, keep_last=LAST_STEPS)),
    "hoag": Way(partial(methods.hoag, tolerance=1e-6, tolerance_decay=1.0)),
    "neumann": Way(methods.neumann),
    "darts": Way(methods.darts),
    "sama": Way(methods.sama),
    "pzobo": Way(methods.pzobo),
    "bda": Way(methods.bda),
    "iaptt": Way(methods.iaptt),
    "f2sa": Way(methods.f2sa),
    "pbgd": Way(methods.pbgd),
    "pbgd_gradient": Way(methods.pbgd_gradient),
    "pbgd_free": Way(methods.pbgd_free),
    "bome": Way(methods.bome),
    "bvfsm": Way(methods.bvfsm),
    "meha": Way(methods.meha, single=True),
    "soba": Way(methods.soba, single=True),
    "saba": Way(methods.saba, BATCHES, single=True),
    "srba": Way(partial(methods.srba, period=20), BATCHES, single=True),
    "amigo": Way(methods.amigo, BATCHES, single=True),
    "stocbio": Way(methods.stocbio, BATCHES, single=True),
    "mrbo": Way(methods.mrbo, BATCHES, single=True),
    "kkt": Way(methods.kkt, CONSTRAINTS),
    "lv_hba": Way(methods.lv_hba, CONSTRAINTS, single=True),
}
# Where lower steps descend another function than f, whose largest curvature is 1 / step: |grad f|^2
# has 2 / step^2, f with |y - .|^2 / 2 has 1 / step + 1.
OF_OTHER_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "pbgd_gradient": lambda step: step**2 / 2,
    "meha": lambda step: step / (1 + step),
    "lv_hba": lambda step: step / (1 + step),
}
HAVE_A_STEP_OF_THE_SYSTEM = ("soba", "saba", "srba", "amigo", "stocbio", "mrbo")


class Outcome(NamedTuple):
    """How a method ended on a kind; `why`: it was refused, or stopped."""

    verdict: str
    ended: Ended = Ended()
    iterations: int = 0
    gradients: float = 0.0
    seconds: float = 0.0  # without compiling, and without what is logged
    why: str = ""


def outcome(of: Kind, name: str) -> Outcome:
    """Run one method on one kind, and judge where it ends. To be called with 64 bits."""
    way = WAYS[name]
    variant: Variant | None = Variant(of.problem, 1.0, of.lower_step)
    if way.needs == BATCHES:
        variant = of.batched
    elif name == "lv_hba":
        variant = of.lightly
    if variant is None or (way.needs == CONSTRAINTS and of.problem.problem.penalised is None):
        return Outcome("", why=f"it is for problems with {way.needs}")
    problem, share, lower_step = variant
    chosen = method_of(name, lower_step)
    try:
        each = share * gradients_of_an_iteration(problem, chosen)
        number = min(int(BUDGET / each), MOST_ITERATIONS if share < 1 else BUDGET)
        x, y, seconds = _run(problem, chosen, number)
    except FloatingPointError as error:
        return Outcome("diverged", why=str(error).partition(":")[0])
    except ValueError as error:
        return Outcome("refused", why=str(error))
    upper, lower, violation = values(of.problem, x, y)
    ended = Ended(upper, lower - of.least(x, y), violation)
    least = lower - ended.lower_gap
    word = verdict(ended, of.best, least, scale_of(of))
    return Outcome(word, ended, number, number * each, seconds)


def method_of(name: str, lower_step: float) -> Method:
    """With steps that are stable where `lower_step` is, on f."""
    way = WAYS[name]
    lower_step = OF_OTHER_FUNCTIONS.get(name, lambda step: step)(lower_step)
    steps = {} if way.single else {"num_lower_steps": NUM_LOWER_STEPS}
    system = {"step_size_of_system": lower_step} if name in HAVE_A_STEP_OF_THE_SYSTEM else {}
    return way.make(step_size=lower_step, lower_start="warm", **steps, **system)


def scale_of(of: Kind) -> float:
    """|best|, or F at the start where the best value is 0."""
    x = of.problem.problem.init_upper(jax.random.key(0))
    y = of.problem.problem.init_lower(jax.random.key(0), x)
    return abs(of.best) or values(of.problem, x, y)[0]


def gradients_of_an_iteration(problem: Problem, chosen: Method, rounds: int | None = None) -> float:
    """Of all rows that the problem sees; raises ValueError where the method does not suit it.

    rounds: of loops that end by a tolerance; None for as many as y has entries.
    """
    descent = bilevel.minimizer(marked(problem), chosen, optax.sgd(UPPER_STEP))
    key = jax.random.key(0)
    state = jax.eval_shape(descent.init, key)
    shape = jax.eval_shape(lambda: problem.problem.init_lower(key, problem.problem.init_upper(key)))
    of_y = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shape))
    return gradients(descent.step, state, key, rounds=rounds or of_y, each=entries(problem))


def _run(problem: Problem, chosen: Method, number: int) -> tuple[Any, Any, float]:
    """x, y_K, and the seconds of the iterations: of some, without compiling, times their number."""
    optimizer = optax.adam(optax.cosine_decay_schedule(UPPER_STEP, number))
    with warnings.catch_warnings():
        # x that rests, and constraints not met, are what the verdict is about.
        warnings.simplefilter("ignore", UserWarning)
        found = bilevel.minimize(problem, chosen, optimizer=optimizer, num_iterations=number)
    return found.x, found.y, number * _seconds(problem, chosen, optimizer, min(number, TIMED))


def _seconds(
    problem: Problem, chosen: Method, optimizer: optax.GradientTransformation, number: int
) -> float:
    """Of an iteration: the better of three runs of a compiled program of so many."""
    descent = bilevel.minimizer(problem, chosen, optimizer)
    key = jax.random.key(0)

    def some(state: Any) -> Any:
        def step(state: Any, n: Any) -> tuple[Any, None]:
            return descent.step(state, jax.random.fold_in(key, n))[0], None

        return jax.lax.scan(step, state, jnp.arange(number))[0]

    state = jax.jit(descent.init)(key)
    compiled = jax.jit(some).lower(state).compile()

    def timed() -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled(state))
        return time.perf_counter() - began

    return min(timed() for _ in range(3)) / number


def tables(kinds: Sequence[str], names: Sequence[str]) -> list[str]:
    """Verdicts of all, then for each kind where its methods ended; in Markdown."""
    with jax.enable_x64(True):
        found: dict[str, dict[str, Outcome]] = {of: {} for of in kinds}
        for of, name in product(kinds, names):
            found[of][name] = outcome(kind(of), name)
            print(f"{of}, {name}: {found[of][name]}", file=sys.stderr)
    return lines_of(found)


def lines_of(found: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    """{kind: {method: outcome}} in Markdown."""
    names = list(next(iter(found.values())))
    lines = [
        f"| method | {' | '.join(found)} | solved |",
        "| --- " * (len(found) + 2) + "|",
    ]
    for name in names:
        verdicts = [outcomes[name].verdict for outcomes in found.values()]
        tried = sum(word not in ("", "refused") for word in verdicts)
        lines.append(
            f"| `{name}` | {' | '.join(verdicts)} | {verdicts.count('solved')} of {tried} |"
        )
    for of, outcomes in found.items():
        with jax.enable_x64(True):
            words, best = kind(of).words, kind(of).best
        lines += ["", f"### {of}", "", *_details(words, best, outcomes)]
    return lines


def _sentence(words: str) -> str:
    """With a capital letter, unless it begins with the name of a function or a variable."""
    return words if words[1] == " " else f"{words[0].upper()}{words[1:]}"


def _details(words: str, best: float, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Of one kind: numbers of those that ran, reasons of those that did not."""
    lines = [
        f"{_sentence(words)}. F at the solution: {best:.4f}.",
        "",
        "| method | | F | f - f* | iterations | gradients | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    reasons: dict[str, list[str]] = {}
    for name, one in outcomes.items():
        if one.why and one.verdict:
            reasons.setdefault(one.why, []).append(f"`{name}` {one.verdict}")
        elif one.verdict:
            lines.append(
                f"| `{name}` | {one.verdict} | {one.ended.upper:.4f} | {one.ended.lower_gap:.1e} "
                f"| {one.iterations:,} | {one.gradients:,.0f} | {one.seconds:.2g} |"
            )
    return [*lines, *listed(reasons)]


def listed(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """{reason: whom it stopped} below a table, in Markdown."""
    return [*[""] * bool(reasons), *(f"- {', '.join(w)}: {r}" for r, w in reasons.items())]
