"""The proximal term of iMAML, as a wrapper around any problem.

Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients, NeurIPS 2019 (arXiv
1909.04630), eq. 3:

    f_rho(x, y) = f(x, y) + rho/2 |y - y0(x)|^2

It is part of the problem, not of the optimizer, so every estimator sees it: the centre y0(x) is in
the context, through which gradients reach x even where the start itself does not matter.
"""

import math

import jax
import jax.numpy as jnp

from bilevel.dependence import draws_start
from bilevel.types import Array, BilevelProblem, Exact, Index, Metrics, Objectives, Penalised, Tree


def proximal(problem: BilevelProblem, weight: float) -> BilevelProblem:
    """f gains weight/2 |y - y0(x)|^2, y0 = init_lower(x); so does a reported lower_loss.

    context: {"problem": that of the wrapped problem, "centre": y0(x)}. The closed forms of the
    wrapped problem do not hold any more and are dropped; distances that its `evaluate` reports are
    still those from its own solution. The damping of implicit estimators is
    reduced by `weight`.

    Raises ValueError where weight < 0 or is infinite, or the start is drawn at random.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"proximal_weight={weight} must be finite and not negative; 0 is for none")
    key = jax.random.key(0)
    if draws_start(problem):
        raise ValueError(
            f"proximal_weight={weight}: the term pulls y to the start y0, but this problem draws "
            "y0 at random; choose a start that is not, or proximal_weight=0"
        )

    def prepare(x: Tree, task: Tree) -> Tree:
        return {"problem": problem.prepare(x, task), "centre": problem.init_lower(key, x)}

    def term(context: Tree, y: Tree) -> Array:
        distance = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), y, context["centre"])
        return 0.5 * weight * jax.tree.reduce(jnp.add, distance)

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        return problem.lower_objective(context["problem"], task, y) + term(context, y)

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        return problem.upper_objective(context["problem"], task, y)

    def mini_batch(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        assert problem.mini_batch is not None
        seen, task = problem.mini_batch(context["problem"], task, k)
        return {**context, "problem": seen}, task

    def at(context: Tree, task: Tree, lower: Index, upper: Index) -> tuple[Tree, Tree]:
        assert problem.blocks is not None
        seen, task = problem.blocks.at(context["problem"], task, lower, upper)
        return {**context, "problem": seen}, task

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        scores = dict(problem.evaluate(x, context["problem"], task, y))
        if "lower_loss" in scores:
            scores["lower_loss"] += term(context, y)
        return scores

    def with_term(penalised: Penalised) -> Penalised:
        G = penalised.upper
        return penalised._replace(
            f=lambda context, task, y: penalised.f(context["problem"], task, y) + term(context, y),
            F=lambda context, task, y: penalised.F(context["problem"], task, y),
            constraints=lambda context, task, y: penalised.constraints(context["problem"], task, y),
            upper=G and (lambda context, task, y: G(context["problem"], task, y)),
        )

    return problem._replace(
        prepare=prepare,
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={**problem.formulas, "f": f"{problem.formulas['f']} + {weight:g}/2 |y - y0|^2"},
        exact=Exact(),
        mini_batch=mini_batch if problem.mini_batch else None,
        blocks=problem.blocks and problem.blocks._replace(at=at),
        singular_hessians=problem.singular_hessians & {Objectives.F},
        # The term is a part of the damping that the problem asks for, or all of it.
        damping=max(0.0, problem.damping - weight),
        penalised=with_term(problem.penalised) if problem.penalised else None,
    )
