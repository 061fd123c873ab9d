"""Gradient steps that the measured curvature keeps short.

On a quadratic, steps longer than 2 / lambda leave the minimiser, lambda the largest eigenvalue of
its Hessian. Where features are learned above, lambda changes while they are learned, and so does
the longest step that a lower level can bear:

    y_k = y_{k-1} - min(eta, bound / lambda_k) d_k,   lambda_k = |H v|

H is the Hessian in y of what the step descends (of BDA: of the mix of F and f) at y_{k-1}. v has
unit length and comes from the power method: a few products with H at each step, from the v of the
step before; the first, in each lower solve, from one random vector. So lambda_k tends to the
largest |eigenvalue| of H from below. The steps depend on x through lambda_k, too, and all of it is
differentiated through: second derivatives of f in a step, third ones in a hypergradient.

A learned eta has a gradient only from steps that it sets: begin below the bound.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import option_checks as check
from bilevel.lower_optimizers import LearnStepSize, eta_in_words, sgd
from bilevel.power_method import first_vector, length, power_step
from bilevel.step_types import LowerOptimizer, Reason, ScalarOf
from bilevel.types import Array, Index, Tree


def bounded_sgd(
    *,
    step_size: float,
    bound: float = 1.0,
    power_steps: int = 5,
    learn: LearnStepSize = "none",
) -> LowerOptimizer:
    """y_k = y_{k-1} - min(step_size, bound / lambda_k) d_k, lambda_k the measured curvature.

    bound         of step_size * lambda_k; above 2, steps on a quadratic may diverge
    power_steps   products with the Hessian at each step, at least 1; with few, the first steps of
                  a lower solve may be longer than the bound says

    Raises ValueError where step_size or bound is not positive and finite, or power_steps < 1.
    """
    check.numbers(bound=bound)
    if not 0 < bound < math.inf:
        raise ValueError(
            f"bound={bound} must be positive and finite, or y would not descend; choose bound=1"
        )
    power_steps = check.whole_number("power_steps", power_steps, least=None)
    if power_steps < 1:
        raise ValueError(
            f"power_steps={power_steps} leaves the curvature unmeasured; choose power_steps=5, or "
            "lower_optimizer=sgd, which has no bound"
        )
    plain = sgd(step_size=step_size, learn=learn)

    def init(params: Mapping[str, Tree], y0: Tree, objective: ScalarOf) -> Tree:
        return first_vector(y0)

    def update(
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        def times_hessian(vector: Tree) -> Tree:
            return jax.jvp(jax.grad(objective), (y,), (vector,))[1]

        def measured(vector: Tree, _: None) -> tuple[Tree, Array]:
            unit, product = power_step(times_hessian, vector)
            # Where nothing is curved the vector stays: y may come to where something is.
            curvature = length(product)
            kept = jax.tree.map(lambda p, u: jnp.where(curvature > 0, p, u), product, unit)
            return kept, curvature

        vector, curvatures = lax.scan(measured, opt_state, None, length=power_steps)
        curved = curvatures[-1] > 0
        longest = jnp.where(curved, bound / jnp.where(curved, curvatures[-1], 1.0), jnp.inf)
        sizes = params.get("step_size", step_size)
        shorter = jax.tree.map(lambda eta: jnp.minimum(eta, longest), sizes)
        moved, _ = plain.update({"step_size": shorter}, direction, (), y, k, objective)
        return moved, vector

    return plain._replace(
        init=init,
        update=update,
        formula=(
            f"y_k = y_{{k-1}} - min(eta, {bound:g} / lambda_k) d_k, lambda_k the measured largest "
            f"|eigenvalue| of the Hessian at y_{{k-1}},  {eta_in_words(step_size, learn)}"
        ),
        reads_objective=Reason(
            "the steps of bounded_sgd depend on the curvature of what they descend",
            "lower_optimizer=sgd, or hypergradient=unrolled",
        ),
    )
