"""BOML's JSON files: read, checked, and translated key by key into options of ours."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from src.boml.options import Options, Outcome, dead
from src.boml.outcomes import outcomes
from src.settings.config import check, unknown_key
from src.settings.errors import UserError

# What a file leaves out is set to BOML's default, but for keys that change no method: there ours.
OURS = ("bda_s", "bda_t", "resume", "print_interval", "save_interval", "test_episodes")
HINT = "; names and texts need double quotes, and no comma follows the last entry"
SKIPPED = ("continue_from", "gpu_to_use")  # BOML skipped any key that contains one of these


class Row(NamedTuple):
    """One key; `value` is the file's, as JSON, or BOML's default where the file leaves it out."""

    key: str
    value: str
    in_file: bool
    outcome: Outcome


def read(path: str) -> dict[str, Any]:
    """The object in a BOML file. Raises UserError, the file's name first, on anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a BOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: name a BOML file") from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not JSON: {error.msg}{HINT}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON: nested too deeply{HINT}") from error
    except ValueError as error:  # what Python says of such a number is no help here
        raise UserError(
            f"{path}: not JSON: a whole number of thousands of digits; write a smaller one"
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds {json.dumps(content)[:40]}, no object: write "
            '{"method": "MetaFeat", "T": 5, ...}'
        )
    return content


def translate(path: str, content: Mapping[str, Any], parity: bool) -> list[Row]:
    """A row per key of the file, then those of BOML's defaults that matter and that it leaves out.

    `parity`: BOML's choices where there is a switch for them. Raises UserError, the file's name
    first, for a key that BOML never had, a value of a wrong type, and options that do not go
    together.
    """
    skipped = [key for key in content if any(part in key for part in SKIPPED)]
    try:
        options = _checked({key: value for key, value in content.items() if key not in skipped})
        if options.mode == "test":
            raise UserError(
                '"mode": "test" trains nothing, and no checkpoint of BOML can be read; a run of '
                f"ours is tested by: python -m src.evaluate run=DIR num_lower_steps={options.T}"
            )
        outcome_of = outcomes(options, parity)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    rows = []
    for key, value in content.items():
        outcome = dead("skipped when the file was read")
        if key in outcome_of:
            outcome = _as_text(outcome_of[key], value, getattr(options, key))
        rows.append(Row(key, json.dumps(value), True, outcome))
    left_out = [key for key in outcome_of if key not in content and key not in OURS]
    rows += [
        Row(key, json.dumps(getattr(options, key)), False, outcome_of[key])
        for key in left_out
        if outcome_of[key].overrides
    ]
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise UserError(f"{key} stands there twice; keep one of them")
        if not _is_finite(value):
            raise UserError(
                f"{key}={json.dumps(value)[:40]}: NaN, Infinity and numbers that overflow are no "
                "JSON; write a finite number"
            )
        content[key] = value
    return content


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _as_bool(value: Any) -> Any:
    """As BOML read its files, text that says true or false is a boolean."""
    spelled = {"true": True, "false": False}
    return spelled.get(value.lower(), value) if isinstance(value, str) else value


def _checked(content: Mapping[str, Any]) -> Options:
    hints, defaults = get_type_hints(Options), Options()._asdict()
    values = {}
    for key, value in content.items():
        if key not in hints:
            raise UserError(unknown_key("", key, hints))
        read_as = _as_bool(value) if hints[key] is bool else value
        try:
            values |= check("", {key: hints[key]}, {key: read_as})
        except UserError as error:
            example = json.dumps({key: defaults[key]})[1:-1]
            raise UserError(f"{error}; write for example {example}") from error
    return Options(**values)


def _as_text(outcome: Outcome, value: Any, read_as: Any) -> Outcome:
    """What becomes of a boolean, where the file says it as text."""
    if not isinstance(read_as, bool) or not isinstance(value, str):
        return outcome
    why = f"the text {json.dumps(value)} is read as {json.dumps(read_as)}"
    note = "; ".join(filter(None, (why, outcome.note)))
    return outcome._replace(kind="corrected", note=note)
