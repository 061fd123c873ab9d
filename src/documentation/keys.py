"""Every configuration key with its default and meaning, read from conf/ and its comments."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from src.output.tables import markdown
from src.settings.cli import CONF
from src.settings.config import as_typed

# What every file has, and says of itself.
UNLISTED = {"defaults", "problem.name", "method.name"}
# Mappings that are shown as one.
WHOLE = {
    "monitor": "the score that chooses the best state, and whether it is to grow",
    "recommended": "numbers that keys of other groups take, unless something else is chosen",
}


class Key(NamedTuple):
    """One key of a file: its dotted path, its value as it is written, its comment."""

    path: str
    default: Any
    meaning: str


def every_key() -> Iterator[str]:
    """Markdown: the keys of conf/config.yaml, then of each file of each group."""
    yield "## Keys of every run"
    yield ""
    yield from _table(Path(CONF, "config.yaml"), "", hidden="hydra.")
    for group in groups():
        yield from ("", f"## {group}=", "")
        for file in files(group):
            text = file.read_text(encoding="utf-8")
            yield from (f"### {group}={file.stem}", "", _escaped(head(text)), "")
            yield from _table(file, "" if _is_global(text) else f"{group}.", group in presets())


def groups() -> list[str]:
    """The groups that conf/config.yaml composes."""
    return list(_chosen())


def presets() -> set[str]:
    """Those of them that are off unless chosen: their files set keys of other groups."""
    return {name for name, file in _chosen().items() if file is None}


def _chosen() -> dict[str, Any]:
    config = yaml.safe_load(Path(CONF, "config.yaml").read_text(encoding="utf-8"))
    entries = [entry for entry in config["defaults"] if isinstance(entry, dict)]
    return {name: file for entry in entries for name, file in entry.items() if "/" not in name}


def files(group: str) -> list[Path]:
    """The files of a group, by name."""
    return sorted(Path(CONF, group).glob("*.yaml"))


def head(text: str) -> str:
    """The comment at the head of a file."""
    comment = re.sub(r"^# @package.*\n", "", text)
    lines = re.match(r"(?:#.*\n)*", comment)
    return " ".join(line[1:].strip() for line in (lines[0] if lines else "").splitlines())


def keys_of(file: Path) -> list[Key]:
    """The keys of a file in their order; those without a comment have that of a neighbour."""
    known = _meanings(file.parent)
    return [key._replace(meaning=key.meaning or known.get(key.path, "")) for key in _read(file)]


def shown(value: Any) -> str:
    """A default for people: what is taken from elsewhere in words."""
    text = str(value)
    if found := re.fullmatch(r"\$\{problem\.recommended\.(\w+)\}", text):
        return f"`problem.recommended.{found[1]}`"
    if found := re.fullmatch(r"\$\{oc\.env:(\w+),null\}", text):
        return f"`{found[1]}` of the environment"
    if found := re.fullmatch(r"\$\{oc\.select:([\w.]+),(.*)\}", text):
        return f"`{found[1]}`, else {shown(yaml.safe_load(found[2]))}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_typed(one)}" for name, one in value.items())
    return f"`{as_typed(value)}`"


def _table(
    file: Path, prefix: str, is_preset: bool = False, hidden: str | None = None
) -> Iterator[str]:
    """The keys of a file but those that begin with `hidden`; of a preset without a meaning."""
    keys = [key for key in keys_of(file) if hidden is None or not key.path.startswith(hidden)]
    if not keys:
        yield "No options."
        yield ""
        return
    rows = [["key", "value"] if is_preset else ["key", "default", "meaning, unit"]]
    for key in keys:
        default = shown(key.default).replace("|", "\\|")
        row = [f"`{prefix}{key.path}`", default, _escaped(key.meaning)]
        rows.append(row[: len(rows[0])])
    yield from markdown(rows)
    yield ""


def _escaped(text: str) -> str:
    """Text of a comment as Markdown."""
    return re.sub(r"([|*_<\[\]~])", r"\\\1", text)


def _is_global(text: str) -> bool:
    return text.startswith("# @package _global_")


@cache
def _meanings(folder: Path) -> dict[str, str]:
    """{path of a key: its comment} of all files of a folder; the first file that has one wins."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.yaml")):
        for key in _read(file):
            if key.meaning:
                found.setdefault(key.path, key.meaning)
    return found


def _read(file: Path) -> list[Key]:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return list(_keys(root, "", lines)) if isinstance(root, yaml.MappingNode) else []


def _keys(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[Key]:
    for name, value in node.value:
        path = f"{prefix}{name.value}"
        if name.value == "_target_" or path in UNLISTED:
            continue
        if isinstance(value, yaml.MappingNode) and name.value not in WHOLE:
            yield from _keys(value, f"{path}.", lines)
            continue
        default = yaml.SafeLoader("").construct_document(value)
        meaning = WHOLE.get(name.value) or _comment(lines, name.start_mark.line)
        yield Key(path, default, meaning)


def _comment(lines: list[str], number: int) -> str:
    """What stands behind the key, or on the lines of comment before it."""
    if found := re.search(r"\s#\s?(.*)$", lines[number]):
        return found[1].strip()
    above: list[str] = []
    for line in reversed(lines[:number]):
        if not line.lstrip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    at_head = len(above) == number  # the comment of the file, not of its first key
    return "" if at_head else " ".join(above)
