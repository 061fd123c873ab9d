"""Lower steps by any optimizer of optax.

    y_k = y_{k-1} + u_k,   u_k = update(d_k) of the optimizer, its state new in each lower solve

DeepMind et al.: The DeepMind JAX Ecosystem (optax), 2020.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.step_types import LowerOptimizer, Reason, ScalarOf
from bilevel.types import Index, Tree


def from_optax(
    transformation: optax.GradientTransformation, *, rests: bool = False
) -> LowerOptimizer:
    """Lower steps by an optimizer of optax, such as optax.adagrad(0.1): its step size is its own.

    rests: whether y stays where d is 0, as without weight decay or noise; implicit estimators need
    it, and are refused otherwise. Nothing of it is learned; `sgd` and others here have `learn`.

    Through K steps near a solution a derivative may be huge, or no number, where entries of d are
    divided by their own size (adam, rmsprop): give those an eps near the size of d, inside the root
    (optax.adam(0.1, eps_root=1e-6)).

    Raises TypeError where it is none, or needs more than gradients (polyak_sgd, lbfgs).
    """
    check.kind("transformation", transformation, optax.GradientTransformation, "optax.adagrad(0.1)")
    check.kind("rests", rests, bool, "rests=True")
    _refuse_what_needs_values(transformation)

    def update(
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        step, opt_state = transformation.update(direction, opt_state, y)
        return optax.apply_updates(y, step), opt_state

    return LowerOptimizer(
        init_params=lambda num_lower_steps, y0: {},
        init=lambda params, y0, objective: transformation.init(y0),
        update=update,
        project=lambda params: params,
        formula="y_k = y_{k-1} + u_k, u_k the update of an optimizer of optax for d_k",
        rescales=True,  # most do, and none can be asked
        never_rests=None
        if rests
        else Reason(
            "of an optimizer of optax it is not known whether it rests where the gradient is zero",
            "bilevel.lower_optimizers.from_optax(..., rests=True) if it does (no weight decay, no "
            "noise), or hypergradient=unrolled",
        ),
    )


def _refuse_what_needs_values(transformation: optax.GradientTransformation) -> None:
    at = jnp.ones(2)
    try:
        transformation.update(at, transformation.init(at), at)
    except (TypeError, ValueError, LookupError) as error:
        if "required keyword-only" not in str(error):
            return  # made for a y of another form, which is seen when it meets one
        raise TypeError(
            f"this optimizer of optax needs more than gradients: {error}; choose one of gradients "
            "alone, such as optax.adagrad(0.1), or, for a line search, "
            "bilevel.lower_solvers.lbfgs()"
        ) from error
