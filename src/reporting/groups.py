"""Runs that differ by their seed alone, as one: means, 95 % intervals, paired differences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from src.reporting.differences import flat, shown
from src.reporting.stored import StoredRun
from src.running.intervals import mean_and_half_width

Seed = int | str  # text: the value of an option that stands in its place
PER_SEED = "seconds per seed"
# Of a run, not of what it learned.
COSTS = (PER_SEED, "iterations_per_second", "cpu_seconds_per_iteration", "peak_memory_mib")


class Group(NamedTuple):
    """Runs of the same options.

    options    the values of the keys that differ between groups
    scores     {seed: {name: score}}
    runs       that these are of, all finished
    repeated   {a folder: (its seeds that are not counted, the folder whose scores are)}
    """

    options: tuple[str, ...]
    scores: Mapping[Seed, Mapping[str, float]]
    runs: tuple[StoredRun, ...]
    repeated: Mapping[str, tuple[list[Seed], str]]

    def values(self, name: str) -> dict[Seed, float]:
        """{seed: the score of this name} where it is a number."""
        found = {seed: of.get(name, math.nan) for seed, of in self.scores.items()}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}

    def ignores_seed(self) -> bool:
        """Whether several seeds gave exactly the same scores: there is nothing random then.

        A run of one seed has names that those of several have not, as an interval over its tasks.
        """
        scores = list(self.scores.values())
        if len(scores) < 2:
            return False
        shared = set.intersection(*map(set, scores)).difference(COSTS)
        return all(len({of[name] for of in scores}) == 1 for name in shared)

    def drawn(self) -> list[StoredRun]:
        """Runs that share no seed, for a curve is a mean over whole runs: those of most first."""
        taken: set[Seed] = set()
        chosen: list[StoredRun] = []
        for run in sorted(self.runs, key=lambda run: -len(all_seeds(run))):
            if taken.isdisjoint(all_seeds(run)):
                taken.update(all_seeds(run))
                chosen.append(run)
        return [run for run in self.runs if run in chosen]


def grouped(runs: Sequence[StoredRun], keys: Sequence[str]) -> list[Group]:
    """One group for each combination of values of the keys, in the order of the runs."""
    members: dict[tuple[str, ...], list[StoredRun]] = {}
    for run in runs:
        if run.result is not None:
            members.setdefault(shown(flat(run.config), keys), []).append(run)
    return [_group(options, of) for options, of in members.items()]


def _group(options: tuple[str, ...], runs: Sequence[StoredRun]) -> Group:
    """The first of several runs of one seed counts: the others would be no further evidence."""
    scores: dict[Seed, dict[str, float]] = {}
    folders: dict[Seed, str] = {}
    counted: list[StoredRun] = []
    repeated: dict[str, tuple[list[Seed], str]] = {}
    for run in runs:
        found = by_seed(run)
        again = in_order(found.keys() & scores.keys())
        if again:
            repeated[str(run.folder)] = (again, folders[again[0]])
        if not again or len(again) < len(found):
            counted.append(run)
        for seed in found.keys() - scores.keys():
            scores[seed] = found[seed]
            folders[seed] = str(run.folder)
    return Group(options, scores, tuple(counted), repeated)


def all_seeds(run: StoredRun) -> list[Seed]:
    """The seeds of a finished run, those that failed among them."""
    own = run.config.get("seed", 0)
    return (run.result or {}).get("seeds") or [own if isinstance(own, str) else int(own)]


def in_order(seeds: Iterable[Seed]) -> list[Seed]:
    """Numbers by their size, then text."""
    return sorted(seeds, key=lambda of: (1, 0, of) if isinstance(of, str) else (0, of, ""))


def by_seed(run: StoredRun) -> dict[Seed, dict[str, float]]:
    """{seed: {name: score}} of a finished run, of all its seeds where it has several."""
    result, seeds = run.result or {}, all_seeds(run)
    own = {
        name: float(value)
        for name, value in result.items()
        if isinstance(value, int | float) and (("/" in name) or name in COSTS)
    }
    if isinstance(result.get("seconds"), int | float):
        own[PER_SEED] = result["seconds"] / len(seeds)
    if "per_seed" not in result:
        return {seeds[0]: own}
    shared = {name: own[name] for name in COSTS if name in own}
    listed = {**result["per_seed"], "best/step": result.get("best/step")}
    listed = {name: values for name, values in listed.items() if isinstance(values, list)}
    return {
        seed: shared | {name: values[i] for name, values in listed.items() if values[i] is not None}
        for i, seed in enumerate(seeds)
        if str(seed) not in result.get("failed_seeds", {})
    }


def summary(values: Mapping[Seed, float]) -> tuple[float, float | None]:
    """Mean over seeds and half of its 95 % interval (Student's t); None for one seed."""
    mean, half = mean_and_half_width(np.array(list(values.values())), axis=0)
    return float(mean), None if half is None else float(half)


def paired(
    values: Mapping[Seed, float], baseline: Mapping[Seed, float]
) -> tuple[float, float | None, int] | None:
    """Mean difference over the seeds that both have, its half-width, and their number.

    Runs of one seed share tasks and starts, so the difference is known better than its terms.
    """
    both = in_order(values.keys() & baseline.keys())
    if not both:
        return None
    mean, half = summary({seed: values[seed] - baseline[seed] for seed in both})
    return mean, half, len(both)
