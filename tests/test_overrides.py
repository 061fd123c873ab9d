"""Wrong overrides, drawn from the schema: each is refused in one message that names the key."""

import inspect
import types
import typing
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.settings.build import build
from src.settings.checked import Method, Monitor, Settings, WandbOptions
from src.settings.cli import compose_config, message_of
from src.settings.config import NODES, check_node, resolve

COMMANDS = (
    ("problem=ridge", "method=hoag"),
    ("problem=quadratic", "method=bda"),
    ("problem=few_shot", "method=maml", "model=linear", "data=glyphs"),
    ("problem=hyper_cleaning", "method=trhg", "data=digits"),
)
# What is typed, and what it then is.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "7.25": 7.25,
    "12345678901234567890123": 12345678901234567890123,
    "nonsense": "nonsense",
    "''": "",
    "[nonsense]": ("nonsense",),
    "{a:1}": {"a": 1},
    "nan": float("nan"),
    "-inf": float("-inf"),
}


def admits(kind: Any, value: Any) -> bool:
    """Whether a value may be of this type. Any more is up to the factory."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        return any(admits(option, value) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return any(value is option or value == option for option in get_args(kind))
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e300
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(admits(get_args(kind)[0], v) for v in value)
    if get_origin(kind) is dict or hasattr(kind, "_fields"):
        return isinstance(value, dict)
    return kind is Any or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool))


def fields_of(command: tuple[str, ...]) -> dict[str, Any]:
    """{key: type} of all that may be set beside this command."""
    config = resolve(compose_config(list(command))[0])
    fields = dict(get_type_hints(Settings))
    for prefix, kind in {
        "method": Method,
        "problem.monitor": Monitor,
        "logger.wandb": WandbOptions,
    }.items():
        fields |= {f"{prefix}.{name}": of for name, of in get_type_hints(kind).items()}
    for path in NODES:
        node = check_node(path, config[path])
        if node is None:
            continue
        hints = get_type_hints(node.factory)
        fields |= {
            f"{path}.{name}": hints[name]
            for name, parameter in inspect.signature(node.factory).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name in config[path]
        }
    return fields


WRONG = [
    (command, key, text)
    for command in COMMANDS
    for key, kind in fields_of(command).items()
    for text, value in VALUES.items()
    if not admits(kind, value)
]


def refusal(overrides: list[str]) -> str:
    """The message, as src.train would print it. Fails where there is none."""
    try:
        with jax.enable_x64(False):
            build(resolve(compose_config(overrides)[0]))
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        return message
    raise AssertionError("was built")


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(WRONG))
def test_a_wrong_value_is_refused_by_its_key(wrong):
    command, key, text = wrong
    message = refusal([*command, f"{key}={text}"])
    assert key in message, message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("typed", "fragments"),
    [
        ("logger.wandb=true", ["logger.wandb=true", "logger.wandb.mode"]),
        ("problem.monitor=null", ["problem.monitor=null", "problem.monitor.metric"]),
        ("problem.monitor=foo", ["problem.monitor='foo'"]),
        ("problem.name=null", ["problem.name=null"]),
        ("traceback=2", ["traceback=2"]),
        ("num_lower_steps=3000000000", ["num_lower_steps=3000000000", "at most"]),
        (f"logger.wandb.tags=[{'x' * 65}]", ["logger.wandb.tags", "65 characters"]),
        ("method=null", ["method=null", "bda"]),
        ("debug=true", ["debug=true", "short"]),
        ("data=3", ["data=3", "glyphs"]),
        ("logger=[csv]", ["logger=csv", "jsonl"]),
        ("problem=rige", ["problem=rige", "did you mean problem=ridge?"]),
        ("num_iterations=???", ["num_iterations", "give it a value"]),
        ("data.root=~/x", ["data.root=~/x", "'data.root=\"~/x\"'"]),
        ("aggregation._target_=src.certify.main", ["aggregation._target_", "bilevel"]),
        ("problem._target_=src.train.main", ["problem._target_", "src.problems"]),
        ("model._target_=src.data.glyphs.glyphs", ["model._target_", "src.models"]),
        (
            "aggregation._target_=bilevel.lower_optimizers.sgd",
            ["aggregation._target_", "returns Aggregation"],
        ),
    ],
)
def test_what_was_once_a_traceback_or_named_no_key(typed, fragments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", typed])
    message = refusal([typed])
    assert all(fragment in message for fragment in fragments), message
