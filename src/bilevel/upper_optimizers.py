"""Upper optimizers: how the upper variables follow the hypergradient.

All take the mean hypergradient of the meta-batch, clip it (element-wise as in BOML, then by global
norm), and take a step of size step_size a(n) (n + 1)^-step_power / (1 + decay n), n updates done. a
is 1, or falls to 0 over `annealing_iterations`, N: with `annealing` linear a = 1 - n / N, with
cosine a = (1 + cos(pi n / N)) / 2 (Loshchilov and Hutter, ICLR 2017, Eq. 5, one period).

`average`: scores, and whatever is done with the result, are of a running mean of x (and of all else
that is learned) whose weights fall by this factor with age (`bilevel.averaging`); x itself moves as
without it.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.averaging import running_mean
from bilevel.step_sizes import falling, refuse_power
from bilevel.types import Array

Annealing = Literal["none", "linear", "cosine"]


def adam(
    *,
    step_size: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
    step_power: float = 0.0,
    annealing: Annealing = "none",
    annealing_iterations: int | None = None,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    average: float | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, ICLR 2015, Alg. 1). Raises ValueError on a value outside its range."""
    for name, value in (("b1", b1), ("b2", b2)):
        check.number(name, value)
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} is outside [0, 1); choose for example {name}=0.9")
    eps = check.number("eps", eps)
    if not 0 < eps < math.inf:
        raise ValueError(f"eps={eps} must be positive and finite; choose for example eps=1e-8")
    sizes = _sizes(step_size, decay, step_power, annealing, annealing_iterations)
    return _chain(optax.scale_by_adam(b1, b2, eps), sizes, clip_value, clip_norm, average)


def momentum(
    *,
    step_size: float,
    momentum: float = 0.5,
    decay: float = 0.0,
    step_power: float = 0.0,
    annealing: Annealing = "none",
    annealing_iterations: int | None = None,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    average: float | None = None,
) -> optax.GradientTransformation:
    """Heavy ball, m = momentum m + g, x -= step_size m (BOML: momentum 0.5).

    Raises ValueError on a value outside its range.
    """
    momentum = check.number("momentum", momentum)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} is outside [0, 1); choose for example momentum=0.5")
    sizes = _sizes(step_size, decay, step_power, annealing, annealing_iterations)
    return _chain(optax.trace(momentum), sizes, clip_value, clip_norm, average)


def sgd(
    *,
    step_size: float,
    decay: float = 0.0,
    step_power: float = 0.0,
    annealing: Annealing = "none",
    annealing_iterations: int | None = None,
    clip_value: float | None = None,
    clip_norm: float | None = None,
    average: float | None = None,
) -> optax.GradientTransformation:
    """x -= step_size g. Raises ValueError on a value outside its range."""
    sizes = _sizes(step_size, decay, step_power, annealing, annealing_iterations)
    return _chain(optax.identity(), sizes, clip_value, clip_norm, average)


def _sizes(
    step_size: float,
    decay: float,
    step_power: float,
    annealing: Annealing,
    iterations: int | None,
) -> Callable[[Any], Array]:
    """n updates done -> the size of the next step."""
    check.choice("annealing", annealing, get_args(Annealing))
    step_size = check.number("step_size", step_size)
    decay = check.number("decay", decay)
    check.numbers(annealing_iterations=iterations)
    if not 0 < step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be positive and finite; choose for example step_size=0.001"
        )
    if not 0 <= decay < math.inf:
        raise ValueError(f"decay={decay} must be finite and not negative; choose decay=0 for none")
    refuse_power(step_power)
    if annealing == "none" and iterations is not None:
        raise ValueError(
            f"annealing_iterations={iterations} is of no use with annealing=none; choose "
            "annealing=cosine, or annealing_iterations=null"
        )
    if annealing != "none" and (iterations is None or iterations < 1):
        shown = "null" if iterations is None else iterations
        raise ValueError(
            f"annealing_iterations={shown} must be at least 1 with annealing={annealing}: after so "
            "many iterations the step size is 0; choose the number of upper iterations"
        )
    annealed = {
        "none": lambda _: optax.constant_schedule(1.0),
        "linear": lambda over: optax.linear_schedule(1.0, 0.0, over),
        "cosine": lambda over: optax.cosine_decay_schedule(1.0, over),
    }[annealing](iterations)
    return lambda n: jnp.asarray(step_size * annealed(n) * falling(step_power, n) / (1 + decay * n))


def _chain(
    direction: optax.GradientTransformation,
    sizes: Callable[[Any], Array],
    clip_value: float | None,
    clip_norm: float | None,
    average: float | None,
) -> optax.GradientTransformation:
    for name, bound in (("clip_value", clip_value), ("clip_norm", clip_norm)):
        check.numbers(**{name: bound})
        if bound is not None and not 0 < bound < math.inf:
            raise ValueError(
                f"{name}={bound} must be positive and finite; choose {name}=null for none"
            )
    return optax.chain(
        optax.clip(clip_value) if clip_value else optax.identity(),
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        direction,
        optax.scale_by_schedule(lambda n: -sizes(n)),
        *([] if average is None else [running_mean(average)]),
    )
