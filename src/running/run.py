"""One run, from a composed config to result.json."""

import fcntl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.data.image_classes import SPLITS
from src.files import write_json
from src.output.cleaning_plots import trust_sheet, weight_histogram
from src.output.plots import (
    adaptation_curve,
    has_images,
    learning_curves,
    task_sheet,
    title_of,
)
from src.output.writers import (
    Writer,
    console_writer,
    jsonl_writer,
    read_rows,
    together,
    wandb_writer,
)
from src.running.checkpoint import Checkpoints, Snapshot, claim, open_checkpoints
from src.running.compilation import use_compilation_cache
from src.running.evaluation import (
    Evaluate,
    Scores,
    as_curve,
    as_numbers,
    averaged,
    make_evaluate,
)
from src.running.failures import in_scores
from src.running.loop import (
    evaluation_state,
    fresh_snapshot,
    improves,
    train,
    with_best,
    without_failed,
)
from src.running.provenance import peak_memory_mib, record_provenance
from src.running.seeds import chosen
from src.settings.build import Experiment, build
from src.settings.config import Settings, identity_of
from src.settings.errors import UserError

MAX_LISTED_ENTRIES = 1000


def run(config: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Train, evaluate, and write result.json; the result is also returned.

    Raises UserError with a message for people; nothing of another run's folder is touched then.
    """
    if run_dir.resolve() == Path(__file__).resolve().parents[2]:
        raise UserError("hydra.run.dir is the project's own folder: choose another, such as runs/a")
    use_compilation_cache(config.get("compilation_cache") is True)
    with jax.enable_x64(config.get("dtype") == "float64"), ExitStack() as stack:
        experiment = build(config)
        stack.enter_context(_sole_writer(run_dir))
        claim(run_dir, identity_of(config), experiment.settings.resume)
        checkpoints = open_checkpoints(run_dir)
        stack.callback(checkpoints.manager.close)
        snapshot = _snapshot(experiment, checkpoints, run_dir)
        write_json(run_dir / "config.json", dict(config))
        record_provenance(run_dir / "provenance.json", snapshot.progress.step)
        if snapshot.progress.step < experiment.settings.num_iterations:
            # A longer run of the same identity goes on: its old result is no longer the result.
            (run_dir / "result.json").unlink(missing_ok=True)
        return _train_and_score(experiment, config, run_dir, checkpoints, snapshot)


def _snapshot(experiment: Experiment, checkpoints: Checkpoints, run_dir: Path) -> Snapshot:
    """Where the run stands: at its last checkpoint, or before its first iteration."""
    settings = experiment.settings
    fresh = fresh_snapshot(experiment)
    snapshot = checkpoints.restore(fresh)
    if snapshot is None:
        return fresh
    step = snapshot.progress.step
    if step > settings.num_iterations:
        raise UserError(
            f"num_iterations={settings.num_iterations} is behind the checkpoint of {run_dir} "
            f"(iteration {step}); choose num_iterations={step} or more, or another hydra.run.dir"
        )
    print(f"resuming {run_dir} from iteration {step}", file=sys.stderr)
    return snapshot


def _train_and_score(
    experiment: Experiment,
    config: Mapping[str, Any],
    run_dir: Path,
    checkpoints: Checkpoints,
    snapshot: Snapshot,
) -> dict[str, Any]:
    settings = experiment.settings
    evaluate = make_evaluate(experiment, settings.num_lower_steps)
    curve = make_evaluate(experiment, settings.num_lower_steps, every_step=True)
    writer = _open_writers(experiment, config, run_dir, snapshot.progress.step)
    result: dict[str, Any] | None = None
    pictures: list[Path] = []
    try:
        trained = train(experiment, evaluate, checkpoints, snapshot, writer)
        result = _result(experiment, evaluate, curve, trained, checkpoints)
        write_json(run_dir / "result.json", result)
        title = title_of(config)
        rows = read_rows(run_dir / "metrics.jsonl")
        pictures += _drawn(
            run_dir / "learning_curves.png", lambda path: learning_curves(rows, path, title)
        )
        pictures += _drawn(
            run_dir / "adaptation_curve.png",
            lambda path: adaptation_curve(result["adaptation"], path, title),
        )
        pictures += _drawn(run_dir / "tasks.png", lambda path: _draw_tasks(experiment, path))
        pictures += _draw_samples(experiment, trained, run_dir, config)
    finally:
        writer.close(result, pictures)
    assert result is not None  # otherwise an exception is on its way
    return result


def _drawn(path: Path, draw: Callable[[Path], bool]) -> list[Path]:
    """The picture as a list of one, or of none where there is nothing to draw."""
    return [path] if draw(path) else []


def _draw_tasks(experiment: Experiment, path: Path) -> bool:
    """Two tasks of each split, where tasks have images."""
    source, key = experiment.source, jax.random.key(experiment.settings.seed)

    def draw(data: Tree, key: Array) -> dict[str, Tree]:
        seeded = source.seeded(data, key)
        return {split: source.sample(seeded, key, split, 2) for split in SPLITS}

    if not has_images(jax.eval_shape(draw, source.data, key)["train"]):
        return False
    return task_sheet(jax.device_get(jax.jit(draw)(source.data, key)), path)


def _draw_samples(
    experiment: Experiment, trained: Snapshot, run_dir: Path, config: Mapping[str, Any]
) -> list[Path]:
    """The learned weights of training samples, where the problem has such: of one seed."""
    weighted = experiment.problem.inspect
    if weighted is None:
        return []
    index = trained.progress.alive().index(True)
    seed = experiment.settings.seed + index
    title = title_of({**config, "seed": seed, "seeds": 1})
    source, key = experiment.source, jax.random.key(seed)
    x = jax.tree.map(lambda leaf: leaf[index], trained.state.variables["problem"])
    task = one_task(source, source.seeded(source.data, key), key, "train")
    samples = jax.device_get(weighted(x, task))
    return [
        *_drawn(run_dir / "weights.png", lambda path: weight_histogram(samples, path, title)),
        *_drawn(run_dir / "trusted.png", lambda path: trust_sheet(samples, path)),
    ]


def _result(
    experiment: Experiment,
    evaluate: Evaluate,
    curve: Evaluate,
    trained: Snapshot,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    """Final scores under their logged names; those of the best states behind "best/".

    Of several seeds the means, and under "per_seed" what they are means of; null there is a seed
    that failed.
    """
    settings, monitor = experiment.settings, experiment.monitor
    several = settings.seeds > 1

    def scores(state: AlgorithmState) -> tuple[Scores, Scores]:
        validation = evaluate(state, "validation", settings.num_validation_tasks)
        return validation, curve(state, "test", settings.num_test_tasks)

    progress, final = trained.progress, scores(trained.state)
    for found in final:
        troubles = in_scores(found.last(), settings.num_iterations)
        progress = without_failed(progress, settings, checkpoints, troubles)
    alive = progress.alive()

    values = final[0].last()[monitor.metric]
    improved = improves(monitor, values, progress)
    best_step = with_best(progress, improved, values, settings.num_iterations).best_step
    if improved.tolist() == alive:
        best = final
    else:
        best = scores(chosen(improved, evaluation_state(trained.state), trained.best))

    def numbers(pair: tuple[Scores, Scores], prefix: str = "") -> dict[str, float]:
        means = (as_numbers(averaged(found, alive)) for found in pair)
        return {f"{prefix}{name}": value for part in means for name, value in part.items()}

    result: dict[str, Any] = {
        **numbers(final),
        **numbers(best, "best/"),
        "best/step": list(best_step) if several else best_step[0],
        "monitor": monitor.metric,
        "iterations": settings.num_iterations,
        "seconds": progress.seconds,
        "iterations_per_second": progress.iterations_per_second(),
        "cpu_seconds_per_iteration": progress.cpu_seconds_per_iteration(),
        "peak_memory_mib": peak_memory_mib(),
        "adaptation": as_curve(averaged(final[1], alive)),
    }
    if several:
        result |= _each_seed(settings, progress.failed, {"": final, "best/": best})
    x = jax.tree.map(np.asarray, trained.state.variables["problem"])
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(x))
    if 0 < entries <= MAX_LISTED_ENTRIES:  # of each seed
        listed = [
            jax.tree.map(lambda leaf, i=i: leaf[i].tolist(), x) if alive[i] else None
            for i in range(settings.seeds)
        ]
        result["upper_variable"] = listed if several else listed[0]
    return result


def _each_seed(
    settings: Settings, failed: Sequence[str], scored: Mapping[str, tuple[Scores, Scores]]
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
            for prefix, pair in scored.items()
            for found in pair
            for name, values in found.last().items()
        },
    }


def _open_writers(
    experiment: Experiment, config: Mapping[str, Any], run_dir: Path, resume_step: int
) -> Writer:
    chosen = experiment.writers
    writers: list[Writer] = []
    if chosen.wandb is not None:
        writers.append(wandb_writer(chosen.wandb, run_dir, config))
    if chosen.jsonl:
        writers.append(jsonl_writer(run_dir / "metrics.jsonl", resume_step))
    if chosen.console:
        writers.append(console_writer(resume_step, experiment.settings.num_iterations))
    return together(writers)


@contextmanager
def _sole_writer(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's lock. Raises UserError where it is held, or cannot be written."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={run_dir} cannot be written ({error.strerror}): choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is writing {run_dir}: wait for it, or choose another "
                "hydra.run.dir"
            ) from error
        yield
