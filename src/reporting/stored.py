"""Runs as their folders tell them: configuration, result, or the reason why there is none."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from src.running.run_folder import FAILURE
from src.settings.sweep import read_failures

DEEPEST = 6  # folders between a folder that is named and a run


class StoredRun(NamedTuple):
    """One run folder.

    config    the resolved configuration, {} where it cannot be read
    result    result.json, None where there is none
    problem   why there is no result, "" where there is one
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    problem: str


def find_runs(folders: Sequence[Path]) -> list[StoredRun]:
    """The runs in and below these folders, by path, each once; refused jobs of a sweep too.

    Where start_from differs by the own seed of each run alone, it reads seed=* in all of them.
    """
    found: dict[Path, StoredRun] = {}
    for folder in folders:
        for path in _run_folders(folder, DEEPEST):
            found.setdefault(path.resolve(), read_run(path))
        for failure in read_failures(folder):
            path = failure.folder.resolve()
            run = found.get(path, StoredRun(failure.folder, {}, None, ""))
            if run.result is None:
                found[path] = run._replace(problem=f"{failure.reason} ({failure.overrides})")
    return _starts_of_any_seed([found[path] for path in sorted(found)])


def _starts_of_any_seed(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """With start_from=...seed=${seed} as one option of all seeds, so that they make one row."""

    def start_of(run: StoredRun, changed: bool) -> str:
        start, seed = str(run.config.get("start_from")), re.escape(str(run.config.get("seed")))
        return re.sub(rf"(seed[=_-]?){seed}(?!\d)", r"\1*", start) if changed else start

    typed: dict[str, set[str]] = {}
    for run in runs:
        typed.setdefault(start_of(run, True), set()).add(start_of(run, False))
    return [
        run._replace(config={**run.config, "start_from": start})
        if len(typed[start := start_of(run, True)]) > 1
        else run
        for run in runs
    ]


def read_run(folder: Path) -> StoredRun:
    """One run; what is damaged is said in `problem`."""
    config = _json(folder / "config.json")
    if not isinstance(config, dict):
        return StoredRun(folder, {}, None, "config.json cannot be read")
    if not (folder / "result.json").exists():
        return StoredRun(folder, config, None, _how_far(folder, config))
    result = _json(folder / "result.json")
    if not _is_result(result):
        return StoredRun(folder, config, None, "result.json cannot be read")
    return StoredRun(folder, config, result, "")


def _is_result(found: Any) -> bool:
    """Whether this has the form of a result, as far as a report reads it."""
    if not isinstance(found, dict) or not isinstance(found.get("monitor"), str):
        return False
    kinds = {"adaptation": dict, "per_seed": dict, "failed_seeds": dict, "versions": dict}
    kinds |= {"seeds": list, "overrides": list, "cite": list}
    if not all(isinstance(found.get(name, kind()), kind) for name, kind in kinds.items()):
        return False
    curves = found.get("adaptation", {}).values()
    listed = found.get("per_seed", {}).values()
    numbers = all(_are_numbers(curve) for curve in curves)
    number = len(found.get("seeds", []))
    return numbers and all(_are_numbers(of, None) and len(of) == number for of in listed)


def _are_numbers(values: Any, *others: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) or value in others for value in values
    )


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.json").is_file() and (folder / "identity.json").is_file():
        yield folder
        return
    if not depth or not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _run_folders(child, depth - 1)


def _how_far(folder: Path, config: Mapping[str, Any]) -> str:
    with suppress(OSError):
        return (folder / FAILURE).read_text(encoding="utf-8").strip()
    steps = [p.name for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    done = max(map(int, steps), default=0)
    return f"unfinished: a checkpoint of {done} of {config.get('num_iterations', '?')} iterations"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
