"""`over=KEY`: the values of another option in the place of the seeds."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from src.reporting.differences import flat
from src.reporting.groups import all_seeds, in_order
from src.reporting.stored import StoredRun
from src.settings.config import as_typed
from src.settings.errors import UserError

MOST_FOLDERS = 12  # in a message


def with_values_as_seeds(runs: Sequence[StoredRun], key: str) -> list[StoredRun]:
    """Finished runs, each with its value of this key for its seed, and without the key.

    Raises UserError where the key is not known, has one value, or where seeds differ as well.
    """
    if key in ("seed", "seeds"):
        raise UserError(f"over={key}: a row is a mean over its seeds anyway; leave over= out")
    leaves = [flat(run.config) for run in runs]
    known = {name for of in leaves for name in of}
    if key not in known:
        near = _near(key, known)
        hint = f"did you mean over={' or over='.join(near)}?" if near else "write it in full"
        raise UserError(f"over={key}: no run has this option; {hint}")
    texts = {as_typed(of.get(key)) for of in leaves}
    if len(texts) == 1:
        raise UserError(
            f"over={key}: it is {texts.pop()} in all runs, so there is nothing to take a mean "
            "over; leave over= out"
        )
    _refuse_several_seeds(runs, key)
    numbers = all(type(of.get(key)) is int for of in leaves)
    return [
        run._replace(
            config={
                **_without(run.config, key.split(".")),
                "seed": of[key] if numbers else as_typed(of.get(key)),
            }
        )
        for run, of in zip(runs, leaves, strict=True)
    ]


def _near(key: str, known: Iterable[str]) -> list[str]:
    """Keys like this one: of the same last word first, since a group is forgotten most."""
    last = {name: name.rpartition(".")[2] for name in sorted(known)}
    words = get_close_matches(key.rpartition(".")[2], set(last.values()), n=1, cutoff=0.75)
    same = [name for name, word in last.items() if word in words]
    return (same or get_close_matches(key, list(last), n=2))[:3]


def _refuse_several_seeds(runs: Sequence[StoredRun], key: str) -> None:
    seeds = in_order({seed for run in runs for seed in all_seeds(run)})
    if len(seeds) == 1:
        return
    first = [str(run.folder) for run in runs if all_seeds(run) == [seeds[0]]]
    instead = f"the folders of the runs with seed={seeds[0]}"
    if 1 < len(first) <= MOST_FOLDERS:
        instead = f"python -m src.report {shlex.join([*first, f'over={key}'])}"
    only = f"name the runs of one seed alone ({instead}), or " if first else ""
    raise UserError(
        f"over={key}: the runs have several seeds too ({', '.join(map(str, seeds))}), and a mean "
        f"over both has no interval of one kind; {only}leave over= out"
    )


def _without(tree: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The tree less the leaf at this path."""
    name, *rest = path
    kept = {key: value for key, value in tree.items() if key != name}
    below = tree.get(name)
    return {**kept, name: _without(below, rest)} if rest and isinstance(below, Mapping) else kept
