"""Overrides with values such as names of folders, written so that Hydra reads them back."""

import re
import shlex

# What Hydra takes for text without quotes; a word of its own or a number is no text.
PLAIN = re.compile(r"[A-Za-z_/.][\w/.+@:-]*", re.ASCII)
WORDS = re.compile(r"null|true|false|inf|nan|\.\d.*", re.IGNORECASE)


def quoted(text: str) -> str:
    """As Hydra's command line reads it as text."""
    # A backslash is doubled where a quotation mark follows, and nowhere else.
    return '"' + re.sub(r'(\\*)("|\Z)', _escaped, text) + '"'


def as_override(key: str, text: str) -> str:
    """key=text for Hydra, in quotes where it needs them."""
    plain = PLAIN.fullmatch(text) and not WORDS.fullmatch(text)
    return f"{key}={text if plain else quoted(text)}"


def as_typed_in_shell(key: str, text: str) -> str:
    """The same as an argument of a command that is typed into a shell."""
    return shlex.quote(as_override(key, text))


def _escaped(match: re.Match[str]) -> str:
    return 2 * match[1] + ('\\"' if match[2] else "")
