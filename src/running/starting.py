"""A run that starts from the x and the learned scalars of another run."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Tree
from src.running.best import evaluation_state
from src.running.processes import Processes
from src.running.snapshot import Snapshot
from src.running.stored_run import stored_run, stored_state
from src.settings.build import Experiment
from src.settings.errors import UserError
from src.settings.placing import on_host, placed

CHECKPOINT = re.compile(r"(.+)@(best|last|\d+)")


def started_from(experiment: Experiment, fresh: Snapshot, processes: Processes) -> Snapshot:
    """`fresh` with the variables that settings.start_from=DIR[@best|last|ITERATION] names.

    x is taken whole; alpha, s, t and lower step sizes where both runs learn them. One seed serves
    all seeds of this run. Everything else (optimizer states, iterations, best) begins anew. Raises
    UserError where the other run cannot be read or its variables do not fit.
    """
    text, seeds = str(experiment.settings.start_from), experiment.settings.seeds
    theirs = processes.first(lambda: _variables_of(text, seeds))
    variables = _taken(text, seeds, fresh.state.variables, theirs)
    placed_variables = placed(variables, experiment.sharing, of_seeds=True)
    state = fresh.state._replace(variables=placed_variables)
    return fresh._replace(state=state, best=evaluation_state(state))


def _variables_of(text: str, seeds: int) -> dict[str, Tree]:
    """What the run that `text` names has learned; for as many seeds, or one."""
    named = CHECKPOINT.fullmatch(text)
    folder, checkpoint = (named[1], named[2]) if named else (text, "last")
    try:
        with stored_run(Path(folder), other_data=True) as run:  # its x may go on with new data
            stored = stored_state(run, checkpoint)
    except UserError as error:
        raise UserError(f"start_from={text}: {error}") from error
    if not all(stored.alive):
        raise UserError(
            f"start_from={text}: a seed of that run had failed by then; choose an earlier "
            "checkpoint, or a run of which no seed failed"
        )
    if len(stored.alive) not in (1, seeds):
        raise UserError(
            f"start_from={text}: that run has {len(stored.alive)} seeds, this one {seeds};"
            f" choose seeds={len(stored.alive)}, or a run of one seed, which serves all"
        )
    return on_host(stored.state.variables)


def _taken(
    text: str, seeds: int, ours: dict[str, Tree], theirs: dict[str, Tree]
) -> dict[str, Tree]:
    """Our variables with the numbers of theirs, part by part ("problem" is x)."""
    taken = {}
    for part, tree in ours.items():
        other = theirs.get(part, {})
        if part != "problem":  # {alpha: ...}, {step_size: ...}
            both = [name for name in tree if name in other]
            new = {name: _fitted(text, name, seeds, tree[name], other[name]) for name in both}
            taken[part] = {**tree, **new}
        else:
            taken[part] = _fitted(text, "x", seeds, tree, other)
    return taken


def _fitted(text: str, name: str, seeds: int, ours: Tree, theirs: Tree) -> Tree:
    """Their numbers in our types. Raises UserError, with both shapes, where one does not fit."""
    mine, other = _shapes(name, ours), _shapes(name, theirs)
    if mine != other:
        key = next(key for key in {**mine, **other} if mine.get(key) != other.get(key))
        raise UserError(
            f"start_from={text}: {key} is {other.get(key, 'not there')} in that run, but "
            f"{mine.get(key, 'not there')} in this one; choose the same problem, data and model"
        )

    def fit(a: jax.Array, b: jax.Array) -> jax.Array:
        # A copy: the loop donates its state.
        return jnp.asarray(np.broadcast_to(np.asarray(b), (seeds, *b.shape[1:])), a.dtype)

    return jax.tree.map(fit, ours, theirs)


def _shapes(name: str, tree: Tree) -> dict[str, str]:
    """{name of a leaf: its shape without the axis of seeds}"""
    return {
        f"{name}{jax.tree_util.keystr(path)}": f"of shape {tuple(leaf.shape[1:])}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
