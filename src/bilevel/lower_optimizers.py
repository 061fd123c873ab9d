"""Lower optimizers: how the lower variable moves along its direction."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from src.bilevel.types import Array, LowerOptimizer, Tree

LearnStepSize = Literal["none", "scalar", "per_step", "per_weight"]


def sgd(*, step_size: float, learn: LearnStepSize = "none") -> LowerOptimizer:
    """y_k = y_{k-1} - step_size d_k.

    `learn` makes the step size an upper variable: one scalar (BOML's "Meta-SGD"), one per step,
    shape (K,), or one per weight, the shape of y (Li et al., Meta-SGD, 2017). A learned
    step size is projected to [0, inf) after each upper update.

    Raises ValueError where step_size <= 0.
    """
    if not step_size > 0:
        raise ValueError(
            f"step_size={step_size} must be positive: the lower level would not descend; "
            "choose for example step_size=0.1"
        )

    def init_params(num_lower_steps: int, y0: Tree) -> dict[str, Tree]:
        if learn == "none":
            return {}
        if learn == "per_weight":
            return {"step_size": jax.tree.map(lambda leaf: jnp.full_like(leaf, step_size), y0)}
        shape = (num_lower_steps,) if learn == "per_step" else ()
        return {"step_size": jnp.full(shape, step_size, jax.tree.leaves(y0)[0].dtype)}

    def update(
        params: Mapping[str, Tree], direction: Tree, slots: Tree, y: Tree, k: Array
    ) -> tuple[Tree, Tree]:
        if learn == "per_weight":
            sizes = params["step_size"]
        else:
            size = params.get("step_size", step_size)
            size = size[k - 1] if learn == "per_step" else size
            sizes = jax.tree.map(lambda _: size, y)
        return jax.tree.map(lambda w, d, eta: w - eta * d, y, direction, sizes), slots

    return LowerOptimizer(
        init_params=init_params,
        init=lambda params, y0: (),
        update=update,
        project=lambda params: jax.tree.map(lambda eta: jnp.maximum(eta, 0), params),
        formula=f"y_k = y_{{k-1}} - eta d_k,  eta = {step_size:g}"
        + {
            "none": "",
            "scalar": " (learned)",
            "per_step": " (learned, one per step)",
            "per_weight": " (learned, one per weight)",
        }[learn],
    )
