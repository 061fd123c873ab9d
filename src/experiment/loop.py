"""The training loop: compiled chunks of iterations, validation, checkpoints, exact resume.

Iteration n draws its tasks and its randomness from fold_in(seed, n), so a run is a function of
its seed, and where it was cut does not matter. A chunk runs iterations first..stop with both
bounds as data: any length is the same compiled program, hence the same numbers.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from src.bilevel.types import (
    Algorithm,
    AlgorithmState,
    Array,
    Limit,
    Metrics,
    TaskSource,
    Tree,
)
from src.experiment.build import Experiment
from src.experiment.checkpoint import Checkpoints, Progress, Snapshot
from src.experiment.config import Monitor, Settings
from src.experiment.errors import UserError
from src.experiment.evaluation import Evaluate
from src.experiment.provenance import peak_memory_mib
from src.experiment.writers import Writer

# In the order in which an iteration computes them: the first bad one is the one to name.
CAUSES = ("lower_loss", "stationarity_norm", "upper_loss", "hypergradient_norm")


def make_chunk(source: TaskSource, algorithm: Algorithm, settings: Settings) -> Callable:
    """chunk(state, data, key, first, stop) -> state, metrics of shape (log_every,) each.

    The key, that of the seed, is data: runs of other seeds share the compiled program.
    """

    def iteration(
        state: AlgorithmState, data: Tree, key: Array, n: Array
    ) -> tuple[AlgorithmState, Metrics]:
        task_key, step_key = jax.random.split(jax.random.fold_in(key, n))
        tasks = source.sample(data, task_key, "train", settings.meta_batch_size)
        return algorithm.step(state, step_key, tasks)

    def chunk(state: AlgorithmState, data: Tree, key: Array, first: Array, stop: Array):
        shapes = jax.eval_shape(iteration, state, data, key, first)[1]
        rows = jax.tree.map(lambda s: jnp.zeros((settings.log_every, *s.shape), s.dtype), shapes)

        def body(n: Array, carry: tuple[AlgorithmState, Tree]) -> tuple[AlgorithmState, Tree]:
            state, rows = carry
            state, metrics = iteration(state, data, key, n)
            rows = jax.tree.map(lambda r, m: r.at[n - first].set(m), rows, metrics)
            return state, rows

        return lax.fori_loop(first, stop, body, (state, rows))

    return jax.jit(chunk, donate_argnums=0)


def train(
    experiment: Experiment,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    snapshot: Snapshot,
    writer: Writer,
) -> Snapshot:
    """Iterate from `snapshot` to num_iterations.

    Raises UserError at the first metric that is not finite, with the iteration and its name; the
    last checkpoint stays usable.
    """
    settings, monitor, source = experiment.settings, experiment.monitor, experiment.source
    chunk = make_chunk(source, experiment.algorithm, settings)
    key = jax.random.key(settings.seed)
    state, best, progress = snapshot
    began = time.perf_counter() - progress.seconds
    first_chunk = True

    while progress.step < settings.num_iterations:
        step = progress.step
        stop = min(
            settings.num_iterations,
            *(
                step + every - step % every
                for every in (settings.log_every, settings.eval_every, settings.checkpoint_every)
            ),
        )
        chunk_began = time.perf_counter()
        state, columns = chunk(state, source.data, key, jnp.int32(step), jnp.int32(stop))
        columns = jax.device_get(columns)
        now = time.perf_counter()
        rows = tuple(
            {name: float(column[i]) for name, column in columns.items()} for i in range(stop - step)
        )
        progress = progress._replace(
            step=stop, pending=progress.pending + rows, seconds=now - began
        )
        if not first_chunk:
            progress = progress._replace(
                timed_steps=progress.timed_steps + stop - step,
                timed_seconds=progress.timed_seconds + now - chunk_began,
            )
        first_chunk = False
        _refuse_divergence(progress.pending, stop, experiment.hypergradient.limits, checkpoints)
        rate = progress.iterations_per_second()
        writer.progress(stop, rows[-1]["upper_loss"], rate)

        row: dict = {}
        if stop % settings.log_every == 0:
            pending = progress.pending
            row = {f"train/{name}": _mean(pending, name) for name in pending[0]}
            progress = progress._replace(pending=())
        if stop % settings.eval_every == 0:
            scores = evaluate(state, "validation", settings.num_validation_tasks)
            refuse_bad_scores(scores, stop, checkpoints)
            row |= scores
            value = scores[monitor.metric]
            if better(monitor, value, progress.best_value):
                progress = progress._replace(best_value=value, best_step=stop)
                best = evaluation_state(state)
        if row:
            row = {"step": stop, **row}
            row |= {
                "seconds": progress.seconds,
                "iterations_per_second": rate,
                "peak_memory_mib": peak_memory_mib(),
            }
            writer.log(row)
        if stop % settings.checkpoint_every == 0 or stop == settings.num_iterations:
            _refuse_non_finite(state, stop, checkpoints)
            progress = progress._replace(seconds=time.perf_counter() - began)
            checkpoints.save(Snapshot(state, best, progress))
    return Snapshot(state, best, progress)


def initial_state(algorithm: Algorithm, seed: int) -> AlgorithmState:
    """The state before the first iteration; a later or a restored one runs the same programs."""

    def init(key: Array) -> AlgorithmState:
        # jnp.full and the like are weakly typed, updates are not: the loop would compile twice.
        return jax.tree.map(
            lambda leaf: lax.convert_element_type(leaf, leaf.dtype), algorithm.init(key)
        )

    state = jax.jit(init)(jax.random.fold_in(jax.random.key(seed), 2**31 - 3))
    # Bound to the device, as what a checkpoint restores is: jit tells the two apart.
    return jax.device_put(state, jax.devices()[0])


def fresh_snapshot(experiment: Experiment) -> Snapshot:
    """A run before its first iteration."""
    state = initial_state(experiment.algorithm, experiment.settings.seed)
    return Snapshot(state, evaluation_state(state), Progress())


def evaluation_state(state: AlgorithmState) -> AlgorithmState:
    """A copy of what `adapt` needs: the learned variables and the start."""
    return jax.tree.map(jnp.copy, state._replace(upper_state=(), carry=()))


def better(monitor: Monitor, value: float, best: float | None) -> bool:
    """Whether a validation score beats the best so far."""
    return best is None or (value > best if monitor.mode == "max" else value < best)


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


def _refuse_divergence(
    pending: Sequence[Mapping[str, float]],
    stop: int,
    limits: Mapping[str, Limit],
    checkpoints: Checkpoints,
) -> None:
    for offset, row in enumerate(pending):
        lower_level_is_finite = all(math.isfinite(row[name]) for name in CAUSES[:3])
        step = stop - len(pending) + offset + 1
        for name, limit in limits.items():
            if lower_level_is_finite and not row[name] <= limit.bound:
                raise UserError(
                    f"train/{name} is {row[name]:.3g} at iteration {step}: {limit.meaning}; "
                    f"{_kept(checkpoints)}. {limit.remedy}"
                )
        ordered = sorted(row, key=lambda n: CAUSES.index(n) if n in CAUSES else len(CAUSES))
        for name in ordered:
            if not math.isfinite(row[name]):
                _stop(f"train/{name}", row[name], step, checkpoints)


def refuse_bad_scores(scores: dict[str, float], step: int, checkpoints: Checkpoints) -> None:
    """Raises UserError: no state beats, or loses to, one whose score is not a number."""
    for name, value in scores.items():
        if not math.isfinite(value):
            _stop(name, value, step, checkpoints)


def _refuse_non_finite(state: AlgorithmState, step: int, checkpoints: Checkpoints) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.variables):
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            _stop(jax.tree_util.keystr(path), float("nan"), step, checkpoints)


def _stop(name: str, value: float, step: int, checkpoints: Checkpoints) -> None:
    raise UserError(
        f"{name} became {value} at iteration {step}; {_kept(checkpoints)}. Smaller steps are the "
        "usual remedy: lower_optimizer.step_size, upper_optimizer.step_size, or "
        "upper_optimizer.clip_norm=1"
    )


def _kept(checkpoints: Checkpoints) -> str:
    last = checkpoints.manager.latest_step()
    return "no checkpoint was written yet" if last is None else f"the checkpoint of {last} is kept"
