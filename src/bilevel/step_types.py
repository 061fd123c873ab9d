"""Types of the lower step: NamedTuples of pure functions.

d_k = w_F(k) grad_y F + w_f(k) grad_y f is the `Aggregation`'s, the move along it the
`LowerOptimizer`'s; `dynamics.compose` makes one step of both. k = 1..K may be traced.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from bilevel.types import Array, Index, Projection, Tree

Weights = tuple[Array | float | None, Array | float]
DynamicsParams = dict[str, dict[str, Tree]]


class InitParams(Protocol):
    def __call__(self, num_lower_steps: int) -> dict[str, Tree]:
        """The first learned parameters; empty when nothing is learned."""
        ...


class InitStepParams(Protocol):
    def __call__(self, num_lower_steps: int, y0: Tree) -> dict[str, Tree]:
        """The first learned parameters, for a lower variable like y0."""
        ...


class StepWeights(Protocol):
    def __call__(self, params: Mapping[str, Array], k: Index) -> Weights:
        """(w_F, w_f) of lower step k; w_F None means that F is not touched at all."""
        ...


class Aggregation(NamedTuple):
    """The direction of the lower step: d_k = w_F(k) grad_y F + w_f(k) grad_y f.

    init           of the learned parameters, a sub-dict of alpha, s, t
    weights        for k = 1..K
    test_weights   the same where the query labels must not be seen: (None, t)
    project        of the learned parameters into their bounds
    formula        d_k in words
    sees_upper     whether `weights` ever lets F (and its labels) in
    """

    init: InitParams
    weights: StepWeights
    test_weights: StepWeights
    project: Projection
    formula: str
    sees_upper: bool


class Reason(NamedTuple):
    """Why something is not possible, and what to choose instead."""

    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.why}; choose {self.remedy}"


class ScalarOf(Protocol):
    def __call__(self, y: Tree, /) -> Array:
        """What the step descends, as a function of y alone."""
        ...


class OptimizerInit(Protocol):
    def __call__(self, params: Mapping[str, Tree], y0: Tree, objective: ScalarOf) -> Tree:
        """opt_state: momentum buffers and the like; () where there are none."""
        ...


class OptimizerUpdate(Protocol):
    def __call__(
        self,
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        """(y_k, opt_state) from y_{k-1} and d_k; `objective` is for the length of a step."""
        ...


class LowerOptimizer(NamedTuple):
    """How the lower variable moves along the direction d_k.

    init_params          of the learned parameters
    project              of the learned parameters into their bounds
    formula              the step in words
    projection           P onto the feasible set, where the steps end in a projection
    never_rests          why a zero of the direction is no resting point; None if it is one
    no_derivative        why no estimator can differentiate through a step; None if one can
    reads_objective      why a step depends on more than d_k; None where it does not
    rescales             whether it gives the entries of d_k factors of their own
    tolerance            the lower level ends where |stationarity| is below; None: after K steps
    """

    init_params: InitStepParams
    init: OptimizerInit
    update: OptimizerUpdate
    project: Projection
    formula: str
    projection: Projection | None = None
    never_rests: Reason | None = None
    no_derivative: Reason | None = None
    reads_objective: Reason | None = None
    tolerance: float | None = None
    rescales: bool = False

    def ending_in(self, onto: Projection) -> "LowerOptimizer":
        """The same with steps that end in a projection."""

        def update(
            params: Mapping[str, Tree],
            direction: Tree,
            opt_state: Tree,
            y: Tree,
            k: Index,
            objective: ScalarOf,
        ) -> tuple[Tree, Tree]:
            y, opt_state = self.update(params, direction, opt_state, y, k, objective)
            return onto(y), opt_state

        return self._replace(update=update, projection=onto)
