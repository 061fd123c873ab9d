"""Values of options: one line says what is wrong with one, by its name, and what to type."""

import math
import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def kind(name: str, value: Any, wanted: type, example: str) -> None:
    """Raises TypeError where the value is not of this type."""
    if not isinstance(value, wanted):
        what = f"a {type(value).__name__}"
        if value is None or isinstance(value, str | int | float):
            what = repr(value)
        elif callable(value):
            what = "a function that was not called"
        raise TypeError(f"{name} is {what}, but must be a {wanted.__name__}, such as {example}")


def choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError where the value is none of these names; it says which is near."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return
    near = get_close_matches(value.lower(), known, n=1) if isinstance(value, str) else []
    nearest = (near or known)[0]
    raise ValueError(f"{name}={value!r} is none of {', '.join(known)}; choose {name}={nearest!r}")


def whole_number(name: str, value: Any, least: int | None = 1) -> int:
    """The value as Python's int. Raises TypeError where it is none, ValueError below `least`.

    Integers of numpy and jax are such numbers, too, but would widen the arrays that they meet.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a whole number, such as {name}=10")
    if least is not None and number < least:
        raise ValueError(f"{name}={number} must be at least {least}")
    return number


def number(name: str, value: Any) -> float:
    """The value as Python's number. Raises TypeError where it is not one real number.

    Numbers of numpy and jax are such numbers, too, but would widen the arrays that they meet.
    """
    if isinstance(value, Tracer):
        raise TypeError(
            f"{name} is traced by jit, vmap or grad, but an option is a number that is known "
            f"before compiling; make one method for each {name}"
        )
    if isinstance(value, int | float) and not isinstance(value, bool | np.generic):
        return value
    dtype = getattr(value, "dtype", bool)
    real = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    if not real or jnp.shape(value):
        raise TypeError(f"{name}={value!r} must be a number, such as {name}=0.1")
    return float(value)


def numbers(**values: Any) -> None:
    """Raises TypeError where one of the values, None apart, is not one real number."""
    for name, value in values.items():
        if value is not None:
            number(name, value)


def positive(name: str, value: Any) -> None:
    """Raises TypeError or ValueError where the value is no positive finite number."""
    number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be positive and finite, such as {name}=1000.0")
