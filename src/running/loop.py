"""The training loop: compiled chunks of iterations, validation, checkpoints, exact resume.

Iteration n draws its tasks and its randomness from fold_in(seed, n), so a run is a function of
its seed, and where it was cut does not matter. A chunk runs iterations first..stop with both
bounds as data: any length is the same compiled program, hence the same numbers.

Several seeds run in one program. A seed whose numbers are not finite, or that a limit stops, is
left out of every mean from then on; the run ends with an error when no seed is left.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.stages import Wrapped

from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from bilevel.batching import batched
from bilevel.types import Array, Metrics, Tree
from src.running.best import evaluation_state, with_best
from src.running.evaluation import Evaluate, as_numbers, averaged
from src.running.failures import in_rows, in_scores, in_variables, leave_out
from src.running.provenance import peak_memory_mib
from src.running.run_folder import Run
from src.running.seeds import across, seed_keys, with_half_widths
from src.running.sharing import seeds_of_device, spread
from src.running.snapshot import Progress, Snapshot, no_progress
from src.running.standstill import warn_of_standstill
from src.running.stopping import Stopped
from src.settings.build import Experiment
from src.settings.checked import Settings
from src.settings.placing import on_host, placed


def make_chunk(experiment: Experiment) -> Wrapped:
    """chunk(states, data, keys, first, stop) -> states, metrics of shape (seeds, log_every) each.

    The keys, those of the seeds, are data: runs of other seeds share the compiled program.
    """

    source, algorithm = experiment.source, experiment.algorithm
    settings, sharing = experiment.settings, experiment.sharing

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

    chunk = batched(of_seed, seeds_of_device(settings.seeds, sharing), (0, None, 0, None, None))
    on_all = spread(chunk, sharing, (True, False, True, False, False))
    return jax.jit(on_all, donate_argnums=0)


def train(
    run: Run, evaluate: Evaluate, snapshot: Snapshot, stop_requested: Callable[[], int | None]
) -> Snapshot:
    """Iterate from `snapshot` to num_iterations.

    Raises UserError once the metrics of no seed are finite, with the iteration and the name of the
    first; the last checkpoint stays usable. Raises Stopped, after a checkpoint, when asked to.
    """
    experiment = run.experiment
    settings = experiment.settings
    chunk = make_chunk(experiment)
    keys = seed_keys(settings.seed, settings.seeds)
    began = time.perf_counter() - snapshot.progress.seconds
    compiles = True  # the first chunk of a process

    while snapshot.progress.step < settings.num_iterations:
        state, best, progress = snapshot
        step, stop = progress.step, _next_stop(settings, progress.step)
        chunk_began, cpu_began = time.perf_counter(), time.process_time()
        state, columns = chunk(
            state, experiment.source.data, keys, jnp.int32(step), jnp.int32(stop)
        )
        columns = on_host(columns)
        now = time.perf_counter()
        rows = tuple(
            {name: column[:, i].tolist() for name, column in columns.items()}
            for i in range(stop - step)
        )
        progress = progress._replace(
            step=stop, pending=progress.pending + rows, seconds=now - began
        )
        if not compiles:
            progress = progress._replace(
                timed_steps=progress.timed_steps + stop - step,
                timed_seconds=progress.timed_seconds + now - chunk_began,
                timed_cpu_seconds=progress.timed_cpu_seconds + time.process_time() - cpu_began,
            )
        compiles = False
        limits = experiment.hypergradient.limits
        found = in_rows(progress.pending, stop, limits, experiment.dynamics.rescales)
        progress = leave_out(run, progress, found)
        if step == 0:  # `best` is still the first state
            warn_of_standstill(run, rows[0], stop, best.variables, state.variables)
        loss, _ = across(np.array(rows[-1]["upper_loss"]), progress.alive())
        run.writer.progress(stop, float(loss), progress.iterations_per_second())

        snapshot = Snapshot(state, best, progress)
        row: dict = {}
        if stop % settings.log_every == 0:
            row = logged(progress)
            snapshot = snapshot._replace(progress=progress._replace(pending=()))
        if stop % settings.eval_every == 0:
            snapshot, scores = _validated(run, evaluate, snapshot)
            row |= scores
        if row:
            run.writer.log(in_full(row, settings, snapshot.progress))
        at_end = stop == settings.num_iterations
        signal_number = None if at_end else stop_requested()
        if stop % settings.checkpoint_every == 0 or at_end or signal_number:
            progress = leave_out(
                run, snapshot.progress, in_variables(on_host(state.variables), stop)
            )
            progress = progress._replace(seconds=time.perf_counter() - began)
            snapshot = snapshot._replace(progress=progress)
            run.checkpoints.save(snapshot)
        if signal_number:
            raise Stopped(signal_number, stop)
    return snapshot


def _next_stop(settings: Settings, step: int) -> int:
    """The next iteration after which the host has something to do."""
    cadences = (settings.log_every, settings.eval_every, settings.checkpoint_every)
    return min(settings.num_iterations, *(step + every - step % every for every in cadences))


def _validated(
    run: Run, evaluate: Evaluate, snapshot: Snapshot
) -> tuple[Snapshot, dict[str, float]]:
    """The snapshot with its best states, and the scores to log."""
    settings, monitor = run.experiment.settings, run.experiment.monitor
    scores = evaluate(snapshot.state, "validation", settings.num_validation_tasks)
    failures = in_scores(scores.last(), snapshot.progress.step)
    progress = leave_out(run, snapshot.progress, failures)
    snapshot = with_best(
        snapshot._replace(progress=progress), monitor, scores.last()[monitor.metric]
    )
    return snapshot, as_numbers(averaged(scores, progress.alive()))


def in_full(row: dict[str, float], settings: Settings, progress: Progress) -> dict[str, float]:
    """A row of metrics.jsonl: the iteration, the metrics, the speed."""
    failed = settings.seeds - sum(progress.alive())
    return {
        "step": progress.step,
        **row,
        **({"failed_seeds": failed} if failed else {}),
        "seconds": progress.seconds,
        "iterations_per_second": progress.iterations_per_second(),
        "peak_memory_mib": peak_memory_mib(),
    }


def train_in_memory(experiment: Experiment) -> AlgorithmState:
    """The first seed's state, as it is scored, after num_iterations: no folder (for figures)."""
    settings = experiment.settings._replace(log_every=experiment.settings.num_iterations)
    experiment = experiment._replace(settings=settings)
    states, _ = make_chunk(experiment)(
        initial_state(experiment),
        experiment.source.data,
        seed_keys(settings.seed, settings.seeds),
        jnp.int32(0),
        jnp.int32(settings.num_iterations),
    )
    return jax.tree.map(lambda leaf: leaf[0], scored(states))


def initial_state(experiment: Experiment) -> AlgorithmState:
    """The states before the first iteration; later or restored ones run the same programs."""

    def init(key: Array) -> AlgorithmState:
        # jnp.full and the like are weakly typed, updates are not: the loop would compile twice.
        return jax.tree.map(
            lambda leaf: lax.convert_element_type(leaf, leaf.dtype),
            experiment.algorithm.init(jax.random.fold_in(key, 2**31 - 3)),
        )

    settings = experiment.settings
    keys = seed_keys(settings.seed, settings.seeds)
    state = jax.jit(batched(init, settings.seeds, (0,)))(keys)
    # Bound to the devices, as what a checkpoint restores is: jit tells the two apart.
    return placed(state, experiment.sharing, of_seeds=True)


def fresh_snapshot(experiment: Experiment) -> Snapshot:
    """A run before its first iteration."""
    state = initial_state(experiment)
    return Snapshot(state, evaluation_state(state), no_progress(experiment.settings.seeds))


def logged(progress: Progress) -> dict[str, float]:
    """The means since the last row, over the seeds that are alive."""
    pending = progress.pending
    means = {
        f"train/{name}": np.array([row[name] for row in pending]).mean(axis=0)
        for name in pending[0]
    }
    averages = with_half_widths(means, progress.alive())
    return {name: float(value) for name, value in averages.items()}
