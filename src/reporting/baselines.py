"""The runs that others are compared with, as `baseline=` names them."""

import shlex
from collections.abc import Sequence

from src.reporting.differences import short
from src.reporting.groups import Group
from src.settings.errors import UserError


def chosen_baseline(keys: Sequence[str], groups: Sequence[Group], text: str | None) -> Group | None:
    if text is None:
        return None
    wanted = [part.partition("=") for part in _pairs(text)]
    names = {short(key): i for i, key in enumerate(keys)} | {key: i for i, key in enumerate(keys)}
    for key, equals, _ in wanted:
        if not equals or key not in names:
            listed = ", ".join(short(key) for key in keys) or "nothing"
            raise UserError(f"baseline={text}: {key} does not differ here; there is {listed}")
    values = {names[key]: _unquoted(value) for key, _, value in wanted}
    fitting = [g for g in groups if all(g.options[i] == value for i, value in values.items())]
    if len(fitting) != 1:
        options = zip(keys, groups[0].options, strict=True)
        example = ",".join(f"{short(key)}={_comma_kept(value)}" for key, value in options)
        raise UserError(
            f"baseline={text} fits {len(fitting)} groups of runs; name one, for example "
            + shlex.quote(f"baseline={example}")
        )
    return fitting[0]


def _pairs(text: str) -> list[str]:
    """The text cut at its commas, but for those in brackets and in quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _comma_kept(value: str) -> str:
    return value if _pairs(value) == [value] else f'"{value}"'


def _unquoted(value: str) -> str:
    quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quotes else value
