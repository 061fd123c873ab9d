"""The core types: NamedTuples of pure functions, one per independent choice.

    min over x of F(x, y*(x))    subject to    y*(x) in argmin over y of f(x, y)

x is the upper variable, F the upper objective; y the lower variable, f the lower objective.
Every function below is written for ONE task; `vmap` adds the meta-batch. Anything called a
`Tree` is a pytree of arrays. `task` may hold integers (labels); `context` holds only floats that
depend on x, because it is what gradients flow through.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Tree = Any
Metrics = Mapping[str, Array]


class Objective(Protocol):
    def __call__(self, context: Tree, task: Tree, y: Tree, batch: Tree) -> Array:
        """f(x, y) as a scalar; `batch` are row indices of the task's data, or None for all."""
        ...


class ObjectiveWithMetrics(Protocol):
    def __call__(self, context: Tree, task: Tree, y: Tree, batch: Tree) -> tuple[Array, Metrics]:
        """F(x, y) as a scalar, and scalar metrics for people."""
        ...


class Exact(NamedTuple):
    """Closed forms of an oracle problem; None where there is none.

    lower_solution(x, task) -> y*(x);  hypergradient(x, task) -> d F(x, y*(x)) / dx;
    upper_solution(task) -> x*.
    """

    lower_solution: Callable[[Tree, Tree], Tree] | None = None
    hypergradient: Callable[[Tree, Tree], Tree] | None = None
    upper_solution: Callable[[Tree], Tree] | None = None


class WeightedSamples(NamedTuple):
    """Training samples whose weights are learned: weights (n,), wrong (n,) bool, images, labels."""

    weights: Array
    wrong: Array
    images: Array
    labels: Array


class BilevelProblem(NamedTuple):
    """A bilevel problem of one task.

    init_upper(key) -> x
    prepare(x, task) -> context        what of x the objectives see (features, sample weights);
                                       computed once per task, never random
    init_lower(key, x) -> y0           reads x only where the start is learned
    lower_objective, upper_objective   f and F, as functions of the context
    evaluate(x, context, task, y) -> metrics    what is reported on held-out data
    formulas                           {"f": ..., "F": ...} for `python -m src.describe`
    exact                              closed forms (oracle problems only)
    project_upper(x) -> x              inside its bounds, after each upper update
    learned_start                      whether init_lower reads x
    singular_hessians                  which of "f", "F" and "f + F" (any mix of the two) are known
                                       to have a singular Hessian in y
    damping                            of implicit estimators, unless their option says otherwise
    batch(task, k) -> batch            the rows on which lower step k descends; None for all rows
    weighted_samples(x, task) -> WeightedSamples    for pictures, where x weighs samples
    """

    init_upper: Callable[[Array], Tree]
    prepare: Callable[[Tree, Tree], Tree]
    init_lower: Callable[[Array, Tree], Tree]
    lower_objective: Objective
    upper_objective: ObjectiveWithMetrics
    evaluate: Callable[[Tree, Tree, Tree, Tree], Metrics]
    formulas: Mapping[str, str]
    exact: Exact = Exact()
    project_upper: Callable[[Tree], Tree] = lambda x: x
    learned_start: bool = False
    singular_hessians: tuple[str, ...] = ()
    damping: float = 0.0
    batch: Callable[[Tree, Array | int], Tree] = lambda task, k: None
    weighted_samples: Callable[[Tree, Tree], WeightedSamples] | None = None


class TaskSource(NamedTuple):
    """Where tasks come from.

    data: arrays on the device; handed to compiled programs as an argument, never baked in
    sample(data, key, split, n) -> tasks with a leading axis n, drawn on the device
    persistent: True for one fixed task (cleaning, counter-example), False for a stream
    seeded(data, key) -> data  with what the seed of a run decides (polluted labels), for `sample`
    """

    data: Tree
    sample: Callable[[Tree, Array, str, int], Tree]
    persistent: bool
    seeded: Callable[[Tree, Array], Tree] = lambda data, key: data


class Roles(NamedTuple):
    """Which variables adapt below, and whether the upper level learns their start."""

    lower_variable: str
    learn_start: bool


class Model(NamedTuple):
    """A network as pure functions.

    init(key, images) -> weights       a dict of dicts of arrays
    apply(weights, images) -> features (n, d)
    fixed                              the names of the leaves of `weights` that belong to the upper
                                       level alone: they do not adapt even where the network does
    transforms_head                    whether the problem is to add such a leaf behind the head, a
                                       matrix (ways, ways) from the identity on the logits
    """

    init: Callable[[Array, Array], Tree]
    apply: Callable[[Tree, Array], Array]
    fixed: frozenset[str] = frozenset()
    transforms_head: bool = False


class Aggregation(NamedTuple):
    """The direction of the lower step: d_k = w_F(k) grad_y F + w_f(k) grad_y f.

    init(K) -> learned parameters (a sub-dict of alpha, s, t; empty when nothing is learned)
    weights(params, k) -> (w_F, w_f) for k = 1..K; w_F None means F is not touched at all
    test_weights(params, k) -> the same where the query labels must not be seen: (None, t)
    project(params) -> params inside their bounds
    formula                            d_k in words, for `python -m src.describe`
    sees_upper                         whether `weights` ever lets F (and its labels) in
    """

    init: Callable[[int], dict[str, Array]]
    weights: Callable[
        [Mapping[str, Array], Array | int], tuple[Array | float | None, Array | float]
    ]
    test_weights: Callable[[Mapping[str, Array], Array], tuple[Array | float | None, Array | float]]
    project: Callable[[dict[str, Array]], dict[str, Array]]
    formula: str
    sees_upper: bool


class LowerOptimizer(NamedTuple):
    """How the lower variable moves along the direction d_k.

    init_params(K, y0) -> learned parameters (empty when nothing is learned)
    init(params, y0) -> slots (momentum buffers and the like)
    update(params, direction, slots, y, k) -> (y, slots)
    project(params) -> params inside their bounds
    formula                            the step in words, for `python -m src.describe`
    projection(y) -> y                 onto the feasible set, where the steps end in a projection
    moving                             why a zero of the direction is no resting point; "" if it is
    """

    init_params: Callable[[int, Tree], dict[str, Tree]]
    init: Callable[[Mapping[str, Tree], Tree], Tree]
    update: Callable[[Mapping[str, Tree], Tree, Tree, Tree, Array], tuple[Tree, Tree]]
    project: Callable[[dict[str, Tree]], dict[str, Tree]]
    formula: str
    projection: Callable[[Tree], Tree] | None = None
    moving: str = ""


class LowerState(NamedTuple):
    """The iterate y_k and the slots of the lower optimizer."""

    y: Tree
    slots: Tree


class LowerDynamics(NamedTuple):
    """One lower step y_{k-1} -> y_k; params = {"aggregation": ..., "lower_optimizer": ...}.

    init_params(K, y0), init(params, y0) -> LowerState
    objective(problem, params, context, task, y, k, batch) -> the scalar w_F F + w_f f, on the rows
        of `batch`; None for those that the problem gives to step k
    direction(problem, params, context, task, y, k, batch) -> d_k, its gradient in y
    move(params, direction, state, k) -> LowerState
    step(problem, params, context, task, state, k, batch) -> LowerState    the two in a row
    stationarity(problem, params, context, task, y, batch) -> residual    zero where the steps
        rest: d, or y - P(y - d) where they end in a projection P. None where they never rest
    moving                             why stationarity is None
    projection                         P, or None
    descends                           "f", "F" or "f + F": what has a weight in the first step
    project(params) -> params inside their bounds
    sees_upper                         as in Aggregation
    """

    init_params: Callable[[int, Tree], dict[str, Tree]]
    init: Callable[[Tree, Tree], LowerState]
    objective: Callable[..., Array]
    direction: Callable[..., Tree]
    move: Callable[[Tree, Tree, LowerState, Array], LowerState]
    step: Callable[..., LowerState]
    stationarity: Callable[..., Tree] | None
    moving: str
    projection: Callable[[Tree], Tree] | None
    descends: str
    project: Callable[[dict[str, Tree]], dict[str, Tree]]
    formula: str
    sees_upper: bool


class HypergradientOutput(NamedTuple):
    """F(x, y_K), its estimated gradients, y_K, and what there is to say.

    metrics: scores of F at y_K, averaged over tasks
    diagnostics: of the estimate itself (linear residual); the worst task counts
    """

    upper_loss: Array
    context_gradient: Tree
    params_gradient: Tree
    start_gradient: Tree
    y: Tree
    metrics: Metrics
    diagnostics: Metrics
    carry: Tree


class Limit(NamedTuple):
    """A run stops where a diagnostic exceeds the bound (or is no number)."""

    bound: float
    meaning: str
    remedy: str


class Hypergradient(NamedTuple):
    """An estimate of d F(x, y_K(x)) with respect to (context, params, y0), for one task.

    init(y0) -> carry (warm-started linear solves; () when there is nothing to carry)
    estimate(carry, context, task, params, y0, key) -> HypergradientOutput
    formula                            the estimate in words, for `python -m src.describe`
    check(context, params, y0)         raises ValueError on shapes that it cannot do; before tracing
    limits                             {diagnostic: Limit}
    """

    init: Callable[[Tree], Tree]
    estimate: Callable[[Tree, Tree, Tree, Tree, Tree, Array], HypergradientOutput]
    formula: str
    check: Callable[[Tree, Tree, Tree], None] = lambda context, params, y0: None
    limits: Mapping[str, Limit] = MappingProxyType({})


class AlgorithmState(NamedTuple):
    """Everything that one iteration hands to the next.

    variables: {"problem": x, "aggregation": ..., "lower_optimizer": ...}, all learned together
    upper_state: of the upper optimizer; carry: of the hypergradient
    start: the key of a fixed start, y_K of a warm one, or () where y0 is drawn anew
    """

    variables: dict[str, Tree]
    upper_state: Tree
    carry: Tree
    start: Tree


class Algorithm(NamedTuple):
    """The only thing the training loop knows.

    init(key) -> state
    step(state, key, tasks) -> (state, metrics)
    adapt(state, key, task, K, observe) -> observe(y_k) of one task for k = 0..K (leading axis
        K + 1); observe None: y_K alone
    """

    init: Callable[[Array], AlgorithmState]
    step: Callable[[AlgorithmState, Array, Tree], tuple[AlgorithmState, Metrics]]
    adapt: Callable[[AlgorithmState, Array, Tree, int, Callable[[Tree], Tree] | None], Tree]
