"""The training loop: compiled chunks of iterations, validation, checkpoints, exact resume.

Iteration n draws its tasks and its randomness from fold_in(seed, n), so a run is a function of
its seed, and where it was cut does not matter. A chunk runs iterations first..stop with both
bounds as data: any length is the same compiled program, hence the same numbers.

Several seeds run in one program. A seed whose numbers leave the finite, or that a limit stops, is
left out of every mean from then on; the run ends with an error when no seed is left.
"""

import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.algorithm import Algorithm, AlgorithmState
from bilevel.batching import batched
from bilevel.types import Array, Metrics, TaskSource, Tree
from src.output.writers import Writer
from src.running.checkpoint import Checkpoints, Progress, Snapshot, no_progress
from src.running.evaluation import Evaluate, as_numbers, averaged
from src.running.failures import Trouble, in_rows, in_scores, in_variables
from src.running.provenance import peak_memory_mib
from src.running.seeds import across, chosen, seed_keys, with_half_widths
from src.settings.build import Experiment
from src.settings.config import Monitor, Settings
from src.settings.errors import UserError


def make_chunk(source: TaskSource, algorithm: Algorithm, settings: Settings) -> Callable:
    """chunk(states, data, keys, first, stop) -> states, metrics of shape (seeds, log_every) each.

    The keys, those of the seeds, are data: runs of other seeds share the compiled program.
    """

    def iteration(
        state: AlgorithmState, data: Tree, key: Array, n: Array
    ) -> tuple[AlgorithmState, Metrics]:
        task_key, step_key = jax.random.split(jax.random.fold_in(key, n))
        tasks = source.sample(data, task_key, "train", settings.meta_batch_size)
        return algorithm.step(state, step_key, tasks)

    def of_seed(state: AlgorithmState, data: Tree, key: Array, first: Array, stop: Array):
        seeded = source.seeded(data, key)
        shapes = jax.eval_shape(iteration, state, seeded, key, first)[1]
        rows = jax.tree.map(lambda s: jnp.zeros((settings.log_every, *s.shape), s.dtype), shapes)

        def body(n: Array, carry: tuple[AlgorithmState, Tree]) -> tuple[AlgorithmState, Tree]:
            state, rows = carry
            state, metrics = iteration(state, seeded, key, n)
            rows = jax.tree.map(lambda r, m: r.at[n - first].set(m), rows, metrics)
            return state, rows

        return lax.fori_loop(first, stop, body, (state, rows))

    chunk = batched(of_seed, settings.seeds, (0, None, 0, None, None))
    return jax.jit(chunk, donate_argnums=0)


def train(
    experiment: Experiment,
    evaluate: Evaluate,
    checkpoints: Checkpoints,
    snapshot: Snapshot,
    writer: Writer,
) -> Snapshot:
    """Iterate from `snapshot` to num_iterations.

    Raises UserError once the metrics of no seed are finite, with the iteration and the name of the
    first; the last checkpoint stays usable.
    """
    settings, monitor, source = experiment.settings, experiment.monitor, experiment.source
    chunk = make_chunk(source, experiment.algorithm, settings)
    keys = seed_keys(settings.seed, settings.seeds)
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
        chunk_began, cpu_began = time.perf_counter(), time.process_time()
        state, columns = chunk(state, source.data, keys, jnp.int32(step), jnp.int32(stop))
        columns = jax.device_get(columns)
        now = time.perf_counter()
        rows = tuple(
            {name: column[:, i].tolist() for name, column in columns.items()}
            for i in range(stop - step)
        )
        progress = progress._replace(
            step=stop, pending=progress.pending + rows, seconds=now - began
        )
        if not first_chunk:
            progress = progress._replace(
                timed_steps=progress.timed_steps + stop - step,
                timed_seconds=progress.timed_seconds + now - chunk_began,
                timed_cpu_seconds=progress.timed_cpu_seconds + time.process_time() - cpu_began,
            )
        first_chunk = False
        limits = experiment.hypergradient.limits
        progress = without_failed(
            progress, settings, checkpoints, in_rows(progress.pending, stop, limits)
        )
        rate = progress.iterations_per_second()
        shown, _ = across(np.array(rows[-1]["upper_loss"]), progress.alive())
        writer.progress(stop, float(shown), rate)

        row: dict = {}
        if stop % settings.log_every == 0:
            row = _logged(progress)
            progress = progress._replace(pending=())
        if stop % settings.eval_every == 0:
            scores = evaluate(state, "validation", settings.num_validation_tasks)
            progress = without_failed(
                progress, settings, checkpoints, in_scores(scores.last(), stop)
            )
            row |= as_numbers(averaged(scores, progress.alive()))
            values = scores.last()[monitor.metric]
            improved = improves(monitor, values, progress)
            best = chosen(improved, evaluation_state(state), best)
            progress = with_best(progress, improved, values, stop)
        if row:
            failed = settings.seeds - sum(progress.alive())
            row = {"step": stop, **row, **({"failed_seeds": failed} if failed else {})}
            row |= {
                "seconds": progress.seconds,
                "iterations_per_second": rate,
                "peak_memory_mib": peak_memory_mib(),
            }
            writer.log(row)
        if stop % settings.checkpoint_every == 0 or stop == settings.num_iterations:
            progress = without_failed(
                progress, settings, checkpoints, in_variables(state.variables, stop)
            )
            progress = progress._replace(seconds=time.perf_counter() - began)
            checkpoints.save(Snapshot(state, best, progress))
    return Snapshot(state, best, progress)


def train_in_memory(experiment: Experiment) -> AlgorithmState:
    """The state of the first seed after num_iterations: no folder, no validation (for figures)."""
    settings = experiment.settings._replace(log_every=experiment.settings.num_iterations, seeds=1)
    chunk = make_chunk(experiment.source, experiment.algorithm, settings)
    states, _ = chunk(
        initial_state(experiment.algorithm, settings),
        experiment.source.data,
        seed_keys(settings.seed, 1),
        jnp.int32(0),
        jnp.int32(settings.num_iterations),
    )
    return jax.tree.map(lambda leaf: leaf[0], states)


def initial_state(algorithm: Algorithm, settings: Settings) -> AlgorithmState:
    """The states before the first iteration; later or restored ones run the same programs."""

    def init(key: Array) -> AlgorithmState:
        # jnp.full and the like are weakly typed, updates are not: the loop would compile twice.
        return jax.tree.map(
            lambda leaf: lax.convert_element_type(leaf, leaf.dtype),
            algorithm.init(jax.random.fold_in(key, 2**31 - 3)),
        )

    keys = seed_keys(settings.seed, settings.seeds)
    state = jax.jit(batched(init, settings.seeds, (0,)))(keys)
    # Bound to the device, as what a checkpoint restores is: jit tells the two apart.
    return jax.device_put(state, jax.devices()[0])


def fresh_snapshot(experiment: Experiment) -> Snapshot:
    """A run before its first iteration."""
    state = initial_state(experiment.algorithm, experiment.settings)
    return Snapshot(state, evaluation_state(state), no_progress(experiment.settings.seeds))


def evaluation_state(state: AlgorithmState) -> AlgorithmState:
    """A copy of what `adapt` needs: the learned variables and the start."""
    return jax.tree.map(jnp.copy, state._replace(upper_state=(), carry=()))


def improves(monitor: Monitor, values: np.ndarray, progress: Progress) -> np.ndarray:
    """Which of the seeds that are alive beat their own best validation score so far."""

    def better(value: float, best: float | None) -> bool:
        return best is None or (value > best if monitor.mode == "max" else value < best)

    each = zip(values.tolist(), progress.best_value, progress.alive(), strict=True)
    return np.array([alive and better(value, best) for value, best, alive in each])


def with_best(progress: Progress, improved: np.ndarray, values: np.ndarray, step: int) -> Progress:
    """The best scores and their iterations, after those of `step`."""
    each = list(zip(improved, values.tolist(), progress.best_value, strict=True))
    steps = zip(improved, progress.best_step, strict=True)
    return progress._replace(
        best_value=tuple(value if new else old for new, value, old in each),
        best_step=tuple(step if new else old for new, old in steps),
    )


def without_failed(
    progress: Progress,
    settings: Settings,
    checkpoints: Checkpoints,
    troubles: Sequence[Trouble | None],
) -> Progress:
    """Leave out the seeds in trouble, saying so. Raises UserError where none is left."""
    failed = list(progress.failed)
    first = None
    for i, trouble in enumerate(troubles):
        if trouble is None or failed[i]:
            continue
        first = first or trouble
        failed[i] = trouble.what
        if settings.seeds > 1:
            left_out = f"seed {settings.seed + i} is left out from here: {trouble.what}"
            print(f"warning: {left_out}. {trouble.remedy}", file=sys.stderr)
    if first is not None and all(failed):
        last = checkpoints.manager.latest_step()
        kept = (
            "no checkpoint was written yet" if last is None else f"the checkpoint of {last} is kept"
        )
        raise UserError(f"{first.what}; {kept}. {first.remedy}")
    return progress._replace(failed=tuple(failed))


def _logged(progress: Progress) -> dict[str, float]:
    """The means since the last row, over the seeds that are alive."""
    pending = progress.pending
    means = {
        f"train/{name}": np.array([row[name] for row in pending]).mean(axis=0)
        for name in pending[0]
    }
    averages = with_half_widths(means, progress.alive())
    return {name: float(value) for name, value in averages.items()}
