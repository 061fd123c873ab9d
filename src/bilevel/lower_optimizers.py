"""Lower optimizers: how the lower variable moves along its direction.

All are smooth enough to differentiate through, and all can hand their step size to the upper
level: `learn` makes it one scalar (BOML's "Meta-SGD"), one per step, shape (K,), or one per
weight, the shape of y (Li et al., Meta-SGD, 2017). A learned step size is projected to [0, inf)
after each upper update.
"""

import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.convex_sets import ConvexSet, projection_onto
from bilevel.optax_steps import from_optax as from_optax
from bilevel.step_types import LowerOptimizer, Reason, ScalarOf
from bilevel.types import Index, Tree

LearnStepSize = Literal["none", "scalar", "per_step", "per_weight"]
LEARNED = {
    "none": "",
    "scalar": " (learned)",
    "per_step": " (learned, one per step)",
    "per_weight": " (learned, one per weight)",
}


def sgd(*, step_size: float, learn: LearnStepSize = "none") -> LowerOptimizer:
    """y_k = y_{k-1} - step_size d_k. Raises ValueError where step_size <= 0."""
    return _follow(optax.identity(), "y_k = y_{k-1} - eta d_k", step_size, learn)


def momentum(
    *, step_size: float, momentum: float = 0.5, learn: LearnStepSize = "none"
) -> LowerOptimizer:
    """Heavy ball: m_k = momentum m_{k-1} + d_k, y_k = y_{k-1} - step_size m_k (BOML: 0.5).

    Raises ValueError where momentum is outside [0, 1) or step_size <= 0.
    """
    _check_share("momentum", momentum)
    formula = f"m_k = {momentum:g} m_{{k-1}} + d_k, y_k = y_{{k-1}} - eta m_k"
    return _follow(optax.trace(momentum), formula, step_size, learn)


def nesterov(
    *, step_size: float, momentum: float = 0.5, learn: LearnStepSize = "none"
) -> LowerOptimizer:
    """m_k = momentum m_{k-1} + d_k, y_k = y_{k-1} - step_size (d_k + momentum m_k).

    Sutskever, Martens, Dahl, Hinton, ICML 2013, in the form whose gradient is taken at y_{k-1}.
    Raises ValueError where momentum is outside [0, 1) or step_size <= 0.
    """
    _check_share("momentum", momentum)
    formula = f"m_k = {momentum:g} m_{{k-1}} + d_k, y_k = y_{{k-1}} - eta (d_k + {momentum:g} m_k)"
    return _follow(optax.trace(momentum, nesterov=True), formula, step_size, learn)


def adam(
    *,
    step_size: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    learn: LearnStepSize = "none",
) -> LowerOptimizer:
    """y_k = y_{k-1} - step_size m / sqrt(v + eps^2), m and v the bias-corrected moments of d.

    Kingma and Ba, ICLR 2015, Alg. 1, with eps inside the root: there the derivative at d = 0 is
    finite (step_size / eps), where that of sqrt(v) + eps is not a number. It is still huge, and
    through K steps to the power K: where d may be exactly 0, choose eps near the size of d.

    Raises ValueError where b1 or b2 is outside [0, 1), eps < 1e-18 or step_size <= 0.
    """
    formula = "y_k = y_{k-1} - eta m_k / sqrt(v_k + eps^2), m_k and v_k Adam's moments of d"
    optimizer = _follow(_adam_direction(b1, b2, eps), formula, step_size, learn)
    return optimizer._replace(rescales=True)


def adamw(
    *,
    step_size: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    learn: LearnStepSize = "none",
) -> LowerOptimizer:
    """Adam with decoupled decay: y_k = y_{k-1} - step_size (m / sqrt(v + eps^2) + decay y_{k-1}).

    Loshchilov and Hutter, ICLR 2019. Where it rests, grad f is not zero, so it has no stationarity
    condition (an L2 term belongs in f if implicit differentiation is wanted).

    Raises ValueError as `adam`, and where weight_decay < 0.
    """
    weight_decay = check.number("weight_decay", weight_decay)
    if not weight_decay >= 0:
        raise ValueError(
            f"weight_decay={weight_decay} must not be negative; choose weight_decay=0.01"
        )
    optimizer = _follow(
        optax.chain(_adam_direction(b1, b2, eps), optax.add_decayed_weights(weight_decay)),
        f"y_k = y_{{k-1}} - eta (m_k / sqrt(v_k + eps^2) + {weight_decay:g} y_{{k-1}}), "
        "m_k and v_k Adam's moments of d",
        step_size,
        learn,
    )._replace(rescales=True)
    if not weight_decay:
        return optimizer
    return optimizer._replace(
        never_rests=Reason(
            "adamw's weight decay holds y away from the zero of the gradient",
            "lower_optimizer=adam with an L2 term in f, or hypergradient=unrolled",
        )
    )


def projected(
    *,
    step_size: float,
    set: ConvexSet,
    lower: float | None = None,
    upper: float | None = None,
    radius: float | None = None,
    learn: LearnStepSize = "none",
) -> LowerOptimizer:
    """y_k = P(y_{k-1} - step_size d_k), P the Euclidean projection onto a convex set.

    box: lower <= y <= upper in every entry; ball: |y| <= radius; simplex: y >= 0 with sum radius.
    Ball and simplex take all entries of y together.

    Raises ValueError for an empty set, an option that the set does not have, or step_size <= 0.
    """
    onto, text = projection_onto(set, lower, upper, radius)
    formula = f"y_k = P(y_{{k-1}} - eta d_k), {text}"
    return _follow(optax.identity(), formula, step_size, learn).ending_in(onto)


def _follow(
    transformation: optax.GradientTransformation,
    formula: str,
    step_size: float,
    learn: LearnStepSize,
) -> LowerOptimizer:
    """y_k = y_{k-1} - step_size * transformation(d_k), the step size learned or not."""
    check.choice("learn", learn, LEARNED)
    step_size = check.number("step_size", step_size)
    if not 0 < step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be positive and finite, or y would not descend; "
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
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        if learn == "per_weight":
            sizes = params["step_size"]
        else:
            size = params.get("step_size", step_size)
            size = size[k - 1] if learn == "per_step" else size
            sizes = jax.tree.map(lambda _: size, y)
        update, opt_state = transformation.update(direction, opt_state, y)
        return jax.tree.map(lambda w, d, eta: w - eta * d, y, update, sizes), opt_state

    return LowerOptimizer(
        init_params=init_params,
        init=lambda params, y0, objective: transformation.init(y0),
        update=update,
        project=lambda params: jax.tree.map(lambda eta: jnp.maximum(eta, 0), params),
        formula=f"{formula},  {eta_in_words(step_size, learn)}",
    )


def eta_in_words(step_size: float, learn: LearnStepSize) -> str:
    return f"eta = {step_size:g}{LEARNED[learn]}"


def _adam_direction(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    _check_share("b1", b1)
    _check_share("b2", b2)
    eps = check.number("eps", eps)
    if not eps >= 1e-18:
        raise ValueError(
            f"eps={eps} must be at least 1e-18, whose square float32 can hold; choose eps=1e-8"
        )
    return optax.scale_by_adam(b1, b2, eps=0.0, eps_root=eps**2)


def _check_share(name: str, value: float) -> None:
    check.number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} is outside [0, 1); choose for example {name}=0.9")
