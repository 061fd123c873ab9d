"""The pictures that a run leaves in its folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from bilevel.averaging import scored
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.data.image_classes import SPLITS
from src.output.cleaning_plots import trust_sheet, weight_histogram
from src.output.plots import adaptation_curve, has_images, learning_curves, task_sheet
from src.output.writers import read_rows
from src.running.run_folder import Run
from src.running.snapshot import Snapshot
from src.settings.build import Experiment


def draw_pictures(run: Run, trained: Snapshot, result: Mapping[str, Any]) -> list[Path]:
    """Draw what there is to draw of a run that has ended; the paths of the pictures."""
    title, rows = run.experiment.title(), read_rows(run.folder / "metrics.jsonl")
    drawings: dict[str, Callable[[Path], bool]] = {
        "learning_curves": lambda path: learning_curves(rows, path, title),
        "adaptation_curve": lambda path: adaptation_curve(result["adaptation"], path, title),
        "tasks": lambda path: _draw_tasks(run.experiment, path),
        **_drawings_of_samples(run.experiment, trained),
    }
    paths = {run.folder / f"{name}.png": draw for name, draw in drawings.items()}
    return [path for path, draw in paths.items() if draw(path)]


def _draw_tasks(experiment: Experiment, path: Path) -> bool:
    """Two tasks of each split, where tasks have images."""
    source, key = experiment.source, jax.random.key(experiment.settings.seed)
    splits = [split for split in SPLITS if split != "test" or source.has_test]

    def draw(data: Tree, key: Array) -> dict[str, Tree]:
        seeded = source.seeded(data, key)
        return {split: source.sample(seeded, key, split, 2) for split in splits}

    if not has_images(jax.eval_shape(draw, source.data, key)["train"]):
        return False
    return task_sheet(jax.device_get(jax.jit(draw)(source.data, key)), path)


def _drawings_of_samples(
    experiment: Experiment, trained: Snapshot
) -> dict[str, Callable[[Path], bool]]:
    """Of the learned weights of training samples, where the problem has such: of one seed."""
    inspect = experiment.problem.inspect
    if inspect is None:
        return {}
    index = trained.progress.alive().index(True)
    settings = experiment.settings
    of_seed = experiment._replace(settings=settings._replace(seed=settings.seed + index, seeds=1))
    source, key = experiment.source, jax.random.key(of_seed.settings.seed)
    x = jax.tree.map(lambda leaf: leaf[index], scored(trained.state).variables["problem"])
    task = one_task(source, source.seeded(source.data, key), key, "train")
    samples = jax.device_get(inspect(x, task))
    return {
        "weights": lambda path: weight_histogram(samples, path, of_seed.title()),
        "trusted": lambda path: trust_sheet(samples, path),
    }
