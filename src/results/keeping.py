"""Storing the result of a finished run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.files import write_json
from src.results.row import Row
from src.results.stored import FORMAT, STORE, without_places
from src.settings.errors import UserError

LONGEST = 20  # entries of a list that is kept


def keep(row: Row, seed: int, folder: Path, cores: int, store: Path = STORE) -> Path:
    """Store the result of a finished run folder; the path of the file.

    Raises UserError where the folder lacks a file that a finished run has.
    """
    try:
        config, result, provenance = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("config", "result", "provenance")
        )
        last = provenance["processes"][-1]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{folder} is no finished run ({error}): remove it, and run the row again"
        ) from error
    content = {
        "format": FORMAT,
        "row": row.name,
        "seed": seed,
        "git": last["git"],
        "machine": {"platform": last["platform"], "devices": last["devices"], "cores": cores},
        "config": without_places(config),
        "result": shortened({**result, "overrides": list(row.overrides)}),
    }
    path = store / row.name / f"{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def shortened(tree: Any) -> Any:
    """Without lists of more than LONGEST entries: curves by lower step, a large x."""
    if isinstance(tree, Mapping):
        kept = {key: value for key, value in tree.items() if not _is_long(value)}
        return {key: shortened(value) for key, value in kept.items()}
    return [shortened(value) for value in tree] if isinstance(tree, list) else tree


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > LONGEST
