"""Configuration: from Hydra's composed config to checked, plain Python values.

A factory's signature is its schema: keyword-only arguments are options, positional ones are
supplied by the builder. No option is written down twice.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, ValidationError, create_model

from src.settings.errors import UserError

# What a node says beside its factory's options, for people and for other nodes.
NODE_LABELS = {
    "problem": {"name", "recommended", "monitor"},
}
NODES = (
    "aggregation",
    "lower_optimizer",
    "hypergradient",
    "upper_optimizer",
    "model",
    "data",
    "problem",
)


class Monitor(NamedTuple):
    """Which logged metric chooses the best state, and which way is better."""

    metric: str
    mode: Literal["min", "max"]


class Method(NamedTuple):
    """conf/method/*.yaml beside the groups that it chooses: names for people, and the roles.

    recommended: numbers that files of other groups take, where they have such an option.
    """

    name: str
    reference: str
    lower_variable: Literal["head", "all"]
    learn_start: bool
    recommended: dict[str, Any] = {}  # noqa: RUF012 (a default that is never changed)


class Settings(NamedTuple):
    """The top-level keys of conf/config.yaml, where their meaning stands."""

    seed: int
    seeds: int
    num_iterations: int
    num_lower_steps: int
    meta_batch_size: int
    tasks_at_once: int | None
    lower_start: Literal["fixed", "redrawn", "warm"]
    proximal_weight: float
    test_step_size: Literal["learned", "initial"]
    dtype: Literal["float32", "float64"]
    log_every: int
    eval_every: int
    checkpoint_every: int
    num_validation_tasks: int
    num_test_tasks: int
    resume: Literal["auto", "never"]
    compilation_cache: bool
    traceback: bool


class WandbOptions(NamedTuple):
    """conf/logger/wandb.yaml, where the meaning stands."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    group: str | None
    tags: tuple[str, ...]


class Writers(NamedTuple):
    """Which writers are on; each is one yaml under conf/logger."""

    console: bool = False
    jsonl: bool = False
    wandb: WandbOptions | None = None


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
        raise UserError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs the same run: all but how long, how resumed and how shown."""
    apart = {"num_iterations", "resume", "logger", "traceback", "compilation_cache"}
    return {key: value for key, value in config.items() if key not in apart}


def check_settings(config: Mapping[str, Any]) -> Settings:
    """The top-level keys, typed and in range. Raises UserError naming the key."""
    groups = {*NODES, "method", "logger"}
    top = {key: value for key, value in config.items() if key not in groups}
    settings = Settings(**check("", get_type_hints(Settings), top))
    for name in (
        "seeds",
        "num_iterations",
        "num_lower_steps",
        "meta_batch_size",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "num_validation_tasks",
        "num_test_tasks",
    ):
        if getattr(settings, name) < 1:
            raise UserError(f"{name}={getattr(settings, name)} must be at least 1")
    # Beyond 32 bits, jax.random.key would silently take another seed's key.
    if not 0 <= settings.seed <= 2**32 - settings.seeds:
        raise UserError(
            f"seed={settings.seed} is outside 0..{2**32 - settings.seeds}; choose seed=0"
        )
    return settings


def check_writers(logger: Mapping[str, Any]) -> Writers:
    """The chosen writers. Raises UserError naming the key."""
    given = dict(logger)
    if given.get("wandb") is not None:
        given["wandb"] = WandbOptions(
            **check("logger.wandb", get_type_hints(WandbOptions), given["wandb"])
        )
    return Writers(**check("logger", get_type_hints(Writers), given, Writers()._asdict()))


def check_node(path: str, node: Mapping[str, Any] | None) -> Node | None:
    """The factory of a `_target_` node and its typed options; None where the target is null.

    Raises UserError on a target outside `src`, on unknown, missing or mistyped options.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path} has no _target_: choose one of the files in conf/{path}")
    target = node["_target_"]
    if target is None:
        return None
    factory = _import(path, target)
    labels = NODE_LABELS.get(path, set())
    given = {key: value for key, value in node.items() if key not in {"_target_", *labels}}
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
        name: _check_piece(f"{path}.{name}", given.pop(name), kind)
        for name, kind in pieces.items()
        if given.get(name) is not None
    }
    fields = {name: hints[name] for name in parameters if name not in pieces}
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    plain = {name: value for name, value in given.items() if name not in pieces}
    return Node(path, factory, {**check(path, fields, plain, defaults), **nested})


def _is_piece(kind: Any) -> bool:
    """Whether an option of this type is itself made by a factory: a NamedTuple of ours."""
    return any(hasattr(option, "_fields") for option in (kind, *get_args(kind)))


def _check_piece(path: str, given: Any, kind: Any) -> Node:
    """The node of an option that another factory makes."""
    if not isinstance(given, Mapping) or given.get("_target_") is None:
        raise UserError(f"{path}={given!r} must have a _target_, as the files under conf/ do")
    node = check_node(path, given)
    assert node is not None
    made = get_type_hints(node.factory).get("return")
    if made not in (kind, *get_args(kind)):
        raise UserError(
            f"{path}._target_={given['_target_']} does not make what {path} needs; choose one that "
            "the files under conf/ name"
        )
    return node


def check(
    path: str,
    fields: Mapping[str, Any],
    given: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`given` checked against names and types. Raises UserError with the full key."""
    prefix = f"{path}." if path else ""
    for name in given:
        if name not in fields:
            raise UserError(unknown_key(prefix, str(name), fields))
    defaults = defaults or {}
    missing = [name for name in fields if name not in given and name not in defaults]
    if missing:
        raise UserError(f"{prefix}{missing[0]} is missing: add {prefix}{missing[0]}=...")
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
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
                f"{prefix}{name}={given[name]!r} has too few entries; conf/ shows how many"
            ) from error
        name = ".".join(str(part) for part in first["loc"])
        hint = f"; write {prefix}{name}=[{first['input']}]" if first["type"] == "tuple_type" else ""
        raise UserError(
            f"{prefix}{name}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}{hint}"
        ) from error
    return {name: getattr(checked, name) for name in fields}


def unknown_key(prefix: str, name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The message for a key that does not exist."""
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {prefix}{near[0]}? " if near else ""
    place = f"{prefix.rstrip('.')} has" if prefix else "there is"
    listed = ", ".join(sorted(key for key in known if key != "_target_")) or "no options"
    return f"{prefix}{name} is not a key: {hint}{place} {listed}"


def call(node: Node, **supplied: Any) -> Any:
    """Call the factory with its options and the positional arguments that it names.

    A factory's ValueError starts with the option's name; the node's path makes it a full key.
    """
    wanted = [
        name
        for name, parameter in inspect.signature(node.factory).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    options = {k: call(v) if isinstance(v, Node) else v for k, v in node.options.items()}
    with about(node):
        return node.factory(*(supplied[name] for name in wanted), **options)


@contextmanager
def about(node: Node) -> Iterator[None]:
    """Turn a ValueError of the node's code into a message that names the node or its option."""
    try:
        yield
    except (ValueError, OSError) as error:
        subject = re.split("[=: ]", str(error))[0]
        if subject.partition(".")[0] in NODES:
            raise UserError(str(error)) from error  # it names another node
        about_option = subject in node.options
        raise UserError(f"{node.path}{'.' if about_option else ': '}{error}") from error


def misfit(node: Node, name: str, given: Node) -> str | None:
    """Why the factory of `given` cannot supply the argument `name`, told by their annotations."""
    wanted, found = get_type_hints(node.factory)[name], get_type_hints(given.factory)["return"]
    kinds = [get_origin(annotation) or annotation for annotation in (found, wanted)]
    if issubclass(*kinds):
        return None
    return (
        f"{name}={given.factory.__name__} gives {kinds[0].__name__}, but "
        f"{node.path}={node.factory.__name__} needs {kinds[1].__name__}; choose another {name}, or "
        f"leave {name} out and the problem chooses"
    )


def takes(node: Node, name: str) -> bool:
    """Whether the factory names this positional argument."""
    parameter = inspect.signature(node.factory).parameters.get(name)
    return parameter is not None and parameter.kind is not inspect.Parameter.KEYWORD_ONLY


def _import(path: str, target: str) -> Callable:
    if not str(target).startswith(("src.", "bilevel.")):
        raise UserError(
            f"{path}._target_={target} does not point into src: a config may only call this "
            "project's own factories; write a function under src/ and name it"
        )
    module, _, name = str(target).rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}._target_={target} cannot be imported: {error}") from error
    if not inspect.isfunction(factory):
        raise UserError(f"{path}._target_={target} is not a function")
    return factory
