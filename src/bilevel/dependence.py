"""Which inputs a function reads, found by tracing: nothing is computed or compiled."""

from collections.abc import Callable

import jax
from jax.extend.core import Literal

from bilevel.types import BilevelProblem, Tree


def read_by(function: Callable, *arguments: Tree) -> tuple[Tree, ...]:
    """For each leaf of each argument whether function(*arguments) depends on it.

    Arguments are arrays or their shapes. Conservative: a loop or a compiled function inside counts
    as reading all that it is given.
    """
    leaves, structure = jax.tree.flatten(arguments)
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    reads: dict = {variable: {i} for i, variable in enumerate(program.invars)}

    def sources(variables: list) -> set[int]:
        known = (reads.get(v, set()) for v in variables if not isinstance(v, Literal))
        return set().union(*known)

    for equation in program.eqns:
        found = sources(equation.invars)
        reads.update(dict.fromkeys(equation.outvars, found))
    read = sources(program.outvars)
    return jax.tree.unflatten(structure, [i in read for i in range(len(leaves))])


def draws_start(problem: BilevelProblem) -> bool:
    """Whether init_lower depends on its key."""
    key = jax.random.key(0)
    return read_by(problem.init_lower, key, jax.eval_shape(problem.init_upper, key))[0]
