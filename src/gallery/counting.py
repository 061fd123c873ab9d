"""How often a program passes through f and F: counted in the program itself, before it runs.

f and F are wrapped so that (x, y) goes through an operation that changes nothing and that nothing
else here uses. Derivatives carry it along: a value has it once, a gradient twice (there and back),
a product with second derivatives two to four times, as the program keeps what it needs or not.
Passes side by side (vmap) are one operation on so many points, and count as many. Two passes are
called a gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend.core import Jaxpr

from bilevel import Problem
from bilevel.shapes import shapes_of
from bilevel.types import Array
from src.certification.programs import inside, through_operations

MARK = "reduce_precision"
# More bits than any number here has, so that nothing is rounded.
EXPONENT_BITS, MANTISSA_BITS = 11, 52


def marked(problem: Problem) -> Problem:
    """The same problem, each pass through f or F marked."""

    def mark(flat: Array) -> Array:
        return lax.reduce_precision(flat, EXPONENT_BITS, MANTISSA_BITS)

    return through_operations(problem, mark, mark)


def entries(problem: Problem) -> int:
    """Of (x, y) as f and F see them: of the context and of y."""
    shapes = shapes_of(problem.problem, problem.source, "train")
    return sum(leaf.size for leaf in jax.tree.leaves((shapes.context, shapes.y)))


def gradients(program: Callable[..., Any], *arguments: Any, rounds: int, each: int) -> float:
    """Passes through f and F, halved; a loop that ends by a tolerance counts `rounds` rounds.

    Of branches the dearest counts. program: a function of a marked problem, traced and not run.
    each: the `entries` of the problem.
    """
    return _passes(jax.make_jaxpr(program)(*arguments).jaxpr, rounds, each) / 2


def _passes(program: Jaxpr, rounds: int, each: int) -> int:
    total = 0
    for equation in program.eqns:
        name, parameters = equation.primitive.name, equation.params
        inner = [_passes(one, rounds, each) for one in inside(parameters)]
        if name == MARK:
            points: Any = equation.outvars[0].aval
            total += points.size // each
        elif name == "scan":
            total += parameters["length"] * sum(inner)
        elif name == "while":
            total += rounds * sum(inner)
        else:
            total += max(inner, default=0) if name == "cond" else sum(inner)
    return total
