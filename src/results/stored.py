"""Stored results: results/ROW/SEED.json, which holds result.json and what it was made with."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from src.results.row import Row
from src.settings.config import CITE, dotted

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "results"
FORMAT = 1
OF_A_MACHINE = ("root", "path", "validation_path")  # keys of data that say where it lies there


class Stored(NamedTuple):
    """One file.

    content   {} where it cannot be used
    problem   why it cannot be used, "" where it can
    """

    content: Mapping[str, Any]
    problem: str = ""

    @property
    def result(self) -> Mapping[str, Any]:
        """result.json, without long lists."""
        return self.content["result"]

    @property
    def minutes(self) -> float:
        """Minutes of training, compilation with it."""
        return self.result["seconds"] / 60

    @property
    def machine(self) -> str:
        """The accelerator, or how many cores there were."""
        machine = self.content["machine"]
        device = machine["devices"][0]
        cores = f"{machine['cores']} CPU core{'s' if machine['cores'] > 1 else ''}"
        return cores if device == "cpu" else str(device)


def stored_of(row: Row, store: Path = STORE) -> dict[int, Stored]:
    """{seed: what is stored}, of the row's seeds alone."""
    paths = {seed: store / row.name / f"{seed}.json" for seed in row.seeds}
    return {seed: read(path, row) for seed, path in paths.items() if path.exists()}


def usable(stored: Mapping[int, Stored]) -> dict[int, Stored]:
    """Those without a problem."""
    return {seed: one for seed, one in stored.items() if not one.problem}


def results_of(stored: Mapping[int, Stored]) -> dict[int, Mapping[str, Any]]:
    """{seed: its result.json}."""
    return {seed: one.result for seed, one in stored.items()}


def read(path: Path, row: Row) -> Stored:
    """One stored result; what is wrong with it is said in `problem`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Stored({}, f"{path} cannot be read ({type(error).__name__})")
    problem = _of_another_version(content) or _damage(content, row)
    return Stored({}, f"{path} {problem}") if problem else Stored(content)


def differing_keys(stored: Stored, config: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between the stored run and what the row's command gives now.

    Of keys that both have: an option that came later is taken to have changed nothing by itself.
    """
    theirs, mine = (
        dotted(one, _is_said) for one in (stored.content["config"], without_places(config))
    )
    return sorted(key for key in theirs.keys() & mine.keys() if theirs[key] != mine[key])


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without folders of one machine and without what shows or stores a run."""
    apart = ("logger", "compilation_cache", "traceback", "resume")
    kept = {key: value for key, value in config.items() if key not in apart}
    data = {key: value for key, value in kept["data"].items() if key not in OF_A_MACHINE}
    return json.loads(json.dumps({**kept, "data": data}))


def code_version() -> str | None:
    """The version of this package where it is installed."""
    try:
        return version("bilevel")
    except PackageNotFoundError:
        return None


def _of_another_version(content: Any) -> str:
    if not isinstance(content, dict):
        return "is no stored result"
    if content.get("format") != FORMAT:
        return (
            f"is in format {content.get('format')}, this code reads format {FORMAT}: it is not "
            "compared; run the row with keep=true to store it anew"
        )
    try:
        theirs = content["result"]["versions"]["packages"]["bilevel"]
    except (KeyError, TypeError):
        return "lacks the versions it was made with: it is not compared"
    mine = code_version()
    if theirs != mine and None not in (theirs, mine):
        return (
            f"is of version {theirs} of the code, this is {mine}: it is not compared; run the row "
            "with keep=true to store it anew"
        )
    return ""


def _damage(content: Mapping[str, Any], row: Row) -> str:
    """What is missing of all that is read from it."""
    try:
        numbers = [content["result"]["seconds"], *(content["result"][q.score] for q in row.quoted)]
        machine = content["machine"]["cores"], content["machine"]["devices"][0], content["config"]
        whole = all(isinstance(number, int | float) for number in numbers) and all(machine)
    except (KeyError, TypeError, IndexError) as error:
        return f"lacks {error}: it is damaged, or of an older table of rows"
    return "" if whole else "is damaged: a number in it is none"


def _is_said(path: str) -> bool:
    """Of references, and of numbers that other keys take over."""
    return path.rpartition(".")[2] in (CITE, "recommended")
