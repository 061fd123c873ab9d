"""Aggregation: in which direction the lower level moves.

`lower_only` follows f alone (RHG, MAML); `descent` is Bi-level Descent Aggregation,
    d_k = s a_k grad_y F + t b_k grad_y f,
Liu, Mu, Yuan, Zeng, Zhang: A generic first-order algorithmic framework for bi-level programming
beyond lower-level singleton, ICML 2020 (arXiv 2006.04045); general form TPAMI 2022.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from bilevel import laws
from bilevel import option_checks as check
from bilevel.step_types import Aggregation
from bilevel.types import Array, Index

# (alpha, k) -> (a_k, b_k)
Law = Callable[[Array, Index], tuple[Array | float, Array | float]]
Learnable = Literal["alpha", "s", "t"]


def lower_only() -> Aggregation:
    """d_k = grad_y f(y_{k-1}); F is never evaluated below."""
    return Aggregation(
        init=lambda num_lower_steps: {},
        weights=lambda params, k: (None, 1.0),
        test_weights=lambda params, k: (None, 1.0),
        project=lambda params: params,
        formula="d_k = grad_y f(x, y_{k-1})",
        sees_upper=False,
    )


def descent(
    *,
    law: str | Law,
    alpha: float,
    s: float = 1.0,
    t: float = 1.0,
    ratio: float | None = None,
    beta: float | None = None,
    learn: tuple[Learnable, ...] = (),
) -> Aggregation:
    """d_k = s a_k grad_y F + t b_k grad_y f with (a_k, b_k) from `law` (see src/bilevel/laws.py).

    alpha in [0, 1] is the weight that the law starts from, s and t >= 0 scale the upper and the
    lower part, `ratio` and `beta` in (0, 1] belong to some laws only (None: the law's default).
    `learn` lists what the upper level learns; after each update alpha is projected to [0, 1] and
    s, t to [0, inf). With law per_step a learned alpha has shape (K,).

    A law of one's own is a function (alpha, k) -> (a_k, b_k) of arrays, k = 1..K, such as
    lambda alpha, k: (alpha / k**2, 1 - alpha / k**2); the first line of its docstring is shown.

    Raises ValueError for an unknown law, a value outside its bounds, an option that the law does
    not have, or weights that leave nothing to descend; TypeError for a function that is no law.
    """
    law_function = law if callable(law) else laws_by_name()[_known(law)]
    unknown = set(learn) - set(get_args(Learnable))
    if isinstance(learn, str) or unknown:
        raise ValueError(
            f'learn={learn!r} must list some of alpha, s and t; choose for example learn=("alpha",)'
        )
    alpha = check.number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha={alpha} is outside [0, 1]: it is the share of the upper objective in a convex "
            "combination; choose for example alpha=0.5"
        )
    for name, value in (("s", s), ("t", t)):
        check.number(name, value)
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{name}={value} must be finite and not negative, or the lower step would climb "
                f"its objective; choose {name}=1"
            )
    if callable(law):
        _refuse_no_law(law)
    options = _law_options(law_function, ratio=ratio, beta=beta)
    fixed = {"alpha": alpha, "s": s, "t": t}

    def init(num_lower_steps: int) -> dict[str, Array]:
        shapes = {"alpha": (num_lower_steps,) if law == "per_step" else (), "s": (), "t": ()}
        return {name: jnp.full(shapes[name], float(fixed[name])) for name in learn}

    def weights(params: Mapping[str, Array], k: Array | int) -> tuple[Array, Array]:
        value = {name: jnp.asarray(number) for name, number in {**fixed, **params}.items()}
        upper, lower = law_function(value["alpha"], k, **options)
        return value["s"] * upper, value["t"] * lower

    with jax.ensure_compile_time_eval():  # numbers even where somebody calls this inside jit
        weightless = not any(map(float, weights(init(1), 1)))
    if weightless:
        raise ValueError(
            f"s={s} and t={t} give F and f no weight in the first step (law={_name(law_function)}, "
            f"alpha={alpha}), so y would stay where it is; choose s=1 t=1, or another law"
        )

    def project(params: dict[str, Array]) -> dict[str, Array]:
        return {
            name: jnp.clip(value, 0, 1 if name == "alpha" else None)
            for name, value in params.items()
        }

    return Aggregation(
        init=init,
        weights=weights,
        test_weights=lambda params, k: (None, params.get("t", t)),
        project=project,
        formula=(
            "d_k = s a_k grad_y F(x, y_{k-1}) + t b_k grad_y f(x, y_{k-1});  "
            f"{_in_words(law_function)};  "
            f"alpha = {alpha:g}, s = {s:g}, t = {t:g}"
            + "".join(f", {name} = {_shown(value)}" for name, value in options.items())
        ),
        sees_upper=True,
    )


def laws_by_name() -> dict[str, Callable[..., tuple[Array, Array]]]:
    """The functions of src/bilevel/laws.py, in their order there."""
    return {
        key: value
        for key, value in vars(laws).items()
        if inspect.isfunction(value) and value.__module__ == laws.__name__
    }


def _known(name: str) -> str:
    known = laws_by_name()
    if not isinstance(name, str):
        raise ValueError(
            f"law={name!r} must be a name, or a function (alpha, k) -> (a_k, b_k); choose one of "
            + ", ".join(known)
        )
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ValueError(
            f"law={name} is not a law; choose one of {', '.join(known)}"
            + (f" (did you mean {near[0]}?)" if near else "")
        )
    return name


def _refuse_no_law(law: Law) -> None:
    """Raises TypeError where it takes no (alpha, k), cannot be traced, or gives no two numbers."""
    example = "lambda alpha, k: (alpha / k**2, 1 - alpha / k**2)"
    try:
        inspect.signature(law).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"law={_name(law)} must take alpha and k, in this order: {error}; such as {example}"
        ) from error
    scalar = jax.ShapeDtypeStruct((), jnp.result_type(float))
    try:
        weights = jax.eval_shape(law, scalar, jax.ShapeDtypeStruct((), jnp.int32))
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            f"law={_name(law)} asks for the value of alpha or k, which are traced; write "
            "jnp.where(k < 3, a, b) in place of `a if k < 3 else b`"
        ) from error
    if [jnp.shape(weight) for weight in jax.tree.leaves(weights)] != [(), ()]:
        raise TypeError(
            f"law={_name(law)} must return two numbers (a_k, b_k), but returned {weights}; "
            f"such as {example}"
        )


def _name(law: Callable) -> str:
    return getattr(law, "__name__", repr(law))


def _in_words(law: Callable) -> str:
    words = (law.__doc__ or "").strip() if inspect.isfunction(law) else ""
    return (words or f"(a_k, b_k) by the function {_name(law)}").splitlines()[0].rstrip(".")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _law_options(law: Callable, **given: float | None) -> dict[str, float]:
    """The given options where the law has them, else its defaults."""
    admitted = {
        name: parameter.default
        for name, parameter in inspect.signature(law).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name, value in given.items():
        if value is None:
            continue
        if name not in admitted:
            raise ValueError(
                f"{name}={value} does nothing with law={_name(law)}, which has "
                f"{'the options ' + ', '.join(admitted) if admitted else 'no options'}; "
                f"leave {name}=null"
            )
        check.number(name, value)
        if not 0 < value <= 1:
            raise ValueError(f"{name}={value} is outside (0, 1]; choose for example {name}=0.9")
        admitted[name] = value
    return admitted
