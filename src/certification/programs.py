"""A problem whose f and F are wrapped, and the programs inside of a traced program."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.flatten_util import ravel_pytree

from bilevel import Problem
from bilevel.types import Array, Tree


def through_operations(problem: Problem, of_f: Callable, of_F: Callable) -> Problem:
    """The same problem, (x, y) as one vector going through an operation before f, and before F."""

    def wrapped(objective: Callable[..., Any], operation: Callable[[Array], Array]) -> Callable:
        def through(context: Tree, task: Tree, y: Tree) -> Any:
            flat, restored = ravel_pytree((context, y))
            context, y = restored(operation(flat))
            return objective(context, task, y)

        return through

    plain = problem.problem
    penalised = plain.penalised
    if penalised is not None:
        penalised = penalised._replace(f=wrapped(penalised.f, of_f), F=wrapped(penalised.F, of_F))
    return problem._replace(
        problem=plain._replace(
            lower_objective=wrapped(plain.lower_objective, of_f),
            upper_objective=wrapped(plain.upper_objective, of_F),
            penalised=penalised,
        )
    )


def inside(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside of an operation, from its parameters."""
    for value in jax.tree.leaves(
        parameters, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
