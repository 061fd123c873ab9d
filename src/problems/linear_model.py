"""Linear models of a table: the losses of squared, logistic and softmax regression.

    squared    loss(u, b) = 1/2 (u - b)^2            y (p,)
    logistic   loss(u, b) = log(1 + exp(-b u))       y (p,), b = -1, 1 for the classes 0, 1
    softmax    loss(u, b) = log sum_k exp u_k - u_b  y (p, classes)

of u = a y for a row (a, b). There is no intercept.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.types import Array, Metrics, Tree
from src.data.labelled import SparseRows, Table

Loss = Literal["squared", "logistic", "softmax"]


class LinearModel(NamedTuple):
    """One loss; `rows` are {"inputs": (n, p), "targets": (n,)}, or sparse, with "columns" and
    "values" (n, m) in place of "inputs" (src/data/labelled.py, SparseRows).

    shape                        of y
    mean_loss(rows, y) -> the mean of loss(a y, b)
    hessian(rows, y)             of mean_loss in the flat y, (d, d)
    scores(rows, y) -> {"accuracy": share of right classes}, or {} where there are none
    formula                      of the loss of a row
    """

    shape: tuple[int, ...]
    mean_loss: Callable[[Tree, Array], Array]
    hessian: Callable[[Tree, Array], Array]
    scores: Callable[[Tree, Array], Metrics]
    formula: str


def linear_model(loss: Loss, num_features: int, num_classes: int) -> LinearModel:
    """The model of a loss that suits the targets (`suited_loss`)."""
    columns = num_classes if loss == "softmax" else 1
    of_row = _LOSSES[loss]

    def outputs(rows: Tree, y: Array) -> Array:
        weights = y.reshape(num_features, columns)
        if "inputs" in rows:
            return rows["inputs"] @ weights
        return jnp.einsum("nm,nmc->nc", rows["values"], weights[rows["columns"]])

    def mean_loss(rows: Tree, y: Array) -> Array:
        return jax.vmap(of_row)(outputs(rows, y), rows["targets"]).mean()

    def hessian(rows: Tree, y: Array) -> Array:
        """mean of a a^T (x) loss''(a y), one p x p block after the other: n p numbers at a time."""
        inputs = rows["inputs"] if "inputs" in rows else _dense(rows, num_features)
        curvature = jax.vmap(jax.hessian(of_row))(outputs(rows, y), rows["targets"])
        blocks = lax.map(
            lambda weights: inputs.T @ (weights[:, None] * inputs) / inputs.shape[0],
            curvature.reshape(-1, columns**2).T,
        ).reshape(columns, columns, num_features, num_features)
        size = num_features * columns
        return blocks.transpose(2, 0, 3, 1).reshape(size, size)

    def scores(rows: Tree, y: Array) -> Metrics:
        if loss == "squared":
            return {}
        found = outputs(rows, y)
        classes = found.argmax(1) if loss == "softmax" else jnp.where(found[:, 0] >= 0, 1, -1)
        return {"accuracy": jnp.mean(classes == rows["targets"], dtype=found.dtype)}

    shape = (num_features, columns) if loss == "softmax" else (num_features,)
    return LinearModel(shape, mean_loss, hessian, scores, _FORMULAS[loss])


def suited_loss(loss: Literal["auto"] | Loss, num_classes: int) -> Loss:
    """What `auto` means: squared for real numbers, logistic for two classes, softmax for more.

    Raises ValueError where a named loss does not suit the targets.
    """
    suited: Loss = "squared" if num_classes == 0 else "logistic" if num_classes == 2 else "softmax"
    if loss in ("auto", suited):
        return suited
    if loss == "softmax" and num_classes > 1:
        return "softmax"
    needs = {"squared": "real numbers", "logistic": "two classes", "softmax": "classes"}[loss]
    found = f"{num_classes} classes" if num_classes else "real numbers"
    raise ValueError(
        f"loss={loss} needs targets that are {needs}, but those of the data are {found}; "
        f"choose loss={suited}, or other data"
    )


def rows_of(data: Table, split: str, loss: Loss) -> dict[str, Array]:
    """The rows of a split on the device, with the targets that the loss takes."""
    targets = data.targets[split]
    if loss == "logistic":
        targets = 2 * targets - 1
    found = data.inputs[split]
    inputs = (
        {"columns": jnp.asarray(found.columns), "values": jnp.asarray(found.values, dtype=float)}
        if isinstance(found, SparseRows)
        else {"inputs": jnp.asarray(found, dtype=float)}
    )
    return {**inputs, "targets": jnp.asarray(targets, dtype=int if loss == "softmax" else float)}


def _dense(rows: Tree, num_features: int) -> Array:
    """(n, p) of sparse rows."""
    values, columns = rows["values"], rows["columns"]
    at = jnp.arange(len(values))[:, None]
    return jnp.zeros((len(values), num_features), values.dtype).at[at, columns].add(values)


def _squared(u: Array, b: Array) -> Array:
    return 0.5 * (u[0] - b) ** 2


def _logistic(u: Array, b: Array) -> Array:
    return jax.nn.softplus(-b * u[0])


def _softmax(u: Array, b: Array) -> Array:
    return jax.nn.logsumexp(u) - jnp.sum(jnp.where(jnp.arange(u.size) == b, u, 0))


_LOSSES = {"squared": _squared, "logistic": _logistic, "softmax": _softmax}
_FORMULAS = {
    "squared": "1/2 (a.y - b)^2",
    "logistic": "log(1 + exp(-b a.y))",
    "softmax": "CE(a y, b)",
}
