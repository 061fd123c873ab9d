"""What `python -m src.predict` does, by the kind of the problem of the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.files import write_atomically
from src.prediction.classes_report import report_classes
from src.prediction.fitted import fitted_model
from src.prediction.suspects import suspected_labels
from src.prediction.tables import (
    Options,
    Report,
    decimals,
    heading,
    predictions_folder,
    state_name,
    write_csv,
)
from src.problems.few_shot import few_shot
from src.problems.hyper_cleaning import hyper_cleaning
from src.problems.regularisation import regularisation
from src.problems.ridge import ridge
from src.running.run_folder import Run
from src.settings.checked import check_config
from src.settings.errors import UserError
from src.settings.key_values import whole_number

IMAGE_KEYS = ("support", "query", "invert")


def predict(run: Run, options: Options) -> Report:
    """Write what the run says into its folder `predictions`.

    Raises UserError where the problem has nothing to predict with, or the options do not suit it.
    """
    problem = check_config(run.config).node("problem").factory
    kinds: dict[Any, Callable[[Run, Options], Report]] = {
        few_shot: report_classes,
        hyper_cleaning: _suspects,
        regularisation: _fitted,
        ridge: _fitted,
    }
    if problem not in kinds:
        raise UserError(
            f"run={run.folder}: problem={run.experiment.problem_name} has nothing to predict with; "
            f"choose a run of {', '.join(kind.__name__ for kind in kinds)} (few_shot: the classes "
            "of images; hyper_cleaning: suspected labels; the others: the fitted model)"
        )
    if problem is not few_shot:
        for key in IMAGE_KEYS:
            if key in options:
                raise UserError(
                    f"{key}={options[key]}: problem={run.experiment.problem_name} takes no images; "
                    f"leave {key} out"
                )
    if problem is hyper_cleaning and "num_lower_steps" in options:
        raise UserError(
            "num_lower_steps: the weights of the samples are the upper variable, which no lower "
            "step changes; leave num_lower_steps out"
        )
    try:
        return kinds[problem](run, options)
    except OSError as error:
        raise UserError(
            f"{error.filename or run.folder} cannot be written ({error.strerror or error}); copy "
            "the run folder to a place where you may write, and name the copy"
        ) from error


def _suspects(run: Run, options: Options) -> Report:
    found = suspected_labels(
        run,
        checkpoint=options.get("checkpoint", "last"),
        seed=whole_number(options, "seed"),
    )
    path = predictions_folder(run) / f"suspects-{state_name(options)}.csv"
    number = len(found.weights)
    columns: list[Any] = [
        range(number),
        *decimals(found.weights[None]),
        found.suspected.astype(int),
        found.labels,
    ]
    header = ["index", "weight", "suspected", "label"]
    if found.names:
        columns[3] = [found.names[label] for label in found.labels]
    if found.origins:
        header.append("origin")
        columns.append(found.origins)
    if found.wrong is not None:
        header.append("wrong")
        columns.append(found.wrong.astype(int))
    write_csv(path, header, zip(*columns, strict=True))
    reported = int(found.suspected.sum())
    lines = [
        heading(run, found.state.step, options),
        f"{reported} of {number} training labels are suspected: a weight below {found.threshold:g}",
        f"weights from {found.weights.min():.2g} to {found.weights.max():.2g}",
    ]
    if found.weights.min() > found.threshold / 2:
        lines.append(
            "note: no weight is near 0, so nothing stands out; let the run go on (num_iterations), "
            "or compare the order of the weights only"
        )
    if found.wrong is not None:
        hits = int((found.wrong & found.suspected).sum())
        lines.append(
            f"{int(found.wrong.sum())} labels are wrong (the run made them so); {hits} of them are "
            "suspected"
        )
    return lines, path


def _fitted(run: Run, options: Options) -> Report:
    found = fitted_model(
        run,
        checkpoint=options.get("checkpoint", "last"),
        num_lower_steps=whole_number(options, "num_lower_steps"),
        seed=whole_number(options, "seed"),
    )
    path = predictions_folder(run) / f"model-{state_name(options)}.csv"

    # Of rows that were not standardised: (a - 0) / 1.
    mean, deviation = found.scaling or (np.zeros(len(found.weights)), np.ones(len(found.weights)))
    target_mean, target_deviation = found.target_scaling or (np.zeros(()), np.ones(()))

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.savez(
                file,
                weights=found.weights,
                bias=found.bias,
                penalties=found.penalties,
                log_penalties=found.log_penalties,
                mean=mean,
                deviation=deviation,
                target_mean=target_mean,
                target_deviation=target_deviation,
                classes=np.array(found.classes, dtype=str),
            )

    write_atomically(path.with_suffix(".npz"), write)
    indices: list[Any] = list(np.indices(found.weights.shape).reshape(found.weights.ndim, -1))
    if found.features:
        indices[0] = [found.features[index] for index in indices[0]]
    if found.classes and len(indices) == 2:
        indices[1] = [found.classes[index] for index in indices[1]]
    values = decimals(np.stack([found.weights.ravel(), found.penalties.ravel()]))
    header = [*["feature", "class"][: found.weights.ndim], "weight", "penalty"]
    write_csv(path, header, zip(*indices, *values, strict=True))
    lines = [
        heading(run, found.state.step, options),
        f"weights {found.weights.shape}, no intercept; penalties from {found.penalties.min():.4g} "
        f"to {found.penalties.max():.4g}",
        f"the same as arrays: {path.with_suffix('.npz')}",
    ]
    if len(found.classes) == 2 and found.weights.ndim == 1:
        lines.append(
            f"a row is of the class {found.classes[1]} where its score is at least 0, else of the "
            f"class {found.classes[0]}"
        )
    if found.scaling is not None:
        lines.append(
            "note: data.standardise=true, so the weights are those of standardised features, "
            "(a - mean) / deviation of a row a; mean and deviation are among the arrays"
        )
    if found.target_scaling is not None:
        lines.append(
            "note: so are the targets: a prediction in their units is target_mean + "
            "target_deviation * ((a - mean) / deviation) @ weights; both are among the arrays"
        )
    return lines, path
