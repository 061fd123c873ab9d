"""How often a program passes through f and F: counted in the program itself, before it runs.

f and F are wrapped so that (x, y) goes through an operation that changes nothing and that nothing
else here uses. Derivatives carry it along: a value has it once, a gradient twice (there and back),
a product with second derivatives two to four times, as the program keeps what it needs or not.
Passes side by side (vmap) are one operation on so many points, and count as many. Two passes are
called a gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.flatten_util import ravel_pytree

from bilevel import Problem
from bilevel.shapes import shapes_of
from bilevel.types import BilevelProblem, Tree

MARK = "reduce_precision"
# More bits than any number here has, so that nothing is rounded.
EXPONENT_BITS, MANTISSA_BITS = 11, 52


def marked(problem: Problem) -> Problem:
    """The same problem, each pass through f or F marked."""

    def of(objective: Callable[..., Any]) -> Callable[..., Any]:
        def through(context: Tree, task: Tree, y: Tree) -> Any:
            flat, restored = ravel_pytree((context, y))
            context, y = restored(lax.reduce_precision(flat, EXPONENT_BITS, MANTISSA_BITS))
            return objective(context, task, y)

        return through

    plain: BilevelProblem = problem.problem
    penalised = plain.penalised
    if penalised is not None:
        penalised = penalised._replace(f=of(penalised.f), F=of(penalised.F))
    return problem._replace(
        problem=plain._replace(
            lower_objective=of(plain.lower_objective),
            upper_objective=of(plain.upper_objective),
            penalised=penalised,
        )
    )


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
        inner = [_passes(one, rounds, each) for one in _inner(parameters)]
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


def _inner(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside of an operation."""
    for value in jax.tree.leaves(
        parameters, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
