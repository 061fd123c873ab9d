"""Unrolled hypergradient (reverse mode through all K lower steps; RHG, ITD).

Franceschi, Donini, Frasconi, Pontil: Forward and reverse gradient-based hyperparameter
optimization, ICML 2017 (arXiv 1703.01785), Alg. 1.

    phi_K(x) = F(x, y_K(x)),   y_k = Phi_k(x, y_{k-1}),   y_0 = y_0(x)

Time: about 3 to 4 lower solves. Memory: K lower iterates and what each step computes on its way;
with checkpoints=steps the iterates alone, with sqrt about 2 sqrt(K) of them, for up to two lower
solves more. Valid whenever the steps are differentiable; exact for phi_K, which for a strongly
convex f tends to F(x, y*(x)) as K grows.
"""

from typing import Literal

from bilevel.estimator import Hypergradient, HypergradientOutput, Target, by_reverse_mode
from bilevel.lower_level import LowerLevel, LowerProblem, LowerState, Point, run_in_segments
from bilevel.mixed_mode import level_of_mixed_mode
from bilevel.types import Array, Metrics, Tree

# F(x, y_K(x)) as a function of the point; also forward mode's target.
PHI_K = Target(
    "F(x, y_K(x))", lambda lower, point, key: lambda moved: solve_and_score(lower, moved)[0]
)


def _run(level: LowerLevel, state: LowerState, num_steps: int) -> LowerState:
    return level.run(state, 1, num_steps)


# What differentiates a step, and how the steps are run.
PLANS = {
    "none": (LowerProblem.at, _run),
    "steps": (level_of_mixed_mode, _run),
    "sqrt": (level_of_mixed_mode, run_in_segments),
}


def solve_and_score(lower: LowerProblem, point: Point) -> tuple[Array, tuple[Tree, Metrics]]:
    """F(x, y_K), and (y_K, metrics)."""
    return lower.at(point).score(lower.solve(point))


def unrolled(*, checkpoints: Literal["none", "steps", "sqrt"] = "none") -> Hypergradient:
    """d phi_K / d (context, dynamics_params, y0) by reverse mode through the K steps.

    checkpoints: none keeps all that the K steps compute, steps their results y_k (mixed mode), sqrt
    about 2 sqrt(K) of these (the same numbers). Raises ValueError for anything else.
    """
    if checkpoints not in PLANS:
        raise ValueError(f"checkpoints={checkpoints!r} is not none, steps or sqrt; choose none")
    level_at, run = PLANS[checkpoints]

    def score(lower: LowerProblem, point: Point) -> tuple[Array, tuple[Tree, Metrics]]:
        level = level_at(lower, point)
        return level.score(run(level, level.init(point.y0), lower.num_steps).y)

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        return by_reverse_mode(lambda moved: score(lower, moved), point)

    return Hypergradient(
        "unrolled",
        estimate,
        "g = d F(x, y_K(x)) / dx, reverse mode through all K steps",
        PHI_K,
        certified_with={"checkpoints": ("none", "steps", "sqrt")},
        exact_with={},
    )
