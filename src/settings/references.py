"""What a run cites: entries of docs/references.bib, which the files under conf/ name by key."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from src.settings.config import CITE
from src.settings.errors import UserError

FILE = Path(__file__).resolve().parents[2] / "docs/references.bib"
ALWAYS = ("bradbury2018jax",)  # every run uses it


class Reference(NamedTuple):
    """One entry: its BibTeX text, and its fields without braces."""

    text: str
    fields: Mapping[str, str]

    def short(self) -> str:
        """Finn et al., ICML 2017, arXiv 1703.03400."""
        names = [name.partition(",")[0] for name in self.fields.get("author", "").split(" and ")]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        place = self.fields.get("booktitle") or self.fields.get("journal", "")
        known = re.search(r"\((\w+)\)$", place)  # its usual abbreviation
        when = f"{known[1] if known else place} {self.fields.get('year', '')}".strip()
        eprint = self.fields.get("eprint")
        return ", ".join([who, when, *([f"arXiv {eprint}"] if eprint else [])])


@cache  # every configuration that is built asks for it
def read_references(file: Path = FILE) -> Mapping[str, Reference]:
    """{key: entry}, in the order of the file. One field per line. Raises UserError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): runs cite what stands there") from error
    found: dict[str, Reference] = {}
    for entry in re.finditer(r"^@\w+\{\s*([^,\s]+)\s*,\n.*?^\}", text, re.MULTILINE | re.DOTALL):
        fields = re.findall(r"^\s*(\w+)\s*=\s*[{\"](.*)[}\"],?\s*$", entry[0], re.MULTILINE)
        found[entry[1]] = Reference(entry[0], {name: _plain(value) for name, value in fields})
    return found


def cited(config: Mapping[str, Any]) -> list[str]:
    """The keys that the chosen files name, each once, and those of what every run uses.

    Raises UserError where a key is not in docs/references.bib.
    """
    known = read_references()
    found: dict[str, None] = {}
    for path, key in _keys(config, ""):
        if key not in known:
            raise UserError(
                f"{path}: docs/references.bib has no entry {key}; add one there, or leave the key "
                "out"
            )
        found[key] = None
    return [*found, *(key for key in ALWAYS if key not in found)]


def bibliography(keys: list[str]) -> str:
    """The BibTeX of these entries; keys that the file no longer has are left out."""
    known = read_references()
    return "\n\n".join(known[key].text for key in keys if key in known) + "\n"


def _keys(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        path = f"{prefix}{name}"
        if name == CITE:
            for key in _listed(path, value):
                yield path, key
        elif isinstance(value, Mapping):
            yield from _keys(value, f"{path}.")
        elif path in OF_OPTIONS and value == OF_OPTIONS[path][0]:
            yield path, OF_OPTIONS[path][1]


def _listed(path: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise UserError(
            f"{path}={value!r} must be a list of keys of docs/references.bib: {path}=[]"
        )
    return value


# (value, key) of options that have a paper of their own with this value.
OF_OPTIONS = {
    "aggregation.law": ("tpami", "liu2023general"),
    "method.learn_start": ("network", "kao2022maml"),
}

_ACCENTS = {"'": "\u0301", '"': "\u0308", "^": "\u0302", "`": "\u0300", "~": "\u0303"}


def _plain(value: str) -> str:
    """A field as people read it: accents put on their letters, braces left out."""
    value = re.sub(r"\\(['\"^`~])\{?(\w)\}?", lambda m: m[2] + _ACCENTS[m[1]], value)
    return unicodedata.normalize("NFC", value.replace(r"\^{}", "^").translate({123: "", 125: ""}))
