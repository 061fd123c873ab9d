"""Each lower optimizer once more, as a recursion in numpy."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bilevel import lower_optimizers
from bilevel.step_types import LowerOptimizer

STEP = 0.1
FACTORIES = {
    name: value
    for name, value in vars(lower_optimizers).items()
    if inspect.isfunction(value)
    and value.__module__ == lower_optimizers.__name__
    and value.__annotations__["return"] is LowerOptimizer
    and not name.startswith("_")
}
SETS = ("box", "ball", "simplex")


# (d, y, m, v, k) -> (what is subtracted, times eta; m; v)


def plain(d, y, m, v, k):
    return d, m, v


def heavy_ball(d, y, m, v, k):
    m = 0.7 * m + d
    return m, m, v


def sutskever(d, y, m, v, k):
    m = 0.7 * m + d
    return d + 0.7 * m, m, v


def kingma(d, y, m, v, k):
    m, v = 0.8 * m + 0.2 * d, 0.9 * v + 0.1 * d**2
    return m / (1 - 0.8**k) / np.sqrt(v / (1 - 0.9**k) + 1e-3**2), m, v


def loshchilov(d, y, m, v, k):
    moved, m, v = kingma(d, y, m, v, k)
    return moved + 0.05 * y, m, v


def onto_box(y, lower, upper):
    return np.minimum(np.maximum(y, lower), upper)


def onto_ball(y, radius):
    return y * min(1.0, radius / max(np.linalg.norm(y), 1e-300))


def onto_simplex(y, radius):
    """Held, Wolfe, Crowder, 1974: shift by the theta at which what stays positive sums up."""
    descending = np.sort(y)[::-1]
    thetas = (np.cumsum(descending) - radius) / np.arange(1, y.size + 1)
    return np.maximum(y - thetas[descending > thetas][-1], 0)


class Row(NamedTuple):
    factory: str
    options: dict[str, Any]
    rule: Callable
    onto: Callable = lambda y: y


TABLE = {
    "sgd": Row("sgd", {}, plain),
    "momentum": Row("momentum", {"momentum": 0.7}, heavy_ball),
    "nesterov": Row("nesterov", {"momentum": 0.7}, sutskever),
    "adam": Row("adam", {"b1": 0.8, "b2": 0.9, "eps": 1e-3}, kingma),
    "adamw": Row("adamw", {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.05}, loshchilov),
    "box": Row(
        "projected",
        {"set": "box", "lower": -0.4, "upper": 0.6},
        plain,
        lambda y: onto_box(y, -0.4, 0.6),
    ),
    "ball": Row("projected", {"set": "ball", "radius": 1.2}, plain, lambda y: onto_ball(y, 1.2)),
    "simplex": Row(
        "projected", {"set": "simplex", "radius": 2.0}, plain, lambda y: onto_simplex(y, 2.0)
    ),
}


def made(name, **options):
    row = TABLE[name]
    return FACTORIES[row.factory](**{"step_size": STEP, **row.options, **options})
