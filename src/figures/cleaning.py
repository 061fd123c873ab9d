"""The figures of data hyper-cleaning in the documentation: on the bundled digits."""

from pathlib import Path

import jax

from bilevel.shapes import one_task
from src.output.cleaning_plots import trust_sheet, weight_histogram
from src.running.loop import train_in_memory
from src.settings.build import build
from src.settings.cli import compose_config
from src.settings.config import resolve

OVERRIDES = ("problem=hyper_cleaning", "method=rhg", "lower_optimizer.step_size=0.5")


def cleaning_figures(histogram: Path, sheet: Path, *overrides: str) -> None:
    """RHG's weights after training on digits of which half have a wrong label, seed 0."""
    experiment = build(resolve(compose_config([*OVERRIDES, *overrides])[0]))
    weighted, source = experiment.problem.inspect, experiment.source
    assert weighted is not None
    state = train_in_memory(experiment)
    key = jax.random.key(experiment.settings.seed)
    task = one_task(source, source.seeded(source.data, key), key, "train")
    samples = jax.device_get(weighted(state.variables["problem"], task))
    weight_histogram(samples, histogram, "digits, half of the labels wrong: weights by RHG")
    trust_sheet(samples, sheet, rows=1)
