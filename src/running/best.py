"""The best state so far, by the monitored validation score: of each seed its own."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from src.running.seeds import chosen
from src.running.snapshot import Snapshot
from src.settings.checked import Monitor


def evaluation_state(state: AlgorithmState) -> AlgorithmState:
    """A copy of what `adapt` needs: the variables that are scored and the start."""
    return jax.tree.map(jnp.copy, scored(state))


def with_best(snapshot: Snapshot, monitor: Monitor, scores: np.ndarray) -> Snapshot:
    """The snapshot once its state has been validated, with these scores of the monitored metric.

    Of two equal scores the earlier state stays; a seed that has failed keeps what it had.
    """
    progress = snapshot.progress

    def improves(score: float, best: float | None, alive: bool) -> bool:
        if not alive or np.isnan(score):
            return False
        return best is None or (score > best if monitor.mode == "max" else score < best)

    of_seeds = list(zip(scores.tolist(), progress.best_value, progress.best_step, strict=True))
    improved = [
        improves(score, best, alive)
        for (score, best, _), alive in zip(of_seeds, progress.alive(), strict=True)
    ]
    kept = [
        (score, progress.step) if better else (best, step)
        for (score, best, step), better in zip(of_seeds, improved, strict=True)
    ]
    best = chosen(np.array(improved), evaluation_state(snapshot.state), snapshot.best)
    values, steps = zip(*kept, strict=True)
    return snapshot._replace(
        best=best, progress=progress._replace(best_value=values, best_step=steps)
    )
