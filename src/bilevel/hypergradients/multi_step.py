"""Multi-step loss: F of every lower step, each through all steps before it (MSL of MAML++).

Antoniou, Edwards, Storkey: How to train your MAML, ICLR 2019 (arXiv 1810.09502), section on
multi-step loss optimization. Their weights change with the training; here they are constant.

    g = d/dx sum over k = 1..K of w_k F(x, y_k(x))
    w_K = last_weight (None: 1/K),   w_1 = ... = w_{K-1} = (1 - w_K) / (K - 1)

Time: that of `unrolled`, and F in each of the K steps, three times. Memory: up to twice that of
`unrolled`. Valid whenever the steps, and F at each y_k, are differentiable. It rewards an x from
which every step is good: made for a learned start and few steps. Of F(x, y*(x)) it is no estimate,
as first steps count as much as the last one.
"""

import jax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.hypergradients.unrolled import solve_and_score
from bilevel.lower_level import LowerProblem, Point
from bilevel.option_checks import number
from bilevel.types import Array, Tree


def multi_step(*, last_weight: float | None = None) -> Hypergradient:
    """d sum_k w_k F(x, y_k(x)) / d (context, dynamics_params, y0). The reported F is that at y_K.

    last_weight: w_K, above 0 and at most 1; 1 is `unrolled`. None: 1/K, as all others. One step
    weighs 1 in any case. Raises TypeError where it is no number, ValueError where it is outside.
    """
    if last_weight is not None:
        last_weight = number("last_weight", last_weight)
        if not 0 < last_weight <= 1:
            raise ValueError(
                f"last_weight={last_weight} is not in (0, 1]: it is the share of the last lower "
                "step in the loss; choose last_weight=null (in Python None), where all steps "
                "weigh the same, or last_weight=0.5"
            )

    def score(lower: LowerProblem, point: Point):
        """sum_k w_k F(x, y_k), and (F(x, y_K), y_K, metrics there)."""
        if last_weight == 1 or lower.num_steps == 1:  # an F before the last may be infinite
            value, (y, metrics) = solve_and_score(lower, point)
            return value, (value, y, metrics)
        values, (y, metrics) = lower.at(point).score_each(point.y0, lower.num_steps)
        last = 1 / lower.num_steps if last_weight is None else last_weight
        others = (1 - last) / (lower.num_steps - 1)
        return last * values[-1] + others * values[:-1].sum(), (values[-1], y, metrics)

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        of_point = jax.value_and_grad(lambda moved: score(lower, moved), has_aux=True)
        (objective, (value, y, metrics)), gradient = of_point(point)
        return HypergradientOutput(value, gradient, y, metrics, objective=objective)

    return Hypergradient(
        "multi_step",
        estimate,
        "g = d sum_k w_k F(x, y_k(x)) / dx, reverse mode through all K steps, "
        + ("w_k = 1/K" if last_weight is None else f"w_K = {last_weight:g}, the others alike"),
        Target(
            "sum_k w_k F(x, y_k(x))",
            lambda lower, point, key: lambda moved: score(lower, moved)[0],
        ),
        certified_with={"last_weight": (None, 0.3, 1.0)},
        exact_with={"last_weight": 1.0},
    )
