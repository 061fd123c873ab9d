"""What is wrong with the numbers of a run, seed by seed, in words."""

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from bilevel.estimator import Limit
from bilevel.finiteness import not_finite_at_start, runaway, steep
from bilevel.types import Tree
from src.running.run_folder import Run
from src.running.snapshot import Progress
from src.settings.errors import UserError
from src.settings.overrides import as_typed_in_shell

# In the order in which an iteration computes them: the first bad one is the one to name.
CAUSES = ("lower_loss", "stationarity_norm", "upper_loss", "hypergradient_norm")
SMALLER_STEPS = (
    "Smaller steps are the usual remedy: lower_optimizer.step_size, upper_optimizer.step_size, or "
    "upper_optimizer.clip_norm=1"
)


class Failure(NamedTuple):
    """What happened, where, and what to do."""

    what: str
    remedy: str


def in_rows(
    pending: Sequence[Mapping[str, Sequence[float]]],
    stop: int,
    limits: Mapping[str, Limit],
    rescales: bool,
) -> list[Failure | None]:
    """Of each seed the first metric past a limit, or not finite, in iterations up to `stop`.

    rescales: as of a lower optimizer
    """
    first = stop - len(pending) + 1

    def of_seed(i: int) -> Failure | None:
        for step, metrics in enumerate(pending, start=first):
            row = {name: values[i] for name, values in metrics.items()}
            lower_level_is_finite = all(math.isfinite(row[name]) for name in CAUSES[:3])
            for name, limit in limits.items():
                if lower_level_is_finite and not row[name] <= limit.bound:
                    what = f"train/{name} is {row[name]:.3g} at iteration {step}"
                    return Failure(f"{what}: {limit.meaning}", limit.remedy)
            ordered = sorted(row, key=lambda n: CAUSES.index(n) if n in CAUSES else len(CAUSES))
            for name in ordered:
                if not math.isfinite(row[name]):
                    failure = _not_finite(f"train/{name}", row[name], step)
                    more = steep(name, rescales) + runaway(limits, row)
                    return failure._replace(remedy=failure.remedy + more)
        return None

    return [of_seed(i) for i in range(len(pending[0]["upper_loss"]))]


def in_scores(scores: Mapping[str, np.ndarray], step: int) -> list[Failure | None]:
    """Of each seed a score (seeds,) that is no number: no state beats, or loses to, such a one."""

    def of_seed(i: int) -> Failure | None:
        for name, values in scores.items():
            if not math.isfinite(values[i]):
                return _not_finite(name, values[i], step)
        return None

    return [of_seed(i) for i in range(len(next(iter(scores.values()))))]


def in_variables(variables: Tree, step: int) -> list[Failure | None]:
    """Of each seed (leading axis) an upper variable or learned parameter that is not finite."""
    leaves = [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    ]

    def of_seed(i: int) -> Failure | None:
        for name, values in leaves:
            if not np.isfinite(values[i]).all():
                return _not_finite(name, float("nan"), step)
        return None

    return [of_seed(i) for i in range(len(leaves[0][1]))] if leaves else []


def leave_out(run: Run, progress: Progress, failures: Sequence[Failure | None]) -> Progress:
    """The progress without the seeds that failed, saying so. Raises UserError if none is left."""
    settings = run.experiment.settings
    reasons = list(progress.failed)
    first = None
    for i, failure in enumerate(failures):
        if failure is None or reasons[i]:
            continue
        first = first or failure
        reasons[i] = failure.what
        if settings.seeds > 1:
            left_out = f"seed {settings.seed + i} is left out from here: {failure.what}"
            print(f"warning: {left_out}. {failure.remedy}", file=sys.stderr)
    if first is not None and all(reasons):
        last = run.checkpoints.latest()
        kept, start = "no checkpoint was written yet", ""
        if last is not None:
            kept = f"the checkpoint of {last} is kept"
            start = as_typed_in_shell("start_from", f"{run.folder}@{last}")
            start = f". To start from there with other options: {start}"
        cause = not_finite_at_start(run.experiment.problem, run.experiment.source, settings.seed)
        if cause is not None:
            raise UserError(f"{first.what}; {kept}. The cause: {cause}")
        raise UserError(f"{first.what}; {kept}. {first.remedy}{start}")
    return progress._replace(failed=tuple(reasons))


@contextmanager
def memory_as_message() -> Iterator[None]:
    """Raises UserError where the memory of the host or of the accelerator does not suffice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
            raise
        what = re.sub(r"^RESOURCE_EXHAUSTED: *", "", (text.splitlines() or [""])[0])[:200]
        raise UserError(
            f"there is not enough memory ({what or 'allocation failed'}); the last checkpoint is "
            "kept. Less memory take tasks_at_once=1, hypergradient.checkpoints=steps (unrolled), "
            "another hypergradient (truncated, implicit_cg), problem.batch_size where the problem "
            "has it, and a smaller model"
        ) from error


def _not_finite(name: str, value: float, step: int) -> Failure:
    return Failure(f"{name} became {value} at iteration {step}", SMALLER_STEPS)
