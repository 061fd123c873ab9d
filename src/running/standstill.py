"""Warnings at the start of a run in which x, or a part of it, does not move."""

import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from bilevel.types import Tree
from src.running.run_folder import Run
from src.settings.placing import on_host


def warn_of_standstill(
    run: Run, row: Mapping[str, Sequence[float]], stop: int, before: Tree, after: Tree
) -> None:
    """Say on stderr where the first hypergradient is exactly zero, or leaves of x stand still.

    row: the metrics of the first iteration. before, after: the variables of all seeds, before it
    and after iteration `stop`. A baseline that learns nothing is meant to stand still.
    """
    if not any(leaf.size for leaf in jax.tree.leaves(before)):
        return
    settings, name = run.experiment.settings, run.experiment.hypergradient.name
    check = (
        "check that x reaches f or F in floats (no rounding, argmax or stop_gradient on the way), "
        "that the lower steps move y (lower_optimizer.step_size), and that "
        f"hypergradient={name} differentiates that way (python -m src.methods)"
    )
    norms = row["hypergradient_norm"]
    zero = [str(settings.seed + i) for i, norm in enumerate(norms) if norm == 0]
    unmoved = _unmoved(before["problem"], after["problem"])
    if zero and run.experiment.hypergradient.follows:
        return  # what x answers to begins to move first: the multiplier of a single loop is 0
    if zero:
        which = f" of seed {', '.join(zero)}" if settings.seeds > 1 else ""
        problem = f"the hypergradient{which} is exactly zero in the first iteration"
    elif unmoved:
        problem = (
            f"{', '.join(unmoved)} has not moved in the first {stop} iterations: the hypergradient "
            "there is exactly zero or too small for upper_optimizer.step_size, or a bound holds it"
        )
    else:
        return
    print(f"warning: {problem}: {check}", file=sys.stderr)


def _unmoved(before: Tree, after: Tree) -> list[str]:
    """The names of the leaves that are the same to the last bit."""
    paths = jax.tree_util.tree_leaves_with_path(on_host(before))
    pairs = zip(paths, jax.tree.leaves(on_host(after)), strict=True)
    return [
        f"x{jax.tree_util.keystr(path)}"
        for (path, old), new in pairs
        if old.size and np.array_equal(old, new)
    ]
