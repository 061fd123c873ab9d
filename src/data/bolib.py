"""Problems of BOLIB, a public set of bilevel test problems with best known values.

Zhou, Zemkoho, Tin: BOLIB: bilevel optimization library of test problems, 2018 (arXiv 1812.00230).
`bolib.json` holds 81 of them as formulas in text. `best` is the value that the set states, or,
where the status is `corrected`, that of an independent search that found the stated one to be
wrong. Where the set has no start it is 0.
"""

import json
import math
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from src.data.expressions import formula, names_of

FILE = Path(__file__).with_suffix(".json")


class Box(NamedTuple):
    """lower <= v <= upper, entry by entry; infinite where there is no bound."""

    lower: np.ndarray
    upper: np.ndarray


class Instance(NamedTuple):
    """min F(x, y) over x in a box, y minimises f(x, .) in a box; formulas in text.

    G, g     further constraints, G(x, y) <= 0 of the upper and g(x, y) <= 0 of the lower level
    best     the best value of F that is known; None where the set has none
    status   optimal or known, as the set says, or corrected
    """

    name: str
    F: str
    f: str
    x_box: Box
    y_box: Box
    x0: np.ndarray
    y0: np.ndarray
    best: float | None
    status: str
    G: tuple[str, ...] = ()
    g: tuple[str, ...] = ()


@cache
def entries() -> dict[str, dict[str, Any]]:
    """All problems of the file, as it has them."""
    return {entry["name"]: entry for entry in json.loads(FILE.read_text(encoding="utf-8"))}


def instance(name: str) -> Instance:
    """The problem of this name. Raises ValueError for an unknown name, with the nearest."""
    if name not in entries():
        near = get_close_matches(str(name), entries(), n=3, cutoff=0.3)
        near = near or get_close_matches(str(name), entries(), n=3, cutoff=0.0)
        raise ValueError(
            f"instance={name} is no problem of BOLIB; the nearest are {', '.join(near)}"
        )
    entry = entries()[name]
    x0, y0 = (np.array(entry[key], float) for key in ("x0", "y0"))
    x_box, G = _split(entry["G"], "x", len(x0))
    y_box, g = _split(entry["g"], "y", len(y0))
    best = None if entry["best"] is None else float(entry["best"])
    return Instance(name, entry["F"], entry["f"], x_box, y_box, x0, y0, best, entry["status"], G, g)


@cache
def with_boxes_alone() -> tuple[str, ...]:
    """The names whose constraints are bounds of single entries."""
    found = {name: instance(name) for name in entries()}
    return tuple(name for name, one in found.items() if not (one.G or one.g))


def _split(constraints: list[str], letter: str, size: int) -> tuple[Box, tuple[str, ...]]:
    """The box of the constraints a v + b <= 0 on single entries of v, and the others."""
    lower, upper, others = np.full(size, -math.inf), np.full(size, math.inf), []
    for text in constraints:
        names = names_of(text)
        if len(names) != 1 or not next(iter(names)).startswith(letter):
            others.append(text)
            continue
        index = int(next(iter(names))[1:]) - 1
        at = [_at(text, size, index, value) for value in (0.0, 1.0, 2.0)]
        slope = at[1] - at[0]
        if not math.isclose(at[2], at[0] + 2 * slope, abs_tol=1e-6):
            others.append(text)
            continue
        bound = -at[0] / slope
        if slope > 0:
            upper[index] = min(upper[index], bound)
        else:
            lower[index] = max(lower[index], bound)
    return Box(lower, upper), tuple(others)


def as_text(box: Box) -> tuple[str, ...]:
    """Bounds of y as constraints."""
    lows = [f"{low:.17g}-y{i}" for i, low in enumerate(box.lower, 1) if np.isfinite(low)]
    highs = [f"y{i}-({up:.17g})" for i, up in enumerate(box.upper, 1) if np.isfinite(up)]
    return (*lows, *highs)


def _at(text: str, size: int, index: int, value: float) -> float:
    with jax.enable_x64(True):
        point = jnp.zeros(size).at[index].set(value)
        return float(formula(text)(point, point))
