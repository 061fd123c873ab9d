"""Which training labels a stored hyper-cleaning run suspects."""

from typing import NamedTuple

import jax
import numpy as np

from bilevel.shapes import one_task
from src.data.labelled import LabelledImages
from src.prediction.trained import Trained, read_again, trained
from src.problems.weighted_samples import WeightedSamples
from src.running.run_folder import Run
from src.settings.errors import UserError


class Suspects(NamedTuple):
    """Of each training sample, in the order of the run (n,): its weight, whether that is below
    `threshold`, its label, and whether this label is wrong (None: the run polluted none itself, so
    nobody knows). origins: its file or row, () where the data set says none; names: of the
    classes, () where the labels are names enough.
    """

    weights: np.ndarray
    suspected: np.ndarray
    labels: np.ndarray
    wrong: np.ndarray | None
    threshold: float
    origins: tuple[str, ...]
    names: tuple[str, ...]
    state: Trained


def suspected_labels(run: Run, *, checkpoint: str = "last", seed: int | None = None) -> Suspects:
    """The learned weights of the training samples, and those below the run's threshold.

    Raises UserError where the run learned no weights (a baseline), or has no such state.
    """
    experiment = run.experiment
    inspect, source = experiment.problem.inspect, experiment.source
    if inspect is None:
        raise UserError(
            f"run={run.folder} learned no weights (problem.baseline): name a run with "
            "problem.baseline=none"
        )
    state = trained(run, checkpoint, seed)
    key = jax.random.key(state.seed)
    task = one_task(source, source.seeded(source.data, key), key, "train")
    samples = jax.device_get(inspect(state.state.variables["problem"], task))
    assert isinstance(samples, WeightedSamples)
    data: LabelledImages = read_again(run, LabelledImages)
    weights, wrong = np.asarray(samples.weights), np.asarray(samples.wrong)
    return Suspects(
        weights,
        weights < samples.threshold,
        np.asarray(samples.labels),
        wrong if wrong.any() else None,
        samples.threshold,
        data.origins.get("train", ()),
        data.names,
        state,
    )
