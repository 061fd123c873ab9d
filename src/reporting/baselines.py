"""The runs that others are compared with, as `baseline=` names them."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from src.reporting.differences import short
from src.reporting.groups import Group
from src.settings.errors import UserError


class Baseline(NamedTuple):
    """What `baseline=` names.

    groups   those that fit
    within   the keys that tell these apart: a row is compared with the one that has its values
    """

    groups: list[Group]
    within: list[str]


def chosen_baseline(
    keys: Sequence[str], groups: Sequence[Group], text: str | None
) -> Baseline | None:
    """Raises UserError where the text names no group, or where no row has a single one."""
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
    within = [key for i, key in enumerate(keys) if len({g.options[i] for g in fitting}) > 1]
    chosen = Baseline(fitting, within)
    pairs = [(group, baseline_of(keys, chosen, group)) for group in groups]
    compared = any(other is not None and other is not group for group, other in pairs)
    if not fitting or (len(fitting) > 1 and not compared):
        example = (fitting or groups)[0]
        listed = ",".join(
            f"{short(key)}={_comma_kept(value)}"
            for key, value in zip(keys, example.options, strict=True)
        )
        other = f", and no other row has one with the same {_listed(within)}" if fitting else ""
        raise UserError(
            f"baseline={text} fits {len(fitting)} groups of runs{other}; name one, for example "
            + shlex.quote(f"baseline={listed}")
        )
    return chosen


def baseline_of(keys: Sequence[str], baseline: Baseline, group: Group) -> Group | None:
    """The group that this one is compared with: itself where it is a baseline."""
    places = [keys.index(key) for key in baseline.within]
    for other in baseline.groups:
        if other is group or (
            not any(of is group for of in baseline.groups)
            and all(other.options[i] == group.options[i] for i in places)
        ):
            return other
    return None


def in_words(keys: Sequence[str], baseline: Baseline) -> str:
    """What rows are compared with: "method=rhg of the same step_size, where there is one"."""
    first = baseline.groups[0].options
    named = [
        f"{short(key)}={value}"
        for key, value in zip(keys, first, strict=True)
        if key not in baseline.within and value != "-"
    ]
    text = ", ".join(named) or "the baseline"
    if not baseline.within:
        return text
    return f"{text} of the same {_listed(baseline.within)} (a dash: none)"


def _listed(keys: Sequence[str]) -> str:
    return " and ".join(short(key) for key in keys)


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
