"""Upper optimizers: how the upper variables follow the hypergradient.

All take the mean hypergradient of the meta-batch, clip it (element-wise as in BOML, then by global
norm), and decay their step size by inverse time: step_size / (1 + decay n), n updates done.
"""

import math

import optax


def adam(
    *,
    step_size: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, ICLR 2015, Alg. 1). Raises ValueError on a value outside its range."""
    for name, value in (("b1", b1), ("b2", b2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} is outside [0, 1); choose for example {name}=0.9")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps={eps} must be positive and finite; choose for example eps=1e-8")
    return _chain(optax.scale_by_adam(b1, b2, eps), step_size, decay, clip_value, clip_norm)


def momentum(
    *,
    step_size: float,
    momentum: float = 0.5,
    decay: float = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Heavy ball, m = momentum m + g, x -= step_size m (BOML: momentum 0.5).

    Raises ValueError on a value outside its range.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} is outside [0, 1); choose for example momentum=0.5")
    return _chain(optax.trace(momentum), step_size, decay, clip_value, clip_norm)


def sgd(
    *,
    step_size: float,
    decay: float = 0.0,
    clip_value: float | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """x -= step_size g. Raises ValueError on a value outside its range."""
    return _chain(optax.identity(), step_size, decay, clip_value, clip_norm)


def _chain(
    direction: optax.GradientTransformation,
    step_size: float,
    decay: float,
    clip_value: float | None,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    if not 0 < step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be positive and finite; choose for example step_size=0.001"
        )
    if not 0 <= decay < math.inf:
        raise ValueError(f"decay={decay} must be finite and not negative; choose decay=0 for none")
    for name, bound in (("clip_value", clip_value), ("clip_norm", clip_norm)):
        if bound is not None and not 0 < bound < math.inf:
            raise ValueError(
                f"{name}={bound} must be positive and finite; choose {name}=null for none"
            )
    return optax.chain(
        optax.clip(clip_value) if clip_value else optax.identity(),
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        direction,
        optax.scale_by_schedule(lambda n: -step_size / (1 + decay * n)),
    )
