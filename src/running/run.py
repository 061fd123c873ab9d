"""One run, from a composed config to result.json."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax

from src.files import write_json
from src.output.writers import open_writers
from src.running.checkpoint import Checkpoints, Snapshot, open_checkpoints
from src.running.compilation import use_compilation_cache
from src.running.evaluation import make_evaluate
from src.running.loop import fresh_snapshot, train
from src.running.pictures import draw_pictures
from src.running.provenance import record_provenance
from src.running.result import result_of
from src.running.run_folder import Run, claim, sole_writer
from src.settings.build import Experiment, build
from src.settings.checked import check_settings, identity_of
from src.settings.errors import UserError


def run(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train, evaluate, and write result.json; the result is also returned.

    Raises UserError with a message for people; nothing of another run's folder is touched then.
    """
    if folder.resolve() == Path(__file__).resolve().parents[2]:
        raise UserError("hydra.run.dir is the project's own folder: choose another, such as runs/a")
    settings = check_settings(config)
    use_compilation_cache(settings.compilation_cache)
    with jax.enable_x64(settings.dtype == "float64"), ExitStack() as stack:
        experiment = build(config)
        stack.enter_context(sole_writer(folder))
        claim(folder, identity_of(config), settings.resume)
        checkpoints = stack.enter_context(closing(open_checkpoints(folder)))
        snapshot = _where_it_stands(experiment, folder, checkpoints)
        step = snapshot.progress.step
        write_json(folder / "config.json", dict(config))
        record_provenance(folder / "provenance.json", step)
        if step < settings.num_iterations:
            # A longer run of the same identity goes on: its old result is no longer the result.
            (folder / "result.json").unlink(missing_ok=True)
        writer = open_writers(experiment, config, folder, step)
        return _train_and_score(Run(experiment, config, folder, checkpoints, writer), snapshot)


def _where_it_stands(experiment: Experiment, folder: Path, checkpoints: Checkpoints) -> Snapshot:
    """The last checkpoint, or the state before the first iteration."""
    num_iterations = experiment.settings.num_iterations
    fresh = fresh_snapshot(experiment)
    snapshot = checkpoints.restore(fresh)
    if snapshot is None:
        return fresh
    step = snapshot.progress.step
    if step > num_iterations:
        raise UserError(
            f"num_iterations={num_iterations} is behind the checkpoint of {folder} "
            f"(iteration {step}); choose num_iterations={step} or more, or another hydra.run.dir"
        )
    print(f"resuming {folder} from iteration {step}", file=sys.stderr)
    return snapshot


def _train_and_score(run: Run, snapshot: Snapshot) -> dict[str, Any]:
    num_lower_steps = run.experiment.settings.num_lower_steps
    evaluate = make_evaluate(run.experiment, num_lower_steps)
    curve = make_evaluate(run.experiment, num_lower_steps, every_step=True)
    result: dict[str, Any] | None = None
    pictures: list[Path] = []
    try:
        trained = train(run, evaluate, snapshot)
        result = result_of(run, evaluate, curve, trained)
        write_json(run.folder / "result.json", result)
        pictures += draw_pictures(run, trained, result)
    finally:
        run.writer.close(result, pictures)
    assert result is not None  # otherwise an exception is on its way
    return result
