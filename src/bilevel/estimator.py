"""What a hypergradient estimator is: one function, and one record that declares what it does.

Refusals, the tables of the documentation, `describe`, `certify` and the tests read the record, and
nothing else: an estimator has no other place where something about it is written down.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import jax
import optax

from bilevel.lower_level import LowerProblem, Point
from bilevel.types import Array, Metrics, Tree

Part = Literal["context", "direct", "aggregation", "lower_optimizer", "start"]
EVERYTHING: frozenset[Part] = frozenset({"context", "aggregation", "lower_optimizer", "start"})
NOTHING: Mapping[str, Any] = MappingProxyType({})


class HypergradientOutput(NamedTuple):
    """What an estimate returns.

    value         F(x, y_K)
    gradient      the estimate: a Point, in context, learned parameters of the lower step, and start
    y             y_K
    metrics       scores of F at y_K, averaged over tasks
    diagnostics   of the estimate itself (linear residual); the worst task counts
    carry         what the estimate of the next iteration starts from
    objective     what the gradient is one of, where that is not F(x, y_K); None where it is
    """

    value: Array
    gradient: Point
    y: Tree
    metrics: Metrics
    diagnostics: Metrics = {}  # noqa: RUF012 (never changed; a mapping proxy is no pytree)
    carry: Tree = ()
    objective: Array | None = None


class Estimate(Protocol):
    def __call__(
        self, lower: LowerProblem, point: Point, carry: Tree, key: Array
    ) -> HypergradientOutput:
        """The estimate for one task at a point."""
        ...


class Phi(Protocol):
    def __call__(self, moved: Point) -> Array:
        """F as a function of (context, dynamics_params, y0)."""
        ...


class Target(NamedTuple):
    """The function whose derivative an estimator claims to be.

    formula                   in words
    at(lower, point, key)     phi, whose gradient at that point is the estimate
    """

    formula: str
    at: Callable[[LowerProblem, Point, Array], Phi]


class Limit(NamedTuple):
    """A run stops where a diagnostic exceeds the bound (or is no number)."""

    bound: float
    meaning: str
    remedy: str


def _no_carry(lower: LowerProblem, y0: Tree) -> Tree:
    del lower, y0
    return ()


def _all_steps(num_steps: int) -> int:
    return num_steps


def _no_steps(num_steps: int) -> int:
    del num_steps
    return 0


def _nothing_to_check(lower: LowerProblem, shapes: Point) -> None:
    del lower, shapes


def _as_it_is(lower: LowerProblem, point: Point, y: Tree) -> Tree:
    del lower, point
    return y


class Hypergradient(NamedTuple):
    """An estimate of d F(x, y_K(x)) with respect to a Point, for one task, and its contract.

    name                 as under conf/hypergradient, for messages
    formula              the estimate in words
    target               None for a rule that is no derivative
    differentiates       what it gives a gradient of:
                             context          x through the context, direct and through f
                             direct           x through the context where F reads it, y_K held fixed
                             aggregation      learned alpha, s, t
                             lower_optimizer  learned step sizes and masks
                             start            x through the start y0
    through_steps        whether it differentiates through lower steps
    needs_stationarity   whether it is right only where the lower steps rest
    follows              whether its lower variables go on from iteration to iteration: where the
                         task persists, lower_start=warm is a part of it
    on_rows              whether all that it computes is of mini-batches where there are some: what
                         is logged of the training is then of such rows, too, not of all
    steps_of_y(K)        how many lower steps y takes in an iteration
    own_directions       whether it moves y along directions of its own, not along d_k
    direction_alone      whether it takes a lower step for a function of d_k alone
    dropped_steps(K)     how many first steps no gradient reaches
    certified_with       {option: values}: certified at every combination of these
    exact_with           options with which it tends to the true hypergradient as K grows; None for
                         an estimator that does not
    work                 the option that counts the products of its linear solve; "" for none
    init(lower, y0)      the first carry; lower.task may hold shapes alone
    check(lower, shapes) raises ValueError on what it cannot do; before tracing: of the task and of
                         the point it gets shapes
    limits               {diagnostic: Limit}
    solution(lower, point, y)   the lower variable that people get, and that is scored, from the
                         y_K of the lower steps; y_K itself for most
    """

    name: str
    estimate: Estimate
    formula: str
    target: Target | None
    differentiates: frozenset[Part] = EVERYTHING
    through_steps: bool = True
    needs_stationarity: bool = False
    follows: bool = False
    on_rows: bool = False
    steps_of_y: Callable[[int], int] = _all_steps
    own_directions: bool = False
    direction_alone: bool = False
    dropped_steps: Callable[[int], int] = _no_steps
    certified_with: Mapping[str, Sequence[Any]] = NOTHING
    exact_with: Mapping[str, Any] | None = None
    work: str = ""
    init: Callable[[LowerProblem, Tree], Tree] = _no_carry
    check: Callable[[LowerProblem, Point], None] = _nothing_to_check
    limits: Mapping[str, Limit] = NOTHING
    solution: Callable[[LowerProblem, Point, Tree], Tree] = _as_it_is


def in_types_of(point: Point, output: HypergradientOutput) -> HypergradientOutput:
    """The same with a gradient of the point's float types: products may have widened it."""
    return output._replace(gradient=optax.tree.cast_like(output.gradient, point))


def by_reverse_mode(
    score: Callable[[Point], tuple[Array, tuple[Tree, Metrics]]], point: Point
) -> HypergradientOutput:
    """Value and gradient of score(point) -> F, (y_K, metrics)."""
    (value, (y, metrics)), gradient = jax.value_and_grad(score, has_aux=True)(point)
    return HypergradientOutput(value, gradient, y, metrics)
