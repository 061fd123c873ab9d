"""The linear model that a stored regularisation or ridge run has fitted."""

from typing import Any, NamedTuple

import numpy as np

from src.data.labelled import Table
from src.prediction.trained import Trained, read_again, solved, trained
from src.running.run_folder import Run


class Fitted(NamedTuple):
    """weights: (features,), or (features, classes) of a softmax; a row a is scored a @ weights.

    bias: 0, no intercept is fitted. penalties: the strength exp(x) at every entry of weights.
    log_penalties: x itself, (), (features,) or (classes,). scaling: (mean, deviation) of the
    features where the run standardised them: then score (a - mean) / deviation; None where not.
    target_scaling: of targets that are numbers: mean + deviation score is in their units.
    features: their names, () where numbers do. classes: their names in the order of the columns of
    weights; of a logistic loss, of score < 0 and of score >= 0; () where targets are numbers.
    """

    weights: np.ndarray
    bias: np.ndarray
    penalties: np.ndarray
    log_penalties: np.ndarray
    scaling: tuple[np.ndarray, np.ndarray] | None
    target_scaling: tuple[np.ndarray, np.ndarray] | None
    features: tuple[str, ...]
    classes: tuple[str, ...]
    state: Trained


def fitted_model(
    run: Run,
    *,
    checkpoint: str = "last",
    num_lower_steps: int | None = None,
    seed: int | None = None,
) -> Fitted:
    """The model as the run scored it, after num_lower_steps (None: those of the run).

    Raises UserError where the run has no such state, or it cannot take so many steps.
    """
    state = trained(run, checkpoint, seed)
    found = solved(run, state, num_lower_steps)
    weights, x = np.asarray(found.y), np.asarray(found.x)
    options: Any = run.config["problem"]
    data = read_again(run, Table)
    table = data if isinstance(data, Table) else Table({}, {}, 0)
    by_row = options.get("penalty") == "per_feature" and weights.ndim == 2
    penalties = np.exp(x[:, None] if by_row else x)
    return Fitted(
        weights,
        np.zeros(weights.shape[1:], weights.dtype),
        np.broadcast_to(penalties, weights.shape),
        x,
        table.scaling,
        table.target_scaling,
        table.features,
        table.names or tuple(map(str, range(table.num_classes))),
        state,
    )
