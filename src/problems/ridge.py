"""Ridge regression with learned penalties: the oracle with a unique lower solution.

    f(x, y) = 1/(2n) |A y - b|^2 + 1/2 sum_j exp(x_j) y_j^2,      F(x, y) = 1/(2m) |A' y - b'|^2

with (A, b) the training and (A', b') the validation rows; x holds one log penalty per feature, or
a single one. With H = A^T A / n + diag(exp x):

    y*(x) = H^-1 A^T b / n,     dF/dx_j = -exp(x_j) y*_j q_j,    q = H^-1 grad_y F(y*)
"""

from typing import Literal

import jax.numpy as jnp

from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.types import Array, BilevelProblem, Exact, Metrics, TaskSource, Tree
from src.data.labelled import SparseRows, Table
from src.problems.linear_model import rows_of


def ridge(
    data: Table,
    *,
    penalty: Literal["scalar", "per_feature"] = "per_feature",
    initial_log_penalty: float = -2.0,
    max_log_penalty: float = 1.0,
) -> tuple[BilevelProblem, TaskSource]:
    """x: log penalties, shape () or (p,); y: weights, shape (p,).

    x is projected to at most `max_log_penalty`: an irrelevant feature wants an infinite penalty,
    and lower steps diverge where step_size (largest eigenvalue of A^T A / n + exp x) > 2.

    Raises ValueError where x starts above its bound, and on data that has classes or sparse rows.
    """
    if data.num_classes:
        raise ValueError(
            f"data: its targets are {data.num_classes} classes, but ridge regression predicts "
            "numbers; choose problem=regularisation, or data.targets=numbers for your own table"
        )
    if isinstance(data.inputs["train"], SparseRows):
        raise ValueError(
            "data: its rows are sparse, but problem=ridge reads dense ones; choose "
            "data.sparse=false, or problem=regularisation"
        )
    if initial_log_penalty > max_log_penalty:
        raise ValueError(
            f"initial_log_penalty={initial_log_penalty} is above "
            f"max_log_penalty={max_log_penalty}; choose for example "
            f"initial_log_penalty={min(-2.0, max_log_penalty)}"
        )
    num_features = data.inputs["train"].shape[1]
    shape = () if penalty == "scalar" else (num_features,)

    def lower(x: Array, y: Array, task: Tree) -> Array:
        """f(x, y) = 1/(2n) |A y - b|^2 + 1/2 sum_j exp(x_j) y_j^2"""
        return _half_mse(y, task["train"]) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def upper(x: Array, y: Array, task: Tree) -> Array:
        """F(x, y) = 1/(2m) |A' y - b'|^2"""
        del x
        return _half_mse(y, task["validation"])

    def evaluate(x: Array, y: Array, task: Tree) -> Metrics:
        upper_loss = _half_mse(y, task["held_out"])
        return {
            "upper_loss": upper_loss,
            "mean_squared_error": 2 * upper_loss,
            "lower_variable_error": jnp.linalg.norm(y - lower_solution(x, task)),
        }

    def hessian(x: Array, task: Tree) -> Array:
        inputs = task["train"]["inputs"]
        penalties = jnp.broadcast_to(jnp.exp(x), (num_features,))
        return inputs.T @ inputs / inputs.shape[0] + jnp.diag(penalties)

    def lower_solution(x: Array, task: Tree) -> Array:
        rows = task["train"]
        right = rows["inputs"].T @ rows["targets"] / rows["inputs"].shape[0]
        return jnp.linalg.solve(hessian(x, task), right)

    def hypergradient(x: Array, task: Tree) -> Array:
        y, rows = lower_solution(x, task), task["validation"]
        residual = rows["inputs"] @ y - rows["targets"]
        upper_gradient = rows["inputs"].T @ residual / rows["inputs"].shape[0]
        per_feature = -jnp.exp(x) * y * jnp.linalg.solve(hessian(x, task), upper_gradient)
        return per_feature.sum() if penalty == "scalar" else per_feature

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.full(shape, initial_log_penalty),
        init_lower=lambda key: jnp.zeros(num_features),
        evaluate=evaluate,
        exact=Exact(lower_solution=lower_solution, hypergradient=hypergradient),
    )
    problem = problem._replace(project_upper=lambda x: jnp.minimum(x, max_log_penalty))
    rows = {split: rows_of(data, split, "squared") for split in data.inputs}
    task = {"train": rows["train"], "validation": rows["validation"]}
    return problem, persistent_source(task, held_out=rows)


def _half_mse(y: Array, rows: Tree) -> Array:
    return 0.5 * jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2)
