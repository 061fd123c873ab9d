"""Gradient steps that learned masks switch off for some units (the M-net of MT-net).

Lee and Choi: Gradient-based meta-learning with learned layerwise metric and subspace, ICML 2018
(arXiv 1801.05558):

    y_k = y_{k-1} - step_size m(zeta) d_k,   one zeta per leaf of y and output unit (last axis)

The paper draws m from a Bernoulli distribution by a Gumbel-softmax; here the mask is a function of
zeta, so that a run has no further source of noise:

    hard   m = 1 where zeta >= 0, else 0; its derivative is taken to be that of sigmoid(zeta)
           (straight-through estimator, Bengio et al., 2013, arXiv 1308.3432)
    soft   m = sigmoid(zeta): a true derivative, but no unit is ever quite fixed
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import option_checks as check
from bilevel.lower_optimizers import LearnStepSize, sgd
from bilevel.step_types import LowerOptimizer, Reason, ScalarOf
from bilevel.types import Array, Index, Tree

Mask = Literal["hard", "soft"]


def masked_sgd(
    *,
    step_size: float,
    mask: Mask = "hard",
    first_logit: float = 0.1,
    learn: LearnStepSize = "none",
) -> LowerOptimizer:
    """y_k = y_{k-1} - step_size m(zeta) d_k, zeta learned above, from first_logit.

    A first_logit of 0.1 lets every unit adapt at first, and an upper Adam of step size 1e-3 could
    fix one after 100 iterations. Raises ValueError where step_size <= 0, for another mask, or where
    first_logit is not finite.
    """
    check.choice("mask", mask, get_args(Mask))
    check.numbers(first_logit=first_logit)
    if not math.isfinite(first_logit):
        raise ValueError(
            f"first_logit={first_logit} must be finite, or the masks would never change; choose "
            "first_logit=0.1"
        )
    plain = sgd(step_size=step_size, learn=learn)

    def init_params(num_lower_steps: int, y0: Tree) -> dict[str, Tree]:
        logits = jax.tree.map(lambda leaf: jnp.full(leaf.shape[-1:], first_logit, leaf.dtype), y0)
        return {**plain.init_params(num_lower_steps, y0), "mask_logits": logits}

    def share(logit: Array) -> Array:
        soft = jax.nn.sigmoid(logit)
        if mask == "soft":
            return soft
        return soft + lax.stop_gradient((logit >= 0).astype(soft.dtype) - soft)

    def update(
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        passed = jax.tree.map(
            lambda d, logit: d * jnp.broadcast_to(share(logit), d.shape),
            direction,
            params["mask_logits"],
        )
        return plain.update(params, passed, opt_state, y, k, objective)

    def project(params: dict[str, Tree]) -> dict[str, Tree]:
        sizes = {name: value for name, value in params.items() if name != "mask_logits"}
        return {**plain.project(sizes), "mask_logits": params["mask_logits"]}

    return plain._replace(
        init_params=init_params,
        update=update,
        project=project,
        formula=f"{plain.formula} with d_k masked unit by unit ({mask}, learned)",
        never_rests=Reason(
            "masked units do not move, so the steps may rest where the gradient is not zero",
            "lower_optimizer=sgd, or hypergradient=unrolled",
        ),
    )
