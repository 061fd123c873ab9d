"""Wrong overrides, drawn from the schema: each is refused in one message that names the key."""

import errno
import inspect
import shlex
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from src.settings.build import build
from src.settings.checked import Method, Monitor, Settings, WandbOptions
from src.settings.cli import compose_config, message_of
from src.settings.config import NODES, check_node, resolve
from src.settings.overrides import as_override, as_typed_in_shell

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
    if get_origin(kind) is Callable:  # of the library alone
        return False
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


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(st.sampled_from("ab1.,=/ @'\"\\()[]{}$é~#*?:-\t"), min_size=1))
def test_a_printed_override_is_read_back_by_the_shell_and_by_hydra(text):
    (typed,) = shlex.split(as_typed_in_shell("start_from", text))
    assert typed == as_override("start_from", text)
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert not override.is_sweep_override()
    assert override.value() == text


@pytest.mark.parametrize("text", ["null", "True", "12", "1e3", ".5", "inf", "nan"])
def test_words_and_numbers_are_printed_as_text(text):
    (override,) = OverridesParser.create().parse_overrides([as_override("start_from", text)])
    assert override.value() == text


def test_common_folders_are_printed_without_quotes():
    for text in ("runs/mine", "/tmp/a_b-c/2026-11-28@best", "C:/a"):
        assert as_typed_in_shell("hydra.run.dir", text) == f"hydra.run.dir={text}"
    printed = as_typed_in_shell("start_from", "runs/method=rhg,seed=0@best")
    assert printed == "'start_from=\"runs/method=rhg,seed=0@best\"'"


def test_only_a_program_with_a_folder_of_runs_offers_another():
    error = PermissionError(errno.EACCES, "Permission denied", "/a")
    assert message_of(error) == "/a cannot be opened (Permission denied)"
    assert message_of(error, "hydra.run.dir") == (
        "/a cannot be written (Permission denied): choose another hydra.run.dir"
    )
    full = OSError(errno.ENOSPC, "No space left on device", "/a")
    assert message_of(full) == "/a cannot be written (No space left on device)"


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (
            "start_from=runs/mine/method=rhg,seed=0@best",
            "because of the = in it; write such a value in both quotes: "
            "'start_from=\"runs/mine/method=rhg,seed=0@best\"'",
        ),
        ("hydra.run.dir=runs/seed=0", "'hydra.run.dir=\"runs/seed=0\"'"),
        ("data.root=/tmp/a (1)", "because of the ( in it; write such a value in both quotes"),
    ],
)
def test_a_folder_with_signs_of_hydra_is_answered_by_its_quoted_form(typed, printed):
    with pytest.raises(HydraException) as error:
        compose_config([typed])
    message = message_of(error.value)
    assert message is not None
    assert f"{typed} cannot be read" in message
    assert printed in message
