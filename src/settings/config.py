"""Configuration: from Hydra's composed config to checked, plain Python values.

A factory's signature is its schema: keyword-only arguments are options, positional ones are
supplied by the builder. No option is written down twice.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, ValidationError, create_model

from src.settings.errors import UserError

# What a node says beside its factory's options, for people and for other nodes.
NODE_LABELS = {
    "problem": {"name", "recommended", "monitor"},
}
CITE = "cite"  # of any node: keys of docs/references.bib
NODES = (
    "aggregation",
    "lower_optimizer",
    "hypergradient",
    "upper_optimizer",
    "model",
    "data",
    "problem",
)


# The class that a factory of these groups says it returns. By name: the classes would import jax.
MAKES = {
    "aggregation": "Aggregation",
    "lower_optimizer": "LowerOptimizer",
    "hypergradient": "Hypergradient",
    "upper_optimizer": "GradientTransformation",
    "model": "Model",
}


class Node(NamedTuple):
    """A checked `_target_` node: its factory and its options, some of which may be nodes."""

    path: str
    factory: Callable
    options: dict[str, Any]


def resolve(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, interpolations done."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        missing = re.match(r"Missing mandatory value: (\S+)", str(error))
        if missing:
            raise UserError(f"{missing[1]} is missing (???): give it a value") from error
        name = OmegaConf.select(config, "problem.name", default="NAME")
        unnamed = missing_of_problem(str(error), f"conf/problem/{name}.yaml")
        if unnamed:
            raise UserError(unnamed) from error
        raise UserError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def missing_of_problem(text: str, file: str) -> str | None:
    """The message where a problem's file lacks what another key takes; None for other errors."""
    found = re.match(r"Interpolation key '(problem\.[\w.]+)' not found\s+full_key: (\S+)", text)
    if not found:
        return None
    missing, reader = found.groups()
    own = "" if reader.startswith("hydra.") else f", or give {reader}=..."
    return (
        f"{missing} is missing, from which {reader} takes its value: add it to {file} "
        f"(conf/problem/ridge.yaml shows all that a problem needs){own}"
    )


def check_node(path: str, node: Mapping[str, Any] | None) -> Node | None:
    """The factory of a `_target_` node and its typed options; None where the target is null.

    Raises UserError on a target that is not ours, on unknown, missing or mistyped options.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path} has no _target_: choose one of the files in conf/{path}")
    target = node["_target_"]
    if target is None:
        return None
    factory = _import(path, target)
    labels = NODE_LABELS.get(path, set()) | {CITE}
    options = {key: value for key, value in node.items() if key not in {"_target_", *labels}}
    hints = get_type_hints(factory)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for name in parameters:
        if name not in hints:
            raise UserError(f"{path}.{name}: {target} must say its type, as in `{name}: float`")
    pieces = {name: hints[name] for name in parameters if _is_piece(hints[name])}
    nested = {
        name: _check_piece(f"{path}.{name}", options[name], kind)
        for name, kind in pieces.items()
        if options.get(name) is not None
    }
    fields = {name: _written(hints[name]) for name in parameters if name not in pieces}
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    plain = {name: value for name, value in options.items() if name not in pieces}
    return Node(path, factory, {**check(path, fields, plain, defaults), **nested})


def _written(kind: Any) -> Any:
    """What of a type a file can hold: of `str | Callable` the text."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return Union[tuple(one for one in get_args(kind) if get_origin(one) is not Callable)]  # noqa: UP007


def _is_piece(kind: Any) -> bool:
    """Whether an option of this type is itself made by a factory: a NamedTuple of ours."""
    return any(hasattr(option, "_fields") for option in (kind, *get_args(kind)))


def _check_piece(path: str, value: Any, kind: Any) -> Node:
    """The node of an option that another factory makes."""
    if not isinstance(value, Mapping) or value.get("_target_") is None:
        raise UserError(f"{path}={value!r} must have a _target_, as the files under conf/ do")
    node = check_node(path, value)
    assert node is not None
    if get_type_hints(node.factory).get("return") not in (kind, *get_args(kind)):
        raise UserError(
            f"{path}._target_={value['_target_']} does not make what {path} needs; choose one that "
            "the files under conf/ name"
        )
    return node


def _place(location: Sequence[str | int]) -> str:
    """The option, and which entry of it."""
    option, *within = location
    return ".".join([str(option), *(str(part) for part in within if isinstance(part, int))])


def check(
    path: str,
    fields: Mapping[str, Any],
    values: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values, checked against names and types. Raises UserError with the full key."""
    prefix = f"{path}." if path else ""
    if not isinstance(values, Mapping):
        listed = ", ".join(f"{prefix}{name}" for name in fields)
        raise UserError(f"{path}={shown(values)} is one value, but {path} has keys: set {listed}")
    for name in values:
        if name not in fields:
            raise UserError(unknown_key(prefix, str(name), fields))
    defaults = defaults or {}
    missing = [name for name in fields if name not in values and name not in defaults]
    if missing:
        raise UserError(f"{prefix}{missing[0]} is missing: add {prefix}{missing[0]}=...")
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    schema: dict[str, Any] = {
        name: (kind, defaults.get(name, ...)) for name, kind in fields.items()
    }
    model = create_model("Options", __config__=ConfigDict(strict=True), **schema)
    try:
        checked = model(**tuples)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            name = str(first["loc"][0])
            raise UserError(
                f"{prefix}{name}={shown(values[name])} has too few entries; conf/ shows how many"
            ) from error
        # Of an option of several kinds there is an error for each; where it is ends with the kind.
        place, value = _place(first["loc"]), shown(first["input"])
        texts = [one["msg"] for one in error.errors() if _place(one["loc"]) == place]
        reason = ", or ".join(dict.fromkeys(text[0].lower() + text[1:] for text in texts))
        hint = (
            f"; write {prefix}{place}=[{first['input']}]" if first["type"] == "tuple_type" else ""
        )
        raise UserError(f"{prefix}{place}={value}: {reason}{hint}") from error
    result = {name: getattr(checked, name) for name in fields}
    for name, value in result.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{prefix}{name}={number} must be a finite number")
    return result


def dotted(
    tree: Mapping[str, Any], left_out: Callable[[str], bool], prefix: str = ""
) -> dict[str, Any]:
    """{dotted key: value} of all but what `left_out` names; lists are values."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if left_out(path):
            continue
        if isinstance(value, Mapping):
            leaves |= dotted(value, left_out, f"{path}.")
        else:
            leaves[path] = value
    return leaves


def as_typed(value: Any) -> str:
    """A value as the command line takes it: null, true, [1,2], text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value)


def shown(value: Any) -> str:
    """A value in a message: text in quotes."""
    return as_typed(value) if value is None or isinstance(value, bool) else repr(value)


# What other programs call a step size.
ALSO_CALLED = {"lr": "step_size", "learning_rate": "step_size"}


def unknown_key(
    prefix: str, name: str, known: Mapping[str, Any] | list[str], elsewhere: Iterable[str] = ()
) -> str:
    """The message for a key that does not exist. elsewhere: dotted keys that may be meant too."""
    words = set(ALSO_CALLED.get(name, name).split("_"))
    within = [key for key in elsewhere if words <= set(re.split("[._]", key)) and "." in key]
    near = within[:2] or [f"{prefix}{key}" for key in get_close_matches(name, known, n=1)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    place = f"{prefix.rstrip('.')} has" if prefix else "there is"
    listed = ", ".join(sorted(key for key in known if key != "_target_")) or "no options"
    return f"{prefix}{name} is not a key: {hint}{place} {listed}"


def call(node: Node, **supplied: Any) -> Any:
    """Call the factory with its options and the positional arguments that it names.

    A factory's ValueError starts with the option's name; the node's path makes it a full key.
    """
    positional = [
        name
        for name, parameter in inspect.signature(node.factory).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    options = {k: call(v) if isinstance(v, Node) else v for k, v in node.options.items()}
    with about(node):
        return node.factory(*(supplied[name] for name in positional), **options)


@contextmanager
def about(node: Node) -> Iterator[None]:
    """Turn a ValueError of the node's code into a message that names the node or its option."""
    try:
        yield
    except (ValueError, OSError) as error:
        subject = re.split("[=: ]", str(error))[0]
        if subject.partition(".")[0] in NODES:
            raise UserError(str(error)) from error  # it names another node

        def in_full(found: re.Match[str]) -> str:
            return f"{node.path}.{found[0]}" if found[1] in node.options else found[0]

        # So that a remedy can be pasted: shots=1 is problem.shots=1 on the command line.
        text = re.sub(r"(?<![\w.])(\w+)=", in_full, str(error))
        if not text.startswith(f"{node.path}."):
            text = f"{node.path}{'.' if subject in node.options else ': '}{text}"
        raise UserError(text) from error


def misfit(node: Node, name: str, supplier: Node) -> str | None:
    """Why the supplier's factory cannot make the node's argument `name`, by their annotations."""
    # Imported here: numpy takes a tenth of a second, and --help comes this way.
    from src.data.forms import is_form

    annotations = get_type_hints(node.factory)[name], get_type_hints(supplier.factory)["return"]
    needed, supplied = map(_class_of, annotations)
    if issubclass(supplied, needed) or all(map(is_form, annotations)):
        return None
    return (
        f"{name}={supplier.factory.__name__} gives {_shown(annotations[1])}, but "
        f"{node.path}={node.factory.__name__} needs {_shown(annotations[0])}; choose another "
        f"{name}, or leave {name} out and the problem chooses"
    )


def _class_of(annotation: Any) -> type:
    """Mapping of Mapping[str, Any]."""
    return get_origin(annotation) or annotation


def _shown(annotation: Any) -> str:
    """A type by name; of several, as in A | B, each."""
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return " or ".join(_class_of(kind).__name__ for kind in kinds)


def takes(node: Node, name: str) -> bool:
    """Whether the factory names this positional argument."""
    parameter = inspect.signature(node.factory).parameters.get(name)
    return parameter is not None and parameter.kind is not inspect.Parameter.KEYWORD_ONLY


def _import(path: str, target: str) -> Callable:
    group = path.partition(".")[0]
    package = f"src.{group}s" if group in ("model", "problem") else "bilevel"
    package = "src.data" if group == "data" else package
    if not str(target).startswith(f"{package}."):
        raise UserError(
            f"{path}._target_={target} does not point into {package}: a config may only call this "
            f"project's own factories for {group}; write a function there and name it"
        )
    module, _, name = str(target).rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}._target_={target} cannot be imported: {error}") from error
    if not inspect.isfunction(factory):
        raise UserError(f"{path}._target_={target} is not a function")
    made = _class_of(get_type_hints(factory).get("return"))
    if path in MAKES and getattr(made, "__name__", "") != MAKES[path]:
        raise UserError(
            f"{path}._target_={target} does not say that it returns {MAKES[path]}, which {path} "
            f"needs; choose a file of conf/{path}, or annotate the function"
        )
    return factory
