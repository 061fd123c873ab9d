"""The figures of data hyper-cleaning in the documentation: on the bundled digits."""

from pathlib import Path

import jax

from src.experiment.build import build
from src.experiment.cleaning_plots import trust_sheet, weight_histogram
from src.experiment.cli import compose_config
from src.experiment.config import resolve
from src.experiment.loop import train_in_memory
from src.experiment.shapes import one_task

OVERRIDES = ("problem=hyper_cleaning", "method=rhg", "lower_optimizer.step_size=0.5")


def cleaning_figures(histogram: Path, sheet: Path, *overrides: str) -> None:
    """RHG's weights after training on digits of which half have a wrong label, seed 0."""
    experiment = build(resolve(compose_config([*OVERRIDES, *overrides])[0]))
    weighted, source = experiment.problem.weighted_samples, experiment.source
    assert weighted is not None
    state = train_in_memory(experiment)
    key = jax.random.key(experiment.settings.seed)
    task = one_task(source, source.seeded(source.data, key), key, "train")
    samples = jax.device_get(weighted(state.variables["problem"], task))
    weight_histogram(samples, histogram, "digits, half of the labels wrong: weights by RHG")
    trust_sheet(samples, sheet, rows=1)
