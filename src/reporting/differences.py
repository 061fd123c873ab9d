"""What differs between runs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from src.settings.config import CITE, as_typed, dotted
from src.settings.hosts import PROCESS_KEYS

# Not what an experiment is about, or a consequence of what else was chosen: no score depends on it.
APART = (
    *("seed", "seeds", "resume", "traceback", "compilation_cache", "logger"),
    *("log_every", "checkpoint_every", "problem.recommended", "method.recommended"),
    *("tasks_at_once", "platform", "devices", "memory_budget", *PROCESS_KEYS),
)
FIRST = ("problem.name", "method.name", "data._target_", "model._target_", "hypergradient._target_")


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of what an experiment is about."""
    return dotted(config, lambda path: path in APART or path.rpartition(".")[2] == CITE)


def differing(configs: Sequence[Mapping[str, Any]], typed: Collection[str] = ()) -> list[str]:
    """The keys that tell the runs apart.

    All names, top-level keys, and keys that were typed for a run, where they differ; any other
    option of a group only where runs that agree in all keys taken before differ in it, for the
    options of a method follow from its name.
    """
    leaves = [flat(config) for config in configs]
    keys = {key for one in leaves for key in one}
    order = [*FIRST, *sorted(keys - set(FIRST), key=lambda key: (key.count("."), key))]
    chosen: list[str] = []
    for key in order:
        alone = {shown(one, [key]) for one in leaves}
        before = {shown(one, chosen) for one in leaves}
        after = {shown(one, [*chosen, key]) for one in leaves}
        always = "." not in key or key in ("problem.name", "method.name")
        always |= key in typed or (short(key) in typed and short(key) not in map(short, chosen))
        if len(alone) > 1 and (always or len(after) > len(before)):
            chosen.append(key)
    return chosen


def short(key: str) -> str:
    """method for method.name, data for data._target_."""
    return key.removesuffix(".name").removesuffix("._target_")


def typed_keys(overrides: Iterable[str]) -> set[str]:
    """The dotted keys of what was typed: aggregation.alpha of ++aggregation.alpha=0.5."""
    return {text.lstrip("+~").partition("=")[0] for text in overrides}


def shared(configs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, str]:
    """{key: its value} of those of the keys that all runs have alike."""
    leaves = [flat(config) for config in configs]
    values = {key: {shown(one, [key])[0] for one in leaves} for key in keys}
    return {key: found.pop() for key, found in values.items() if len(found) == 1}


def shown(leaves: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    """The values of these keys as text, as they are typed; a dash where a run has no such key."""
    return tuple(_text(key, leaves[key]) if key in leaves else "-" for key in keys)


def _text(key: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if key.endswith("_target_") else as_typed(value)
