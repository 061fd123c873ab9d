"""What differs between two configurations, in words."""

from typing import Any


class _Absent:
    """What a key is where it is not there: an option that came later, say."""

    def __repr__(self) -> str:
        return "not there"


ABSENT = _Absent()


def differences(theirs: Any, mine: Any, words: str = "{key} was {first}, now {second}") -> str:
    """The first keys in which two configurations differ, for a message."""
    found = _differences("", theirs, mine)[:4]
    return "; ".join(
        words.format(key=key, first=repr(first), second=repr(second))
        for key, first, second in found
    )


def _differences(path: str, theirs: Any, mine: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        return [
            difference
            for key in {**theirs, **mine}
            for difference in _differences(
                f"{path}.{key}" if path else key, theirs.get(key, ABSENT), mine.get(key, ABSENT)
            )
        ]
    return [] if theirs == mine else [(path, theirs, mine)]
