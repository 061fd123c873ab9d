"""What a training loop needs to know of an algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from bilevel.types import Array, Metrics, Tree


class AlgorithmState(NamedTuple):
    """Everything that one iteration hands to the next.

    variables     {"problem": x, "aggregation": ..., "lower_optimizer": ...}, all learned together
    upper_state   of the upper optimizer
    carry         of the hypergradient, with a leading axis of tasks
    start         the key of a fixed start, y_K of a warm one (beside a running mean of x also their
                  mean, `averaging.WarmStart`), or () where y0 is drawn anew
    """

    variables: dict[str, Tree]
    upper_state: Any
    carry: Tree
    start: Tree


class Step(Protocol):
    def __call__(
        self, state: AlgorithmState, key: Array, tasks: Tree
    ) -> tuple[AlgorithmState, Metrics]:
        """One iteration on tasks with a leading axis."""
        ...


class Adapt(Protocol):
    def __call__(
        self,
        state: AlgorithmState,
        key: Array,
        task: Tree,
        num_steps: int,
        observe: Callable[[Tree], Tree] | None = None,
    ) -> Tree:
        """observe(y_k) of one task for k = 0..num_steps (a leading axis); observe None: y_K."""
        ...


class Algorithm(NamedTuple):
    """init(key) -> state; step: one iteration; adapt: the lower level of one task alone."""

    init: Callable[[Array], AlgorithmState]
    step: Step
    adapt: Adapt
