"""Gradient steps that the measured curvature keeps short.

On a quadratic, steps longer than 2 / lambda leave the minimiser, lambda the largest eigenvalue of
its Hessian. Where features are learned above, lambda changes while they are learned, and so does
the longest step that a lower level can bear:

    y_k = y_{k-1} - min(eta, bound / lambda_k) d_k

lambda_k = |H v| of the Hessian H of the descended objective at y_{k-1}, where v has unit length and
comes from the power method: a few products with H at each step, from the v of the step before (the
first from a fixed random one). It is never above the true one, and short of it where v has not
converged. All of it is differentiated through.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.lower_optimizers import LearnStepSize, sgd
from bilevel.step_types import LowerOptimizer, ScalarOf
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
    power_steps   products with the Hessian at each step, at least 1

    Raises ValueError where step_size or bound is not positive and finite, or power_steps < 1.
    """
    if not 0 < bound < math.inf:
        raise ValueError(
            f"bound={bound} must be positive and finite, or y would not descend; choose bound=1"
        )
    if power_steps < 1:
        raise ValueError(
            f"power_steps={power_steps} leaves the curvature unmeasured; choose power_steps=5, or "
            "lower_optimizer=sgd, which has no bound"
        )
    plain = sgd(step_size=step_size, learn=learn)

    def init(params: Mapping[str, Tree], y0: Tree, objective: ScalarOf) -> Tree:
        leaves, form = jax.tree.flatten(y0)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        return form.unflatten(
            [jax.random.normal(k, w.shape, w.dtype) for k, w in zip(keys, leaves, strict=True)]
        )

    def update(
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        def power_step(vector: Tree, _: None) -> tuple[Tree, Array]:
            scale = _length(vector)
            unit = jax.tree.map(lambda leaf: leaf / scale, vector)
            product = jax.jvp(jax.grad(objective), (y,), (unit,))[1]
            length = _length(product)
            # Where nothing is curved the vector stays: y may come to where something is.
            kept = jax.tree.map(lambda p, u: jnp.where(length > 0, p, u), product, unit)
            return kept, length

        vector, lengths = lax.scan(power_step, opt_state, None, length=power_steps)
        curved = lengths[-1] > 0
        longest = jnp.where(curved, bound / jnp.where(curved, lengths[-1], 1.0), jnp.inf)
        sizes = params.get("step_size", step_size)
        shorter = jax.tree.map(lambda eta: jnp.minimum(eta, longest), sizes)
        moved, _ = plain.update({"step_size": shorter}, direction, (), y, k, objective)
        return moved, vector

    formula = (
        f"y_k = y_{{k-1}} - min(eta, {bound:g} / lambda_k) d_k, lambda_k the largest eigenvalue of "
        f"the Hessian at y_{{k-1}}, {plain.formula.partition(',  ')[2]}"
    )
    return plain._replace(init=init, update=update, formula=formula)


def _length(vector: Tree) -> Array:
    """The norm, with a derivative of 0 at 0."""
    square = jnp.asarray(optax.tree.vdot(vector, vector))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
