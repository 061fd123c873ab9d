"""Runs as their folders tell them: configuration, result, or the reason why there is none."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from src.reporting.differences import APART, typed_keys
from src.running.run_folder import FAILURE
from src.settings.sweep import Failure, read_failures

DEEPEST = 6  # folders between a folder that is named and a run


class StoredRun(NamedTuple):
    """One run folder.

    config    the resolved configuration, {} where it cannot be read
    result    result.json, None where there is none
    problem   why there is no result, "" where there is one
    refused   why a later command with other options was refused in this folder, "" where none was
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    problem: str
    refused: str = ""


def find_runs(folders: Sequence[Path]) -> list[StoredRun]:
    """The runs in and below these folders, by path, each once; refused jobs of a sweep too.

    Where start_from differs by the own seed of each run alone, it reads seed=* in all of them.
    """
    found: dict[Path, StoredRun] = {}
    failures: list[tuple[Path, Failure]] = []
    for folder in folders:
        for path in _folders(folder, DEEPEST):
            if _is_run(path):
                found.setdefault(path.resolve(), read_run(path))
            else:
                failures += [(_here(path, of.folder), of) for of in read_failures(path)]
    for path, failure in failures:
        run = found.get(path.resolve(), StoredRun(path, {}, None, ""))
        if run.result is None:
            run = run._replace(problem=f"{failure.reason} ({failure.overrides})")
        elif not _is_of(failure, run.result):
            run = run._replace(refused=failure.reason)
        found[path.resolve()] = run
    return _starts_of_any_seed([found[path] for path in sorted(found)])


def _here(sweep_dir: Path, folder: Path) -> Path:
    """Where a failed job's folder lies now: its path is of the machine that the sweep ran on.

    The last parts of the path that are found in this sweep's folder; the name alone where none is,
    for a refused job has no folder.
    """
    if folder.resolve().is_relative_to(sweep_dir.resolve()):
        return folder
    parts = folder.parts[1:] if folder.is_absolute() else folder.parts
    tails = [sweep_dir.joinpath(*parts[i:]) for i in range(len(parts))]
    return next((tail for tail in tails if tail.is_dir()), sweep_dir / folder.name)


def _is_of(failure: Failure, result: Mapping[str, Any]) -> bool:
    """Whether the job that failed was typed like the run that has this result.

    Then it was the same run, as where another process was still at it.
    """
    typed = _about_scores(failure.overrides.split())
    return typed == _about_scores(" ".join(result.get("overrides", [])).split())


def _about_scores(overrides: Sequence[str]) -> set[str]:
    others = set(APART) - {"seed", "seeds"}
    return {text for text in overrides if not typed_keys([text]) & others}


def _starts_of_any_seed(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """With start_from=...seed=${seed} as one option of all seeds, so that they make one row."""

    typed = [str(run.config.get("start_from")) for run in runs]
    of_any_seed = [
        re.sub(rf"(seed[=_-]?){re.escape(str(run.config.get('seed')))}(?!\d)", r"\1*", start)
        for run, start in zip(runs, typed, strict=True)
    ]
    # A start that all runs share is typed alike, whatever seed is in its name.
    kinds = Counter(start for start, _ in set(zip(of_any_seed, typed, strict=True)))
    return [
        run._replace(config={**run.config, "start_from": start}) if kinds[start] > 1 else run
        for run, start in zip(runs, of_any_seed, strict=True)
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
    listed = [*found.get("per_seed", {}).values()]
    listed += [found["best/step"]] if isinstance(found.get("best/step"), list) else []
    numbers = all(_are_numbers(curve) for curve in curves)
    number = len(found.get("seeds", []))
    return numbers and all(_are_numbers(of, None) and len(of) == number for of in listed)


def _are_numbers(values: Any, *others: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) or value in others for value in values
    )


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and those below it, down to those of runs."""
    yield folder
    if _is_run(folder) or not depth or not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
            yield from _folders(child, depth - 1)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "identity.json").is_file()


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
