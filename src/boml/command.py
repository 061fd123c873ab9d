"""A translated BOML file and the rest of its command line become one `python -m src.train`."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from src.boml.file import Row
from src.output.tables import aligned
from src.settings.cli import compose_config
from src.settings.config import NODES, resolve
from src.settings.errors import UserError

GROUPS = ("method", *NODES)
# What else a choice made on the command line chooses: the file's own choice of it does not count.
CHOOSES = {"method": ("aggregation", "hypergradient"), "problem": ("data", "model")}


def replaced(rows: Sequence[Row], typed: Sequence[str]) -> dict[str, str]:
    """The file's overrides that the typed ones replace, and keys that these set: {...: by what}.

    Raises UserError for experiment=..., which sets the same keys as the file.
    """
    by_key = {text.partition("=")[0].lstrip("+~"): text for text in typed}
    if "experiment" in by_key:
        raise UserError(
            f"{by_key['experiment']} and the file both choose all settings: leave out one of them"
        )
    causes = dict(by_key)
    for group, others in CHOOSES.items():
        if group in by_key:
            causes = {**dict.fromkeys(others, by_key[group]), **causes}
    ours = overrides_of_rows(rows)
    lost = {text: causes[key] for text in ours if (key := text.partition("=")[0]) in causes}
    if "method" in by_key:  # its roles too
        lost |= {text: by_key["method"] for text in ours if text.startswith("method.")}
    chosen = [by_key[key] for key in (*GROUPS, "debug") if key in by_key]
    if not chosen:
        return causes | lost
    groups = [text for text in ours if text.partition("=")[0] in GROUPS]
    before = _composed(groups)
    after = _composed([text for text in groups if text not in lost] + chosen)
    for text in ours:
        key = text.partition("=")[0]
        group = key.partition(".")[0]
        if text in lost or key in GROUPS:
            continue
        if _at(after, key) is _MISSING:
            lost[text] = causes.get(group, by_key.get("problem", chosen[0]))
        elif "debug" in by_key and _at(before, key) != _at(after, key):
            lost[text] = by_key["debug"]
    return causes | lost


def overrides_of_rows(rows: Sequence[Row]) -> list[str]:
    """The overrides of all rows, each once, choices of files first."""
    every = dict.fromkeys(text for row in rows for text in row.outcome.overrides)
    return sorted(every, key=lambda text: text.partition("=")[0] not in GROUPS)


def table(rows: Sequence[Row], by: Mapping[str, str]) -> list[str]:
    """A line per key: the key, its value, how it is translated; `by` as `replaced` gives it."""
    return aligned([[row.key, row.value, _told(row, by)] for row in rows])


def _told(row: Row, by: Mapping[str, str]) -> str:
    kind, overrides, note, until = row.outcome
    kept = [text for text in overrides if text not in by]
    lost = dict.fromkeys(by[key] for key in (*overrides, *until) if key in by)
    if lost and not kept:
        return f"replaced: {' '.join(lost)} on the command line"
    if any(key in by for key in until or overrides):
        # The note explains a choice that the command line has replaced: what is left is plain use.
        kind, note = "used", ""
    instead = f"{' '.join(lost)} on the command line" if lost else ""
    return f"{kind}: {'; '.join(filter(None, [' '.join(kept), note, instead]))}"


def command(overrides: Sequence[str]) -> str:
    """The line to paste into a shell."""
    return shlex.join(["python", "-m", "src.train", *overrides])


_MISSING = object()


def _composed(overrides: list[str]) -> dict[str, Any]:
    return resolve(compose_config(overrides)[0])


def _at(config: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return _MISSING
        config = config[name]
    return config
