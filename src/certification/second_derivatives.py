"""Whose second derivatives an estimate takes: found in its program, before it runs.

(x, y) goes into an objective through an operation that changes nothing. Its derivative leaves a
mark on a first tangent, and another one on a second: the latter is in the program where a second
derivative is. What the program does not need is taken out of it first.
"""

from collections.abc import Callable, Iterator

import jax
from jax import lax
from jax.extend.core import Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from bilevel import Problem
from bilevel.choices import Method
from bilevel.estimate import first_estimate
from bilevel.types import Array
from src.certification.programs import inside, through_operations

MARK = "reduce_precision"
# More bits than any number here has, so that nothing is rounded.
EXPONENT_BITS, OF_FIRST = 11, 60
OF_SECOND = {"f": 61, "F": 62}


def second_derivatives(problem: Problem, method: Method) -> list[str]:
    """Those of f and F whose second derivatives the method's hypergradient needs.

    Raises ValueError where the method does not suit the problem.
    """
    marked = through_operations(problem, _marking("f"), _marking("F"))
    x = marked.problem.init_upper(jax.random.key(0))
    program = jax.make_jaxpr(lambda x: first_estimate(marked, method, x).gradient)(x).jaxpr
    needed, _ = dce_jaxpr(program, [True] * len(program.outvars))
    there = set(_marks(needed))
    return [name for name, bits in OF_SECOND.items() if bits in there]


def _marking(name: str) -> Callable[[Array], Array]:
    """An operation that changes nothing, whose first and second derivatives leave a mark."""

    @jax.custom_jvp
    def once(flat: Array) -> Array:
        return flat

    @jax.custom_jvp
    def twice(flat: Array) -> Array:
        return flat

    @once.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return twice(*primals), lax.reduce_precision(*tangents, EXPONENT_BITS, OF_FIRST)

    @twice.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return once(*primals), lax.reduce_precision(*tangents, EXPONENT_BITS, OF_SECOND[name])

    return once


def _marks(program: Jaxpr) -> Iterator[int]:
    """The bits of all marks in a program, and in the programs inside of it."""
    for equation in program.eqns:
        if equation.primitive.name == MARK:
            yield equation.params["mantissa_bits"]
        for inner in inside(equation.params):
            yield from _marks(inner)
