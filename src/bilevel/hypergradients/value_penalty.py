"""Value-function penalty: two lower variables, one of which also descends F (F2SA, F2BA, PBGD).

    z_k = z_{k-1} - eta grad_y f(x, z_{k-1}),                                        k = 1..K
    y_k = y_{k-1} - eta (grad_y f(x, y_{k-1}) + grad_y F(x, y_{k-1}) / lambda)
    g   = dF/dx(x, y) + lambda (df/dx(x, y) - df/dx(x, z)),     lambda = weight (n + 1)^power

g is the gradient of min_y [F + lambda f] - lambda min_z f, whose distance from the hypergradient
is of order 1 / lambda where f is strongly convex.
Kwon, Kwon, Wright, Nowak: A fully first-order method for stochastic bilevel optimization, ICML 2023
(arXiv 2301.10945, F2SA; lambda grows like n^(1/7)). Chen, Ma, Zhang: Near-optimal
nonconvex-strongly-convex bilevel optimization with fully first-order oracles, 2023 (arXiv
2306.14853, F2BA; lambda fixed). Shen, Chen: On penalty-based bilevel gradient descent method, ICML
2023 (arXiv 2302.05185, V-PBGD; num_steps=1).

Time: two lower solves, one with the gradient of F in each step, and three gradients in x. No second
derivatives. Memory: two lower iterates. Valid where lambda is large against the curvature of F, and
the steps stable for it; with a singleton or several lower solutions alike (the best of them for F).
"""

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, Point
from bilevel.penalties import (
    WEIGHT_LIMIT,
    Followed,
    descend,
    first,
    following,
    growing,
    objectives,
    of_value_gap,
    other_of,
    output_of,
    refuse_weight,
)
from bilevel.types import Array, Index, Tree


def value_penalty(
    *, weight: float = 10.0, power: float = 0.0, num_steps: int | None = None
) -> Hypergradient:
    """g = dF/dx + lambda (df/dx(y) - df/dx(z)), y and z by K lower steps each.

    weight, power: lambda = weight (n + 1)^power in upper iteration n. num_steps: those of y, where
    they are not K. Where the task persists, z goes on from the iteration before.
    Raises ValueError for a weight outside (0, 1e6], a power outside [0, 1], num_steps < 1.
    """
    refuse_weight(weight, power)
    if num_steps is not None:
        num_steps = check.whole_number("num_steps", num_steps, least=None)
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1; choose num_steps=null for K")

    def estimate(
        lower: LowerProblem, point: Point, carry: Followed, key: Array
    ) -> HypergradientOutput:
        scale = growing(weight, power, carry.iteration)

        def penalised(y: Tree, k: Index) -> Array:
            at = objectives(lower, k)
            return at.f(point.context, y) + at.F(point.context, y) / scale

        z = lower.solve(point._replace(y0=other_of(carry, point)))
        y = descend(lower, point, penalised, num_steps or lower.num_steps)
        of_context, gap = of_value_gap(lower, point, y, z, scale)
        shown = {"penalty_weight": scale, "value_gap": gap}
        return output_of(lower, point, y, of_context, shown, following(carry, z))

    return Hypergradient(
        "value_penalty",
        estimate,
        f"g = dF/dx(y) + lambda (df/dx(y) - df/dx(z)), lambda = {weight:g} (n + 1)^{power:g};  y "
        "descends f + F / lambda, z descends f",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        steps_of_y=lambda num_lower_steps: num_steps or num_lower_steps,
        own_directions=True,
        init=first,
        limits={"penalty_weight": WEIGHT_LIMIT},
    )
