"""Command lines of key=value pairs that Hydra does not compose: those of a stored run."""

from collections.abc import Mapping, Sequence

from src.settings.checked import LARGEST
from src.settings.config import unknown_key
from src.settings.errors import UserError


def read_options(arguments: Sequence[str], keys: Mapping[str, str]) -> dict[str, str]:
    """The pairs as `read_pairs` gives them. Raises UserError where run is missing, too."""
    options = read_pairs(arguments, keys)
    if "run" not in options:
        raise UserError("run is missing: name a run folder, run=DIR")
    return options


def read_pairs(arguments: Sequence[str], keys: Mapping[str, str]) -> dict[str, str]:
    """{key: value}; `keys` has the meaning of each key.

    Raises UserError on what is no pair, an unknown key, one that is given twice or is empty.
    """
    options: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(
                f"{argument} is not of the form key=value; the keys are {', '.join(keys)}"
            )
        if key not in keys:
            raise UserError(unknown_key("", key, dict(keys)))
        if key in options:
            raise UserError(f"{key} is given twice, {options[key]} and {value}; leave one out")
        if not value:
            raise UserError(f"{key}= is empty: write a value, or leave {key} out")
        options[key] = value
    return options


def whole_number(options: Mapping[str, str], key: str) -> int | None:
    """The value of a key, None where it is left out. Raises UserError on what is no number."""
    if key not in options:
        return None
    text = options[key]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        raise UserError(f"{key}={text} is not a whole number; write digits, as in {key}=5")
    number = int(text) if len(digits) < 20 else LARGEST + 1
    if abs(number) > LARGEST:
        raise UserError(f"{key}={text} is over {LARGEST}, the largest number that is read")
    return number


def one_of(options: Mapping[str, str], key: str, allowed: Sequence[str]) -> str:
    """The value of a key, the first allowed one where it is left out. Raises UserError."""
    value = options.get(key, allowed[0])
    if value not in allowed:
        raise UserError(
            f"{key}={value} is not known; choose {', '.join(allowed[:-1])} or {allowed[-1]}"
        )
    return value
