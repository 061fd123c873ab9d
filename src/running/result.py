"""What result.json says: the scores of the last and of the best states, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from bilevel.types import Tree
from src.running.best import with_best
from src.running.evaluation import Evaluate, Scores, as_curve, as_numbers, averaged, scored_split
from src.running.failures import in_scores, leave_out
from src.running.provenance import peak_memory_mib, versions
from src.running.run_folder import Run
from src.running.snapshot import Snapshot
from src.settings.build import Experiment
from src.settings.checked import Settings
from src.settings.placing import on_host

MAX_LISTED_ENTRIES = 1000


def described(experiment: Experiment, overrides: Sequence[str]) -> dict[str, Any]:
    """Which run this is: problem, method, seed, what was typed for it, what it cites, versions."""
    return {
        "problem": experiment.problem_name,
        "method": experiment.method.name,
        "seed": experiment.settings.seed,
        "overrides": list(overrides),
        "cite": experiment.cite,
        "versions": versions(),
    }


def result_of(run: Run, evaluate: Evaluate, curve: Evaluate, trained: Snapshot) -> dict[str, Any]:
    """Final scores under their logged names; those of the best states behind "best/".

    evaluate: after all lower steps, curve: after each. Without test data no score is called one.
    Of several seeds the means, and under "per_seed" what they are means of; null there is a seed
    that failed.
    """
    experiment = run.experiment
    settings, monitor = experiment.settings, experiment.monitor
    split, num_tasks = scored_split(experiment)

    def held_out(state: AlgorithmState) -> list[Scores]:
        validation = evaluate(state, "validation", settings.num_validation_tasks)
        return [validation, *([curve(state, split, num_tasks)] if split == "test" else [])]

    final = held_out(trained.state)
    progress = trained.progress
    for scores in final:
        progress = leave_out(run, progress, in_scores(scores.last(), settings.num_iterations))
    alive = progress.alive()
    by_step = final[-1] if split == "test" else curve(trained.state, split, num_tasks)

    judged = trained._replace(progress=progress)
    judged = with_best(judged, monitor, final[0].last()[monitor.metric])
    best_step = judged.progress.best_step
    is_last = all(step == progress.step for step, on in zip(best_step, alive, strict=True) if on)
    best = final if is_last else held_out(judged.best)

    def numbers(parts: Sequence[Scores], prefix: str = "") -> dict[str, float]:
        means = [as_numbers(averaged(scores, alive)) for scores in parts]
        return {f"{prefix}{name}": value for part in means for name, value in part.items()}

    several = settings.seeds > 1
    result: dict[str, Any] = {
        **numbers(final),
        **numbers(best, "best/"),
        "best/step": list(best_step) if several else best_step[0],
        "monitor": monitor.metric,
        "iterations": settings.num_iterations,
        "seconds": progress.seconds,
        "iterations_per_second": progress.iterations_per_second(),
        "cpu_seconds_per_iteration": progress.cpu_seconds_per_iteration(),
        "peak_memory_mib": peak_memory_mib() if run.alone else None,
        "adaptation": as_curve(averaged(by_step, alive)),
    }
    if several:
        result |= _each_seed(settings, progress.failed, {"": final, "best/": best})
    return result | _upper_variable(scored(trained.state).variables["problem"], alive)


def _each_seed(
    settings: Settings, failed: Sequence[str], of_states: Mapping[str, Sequence[Scores]]
) -> dict[str, Any]:
    """The seeds, why some are left out, and the scores of each; null for what is no number."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return {
        "seeds": list(seeds),
        "failed_seeds": {
            str(seed): reason for seed, reason in zip(seeds, failed, strict=True) if reason
        },
        "per_seed": {
            f"{prefix}{name}": [
                None if reason else value
                for value, reason in zip(values.tolist(), failed, strict=True)
            ]
            for prefix, parts in of_states.items()
            for scores in parts
            for name, values in scores.last().items()
        },
    }


def _upper_variable(x: Tree, alive: Sequence[bool]) -> dict[str, Any]:
    """x where it is small: of each seed, null where it failed; of one seed alone its own."""
    x = on_host(x)
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(x))
    if not 0 < entries <= MAX_LISTED_ENTRIES:
        return {}
    listed = [
        jax.tree.map(lambda leaf, i=i: leaf[i].tolist(), x) if on else None
        for i, on in enumerate(alive)
    ]
    return {"upper_variable": listed if len(alive) > 1 else listed[0]}
