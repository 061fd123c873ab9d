"""What people give to `bilevel.problem`, checked by tracing: one line says what is wrong."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from bilevel.columns import refuse_taken
from bilevel.option_checks import choice as choice
from bilevel.option_checks import kind as kind
from bilevel.option_checks import number as number
from bilevel.option_checks import numbers as numbers
from bilevel.option_checks import positive as positive
from bilevel.option_checks import whole_number as whole_number
from bilevel.types import Array, InitLower, Tree


def random_key(name: str, value: Any) -> None:
    """Raises TypeError where the value is not one random key of jax."""
    is_array = isinstance(value, jax.Array) and not isinstance(value, np.ndarray)
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and not value.shape:
        return
    if is_array and value.dtype == jnp.uint32 and value.shape == (2,):
        return
    raise TypeError(f"{name} must be one random key, such as {name}=jax.random.key(0)")


def usable_key(name: str, value: Any) -> Array:
    """The key as one of jax's default implementation, which states and mini-batches hold.

    A raw key (jax.random.PRNGKey) is the same key; one of another implementation gives a new one.
    Raises TypeError where the value is not one random key of jax.
    """
    random_key(name, value)
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(value)
    like = jax.eval_shape(lambda: jax.random.key(0))
    if value.dtype == like.dtype:
        return value
    shape = jax.eval_shape(jax.random.key_data, like).shape
    return jax.random.wrap_key_data(jax.random.bits(value, shape, "uint32"))


def arrays(name: str, data: Any) -> Tree:
    """The data on the device. Raises TypeError for text, objects, or nothing at all."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise TypeError(f"{name} holds no array; give a pytree of arrays, or leave {name} out")
    for path, leaf in leaves:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        # A traced array has a dtype, but no numbers yet.
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if not (jnp.issubdtype(array.dtype, jnp.number) or jnp.issubdtype(array.dtype, jnp.bool_)):
            what = "text" if array.dtype.kind in "US" else f"a {type(leaf).__name__}"
            raise TypeError(
                f"{where} holds {what}, but data must be numbers; encode it as integers, or leave "
                "it out"
            )
        if not np.size(leaf):
            raise ValueError(f"{where} has shape {np.shape(leaf)}: there are no numbers in it")
        _fits(where, array)
    return jax.tree.map(jnp.asarray, data)


def _fits(where: str, array: Any) -> None:
    """Raises ValueError for whole numbers that jax would wrap around: 64 bits without x64."""
    if isinstance(array, jax.Array) or not jnp.issubdtype(array.dtype, jnp.integer):
        return
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    bounds = jnp.iinfo(kept)
    if array.min() < bounds.min or array.max() > bounds.max:
        raise ValueError(
            f"{where} holds numbers outside of {kept}, up to {np.abs(array).max()}: they would be "
            'changed; cast it to float, or call jax.config.update("jax_enable_x64", True) first'
        )


def num_rows(name: str, data: Tree) -> int:
    """The common number of rows. Raises ValueError where the arrays of a part differ in it."""
    counts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        where = f"{name}{jax.tree_util.keystr(path)}"
        if not leaf.shape:
            raise ValueError(
                f"{where} is one number, but every array of {name} must have rows first"
            )
        counts[where] = leaf.shape[0]
    first, *others = counts
    for other in others:
        if counts[other] != counts[first]:
            raise ValueError(
                f"{first} has {counts[first]} rows and {other} has {counts[other]}; every array of "
                f"{name} must have the same number of rows"
            )
    return counts[first]


def same_columns(name: str, data: Tree, other_name: str, other: Tree) -> None:
    """Raises ValueError where two parts differ in more than the number of rows."""
    if jax.tree.structure(data) != jax.tree.structure(other):
        raise ValueError(
            f"{name} is {form(data)}, but {other_name} is {form(other)}; the same function reads "
            "both, so give both the same keys"
        )
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(data), jax.tree.leaves(other), strict=True
    ):
        if leaf.shape[1:] != reference.shape[1:]:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}{where} has rows of shape {leaf.shape[1:]}, but {other_name}{where} has "
                f"rows of shape {reference.shape[1:]}; the same function reads both"
            )


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a caller must give by position; options have defaults."""
    parameters = inspect.signature(function).parameters.values()
    rest = inspect.Parameter.VAR_POSITIONAL
    by_position = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, rest)
    ]
    needed = [each for each in by_position if each.default is each.empty and each.kind is not rest]
    # Of (key=None) and (*arguments) the first is the key.
    return [each.name for each in needed or by_position[:1]]


def start(name: str, value: Any) -> InitLower:
    """init(key, x) from a pytree, from a function of a key, or from one of a key and x."""
    if callable(value):
        names = arguments_of(value)
        if len(names) not in (1, 2):
            raise TypeError(
                f"{name} is a function of {len(names)} arguments; write it as {name}(key)"
            )
        if names[1:] == ["key"]:
            raise TypeError(f"{name}({', '.join(names)}): the key comes first; write (key, x)")
        return value if len(names) == 2 else lambda key, x: value(key)

    def init(key: Array, x: Tree) -> Tree:
        del key, x
        return strong(value)

    return init


def strong(tree: Tree) -> Tree:
    """The same arrays. Python's numbers are weakly typed, and steps would compile twice."""
    arrays = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, leaf.dtype), arrays)


def floats(name: str, shapes: Tree) -> Tree:
    """The same shapes. Raises TypeError for a variable without floats."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    if not leaves:
        raise TypeError(f"{name} is empty; give it at least one array of floats to start from")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} holds {leaf.dtype}, which has no gradient; "
                "make it floats (1.0 for 1)"
            )
    return shapes


def form(tree: Tree) -> str:
    """A pytree for people: its containers, with shapes in the place of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    named = [_Shown(f"array{jnp.shape(leaf)}") for leaf in leaves]
    return str(jax.tree.unflatten(structure, named))


class _Shown(str):
    """Text that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def traced(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The shapes that a function of the user returns. Raises TypeError where it fails on these."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        described = ", ".join(form(argument) for argument in arguments)
        raise TypeError(f"{name} fails on ({described}): {reason}") from error


def inside(name: str, value: Any, init: InitLower, project: Any) -> InitLower:
    """The start, or its projection where it lies outside; then with a warning.

    Of an x that is a function of a key, or traced, nobody knows where it lies: it is projected
    without. Such a y0 stays as it is: the first lower step projects, and a start that is learned
    would have half a derivative where it lies on a bound.
    """
    if callable(value) or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
        return init if name == "lower_start" else lambda key, x: project(init(key, x))
    start = strong(value)
    moved = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b), initial=0)), start, project(start)
    )
    size = jax.tree.map(lambda a: float(jnp.max(jnp.abs(a), initial=0)), start)
    farthest = max(jax.tree.leaves(moved))
    if farthest <= 1e-6 * (1 + max(jax.tree.leaves(size))):
        return init
    warnings.warn(
        f"{name} lies outside the bounds, by {farthest:.3g} in an entry; the run starts at its "
        "projection",
        stacklevel=3,
    )
    return lambda key, x: project(init(key, x))


def same_form(name: str, shapes: Tree, other_name: str, other: Tree) -> None:
    """Raises ValueError where structure or shapes differ."""
    if jax.tree.structure(shapes) != jax.tree.structure(other):
        raise ValueError(
            f"{name} is {form(shapes)}, but {other_name} is {form(other)}; they must have the same "
            "structure"
        )
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(other), strict=True
    ):
        if jnp.shape(leaf) != jnp.shape(reference):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{name}{where} has shape {jnp.shape(leaf)}, but {other_name}{where} has shape "
                f"{jnp.shape(reference)}"
            )


def objective(name: str, function: Callable[..., Any], arguments: tuple, data: str) -> None:
    """Raises TypeError or ValueError where f or F does not return what it must.

    arguments: shapes of (x, y) or (x, y, data); `data` names what the third is, for the message.
    """
    _callable_with(name, function, arguments, data)
    value = traced(name, function, *arguments)
    if name == "F" and isinstance(value, tuple) and len(value) == 2:
        value, metrics = value
        _metrics(metrics)
    if value is None:
        raise TypeError(f"{name} returns None; is its `return` missing?")
    if isinstance(value, tuple):
        also = ", or (scalar, {name: scalar})" if name == "F" else "; only F may return metrics too"
        raise TypeError(f"{name} returns a tuple of {len(value)}; return one scalar{also}")
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(f"{name} returns a {type(value).__name__}; return one scalar")
    if value.shape:
        raise ValueError(
            f"{name} has shape {value.shape}, but an objective is one number; take jnp.sum or "
            "jnp.mean of it"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} returns {value.dtype}, which has no gradient; return a float")


def constraints(name: str, function: Any, arguments: tuple, data: str) -> None:
    """Raises TypeError where g or G is no function of what f or F gets, or gives no floats."""
    if not callable(function):
        raise TypeError(
            f"{name}={function!r} must be a function whose values are at most 0 where x and y are "
            "feasible, such as lambda x, y: y - 1"
        )
    _callable_with(name, function, arguments, data)
    leaves = jax.tree.leaves(traced(name, function, *arguments))
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        kinds = ", ".join(str(leaf.dtype) for leaf in leaves) or "nothing"
        raise TypeError(
            f"{name} returns {kinds}; return numbers that are at most 0 where x and y are feasible "
            "(y - 1 for y <= 1), not whether they are"
        )


def _callable_with(name: str, function: Callable[..., Any], arguments: tuple, data: str) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        called = f"{name}(x, y, {data})" if data else f"{name}(x, y), as there are no data"
        raise TypeError(f"{name} cannot be called as {called}: {error}") from error


def _metrics(metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"F returns (value, {type(metrics).__name__}), but the second part must be metrics, "
            "{name: scalar}"
        )
    refuse_taken(metrics)
    for name, value in metrics.items():
        if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
            shape = getattr(value, "shape", type(value).__name__)
            raise ValueError(
                f"F's metric {name!r} has shape {shape}, but a metric is one number; take its mean"
            )


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring, or its name."""
    text = (function.__doc__ or "").strip()
    return text.splitlines()[0] if text else getattr(function, "__name__", type(function).__name__)


def projection(name: str, project: Any, of: str, point: Tree) -> None:
    """Raises TypeError or ValueError unless `project` keeps the form of a variable."""
    if not callable(project):
        raise TypeError(
            f"{name}={project!r} must be a function of {of}, such as lambda {of}: "
            f"jnp.clip({of}, 0, 1)"
        )
    projected = traced(name, project, point)
    same_form(f"{name}({of})", projected, of, point)
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(projected), jax.tree.leaves(point), strict=True
    ):
        if leaf.dtype != reference.dtype:
            where = jax.tree_util.keystr(path)
            raise TypeError(
                f"{name}({of}){where} is {leaf.dtype}, but {of}{where} is {reference.dtype}; keep "
                f"its type: .astype({of}{where}.dtype)"
            )
