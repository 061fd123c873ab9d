"""How strongly to regularise a linear model, learned from validation rows (HOAG's setting).

    f(x, y) = mean over training rows (a, b) of loss(a y, b)  +  1/2 sum_g exp(x_g) |y_g|^2
    F(x, y) = mean over validation rows of loss(a y, b)

with one log penalty x_g for all of y, for each feature, or for each class; the losses are those of
src/problems/linear_model.py. Where H is the Hessian of f in y,

    d F(x, y*(x)) / d x_g = -exp(x_g) <y*_g, q_g>,    q = H^-1 grad_y F(y*)

Pedregosa, ICML 2016 (arXiv 1602.02355). Of benchmark_bilevel (Dagreou et al., NeurIPS 2022, arXiv
2201.13409), ijcnn1 is logistic with a penalty per feature, covtype softmax with one per class. No
intercept is fitted there either.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from bilevel.from_objectives import persistent_source
from bilevel.mini_batches import Sampling, in_mini_batches
from bilevel.types import Array, BilevelProblem, Exact, Metrics, Objectives, TaskSource, Tree
from src.data.labelled import Table
from src.problems.linear_model import Loss, linear_model, rows_of, suited_loss
from src.problems.newton import newton

# There is no `exact` where a Newton step takes more products than this, d^2 (rows + d) for d
# entries of y: about 20 ms on a CPU. A run computes the true hypergradient in every iteration, in
# some eight such steps; on digits, 6e8 products, that took 0.9 s of iterations of 0.03 s.
MAX_PRODUCTS = 1e8


def regularisation(
    data: Table,
    *,
    loss: Literal["auto"] | Loss = "auto",
    penalty: Literal["scalar", "per_feature", "per_class"] = "scalar",
    initial_log_penalty: float = -2.0,
    max_log_penalty: float = 0.0,
    batch_size: int | None = None,
    sampling: Sampling = "rows",
) -> tuple[BilevelProblem, TaskSource]:
    """x: log penalties, shape (), (p,) or (classes,); y: weights from 0, (p,) or (p, classes).

    loss=auto follows the targets: real numbers, two classes, more. x is projected to at most
    `max_log_penalty`: an irrelevant feature wants an infinite penalty, and lower steps diverge
    where step_size times the largest eigenvalue of the Hessian exceeds 2. That is at most

        c (largest eigenvalue of A^T A / n) + exp(max_log_penalty),    c = 1, 1/4, 1/2

    for squared, logistic, softmax. `batch_size`: rows of f, and of F where the steps descend it
    too, per lower step; None for all. `exact` has y* by Newton steps (one where squared) and the
    hypergradient, with a dense Hessian, while that costs at most MAX_PRODUCTS.

    Raises ValueError on a loss that does not suit the targets, a penalty that does not suit the
    loss, and where x starts above its bound.
    """
    loss = suited_loss(loss, data.num_classes)
    if penalty == "per_class" and loss != "softmax":
        raise ValueError(
            f"penalty=per_class needs a column of y for each class, but with loss={loss} y is one "
            "column; choose penalty=per_feature or penalty=scalar"
        )
    if not initial_log_penalty <= max_log_penalty:
        raise ValueError(
            f"initial_log_penalty={initial_log_penalty} is above "
            f"max_log_penalty={max_log_penalty}; choose for example "
            f"initial_log_penalty={min(-2.0, max_log_penalty)}"
        )
    num_rows, num_features = data.inputs["train"].shape
    num_validation_rows, _ = data.inputs["validation"].shape
    model = linear_model(loss, num_features, data.num_classes)
    x_shape = {"scalar": (), "per_feature": model.shape[:1], "per_class": model.shape[1:]}[penalty]

    def penalties(x: Array) -> Array:
        """exp(x_g) at every entry of y."""
        by_row = penalty == "per_feature" and len(model.shape) == 2
        return jnp.broadcast_to(jnp.exp(x[:, None] if by_row else x), model.shape)

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        return model.mean_loss(task["train"], y) + 0.5 * jnp.sum(penalties(context) * y**2)

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        del context
        rows = task["validation"]
        return model.mean_loss(rows, y), model.scores(rows, y)

    def hessian(x: Array, task: Tree, y: Array) -> Array:
        return model.hessian(task["train"], y) + jnp.diag(penalties(x).ravel())

    def lower_solution(x: Array, task: Tree) -> Array:
        def value(flat: Array) -> Array:
            return lower_objective(x, task, flat.reshape(model.shape))

        def derivatives(flat: Array) -> tuple[Array, Array]:
            return jax.grad(value)(flat), hessian(x, task, flat.reshape(model.shape))

        start = jnp.zeros(num_entries, x.dtype)
        if loss == "squared":
            gradient, matrix = derivatives(start)
            return -jnp.linalg.solve(matrix, gradient)
        return newton(value, derivatives, start).reshape(model.shape)

    def value_gradient(x: Array, task: Tree, y: Array) -> Array:
        """The gradient of F(x, y*(x)), at y = y*(x)."""
        upper_gradient = jax.grad(model.mean_loss, argnums=1)(task["validation"], y)
        q = jnp.linalg.solve(hessian(x, task, y), upper_gradient.ravel()).reshape(model.shape)
        return -jax.grad(lambda x: jnp.sum(penalties(x) * y * q))(x)

    def against_exact(x: Array, task: Tree, y: Array) -> Metrics:
        solution = lower_solution(x, task)
        gradient = value_gradient(x, task, solution)
        return {
            "value_function": model.mean_loss(task["validation"], solution),
            "value_function_gradient_norm": jnp.linalg.norm(gradient.ravel()),
            "lower_variable_error": jnp.linalg.norm((y - solution).ravel()),
        }

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        mean_loss = model.mean_loss(task["held_out"], y)
        held_out = {"mean_squared_error": 2 * mean_loss}
        if loss != "squared":
            held_out = model.scores(task["held_out"], y)
        return {
            "upper_loss": mean_loss,
            "lower_loss": lower_objective(context, task, y),
            **held_out,
            **(against_exact(x, task, y) if affordable else {}),
        }

    num_entries = math.prod(model.shape)
    affordable = num_entries**2 * (num_rows + num_entries) <= MAX_PRODUCTS
    exact = Exact(
        lower_solution=lower_solution,
        hypergradient=lambda x, task: value_gradient(x, task, lower_solution(x, task)),
    )
    formulas = {
        "f": f"f(x, y) = mean over {num_rows} training rows (a, b) of {model.formula}"
        f" + {_PENALTIES[penalty]}",
        "F": f"F(x, y) = mean over {num_validation_rows} validation rows of {model.formula}",
    }
    problem = BilevelProblem(
        init_upper=lambda key: jnp.full(x_shape, float(initial_log_penalty)),
        prepare=lambda x, task: x,
        init_lower=lambda key, x: jnp.zeros(model.shape),
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas=formulas,
        exact=exact if affordable else Exact(),
        project_upper=lambda x: jnp.minimum(x, max_log_penalty),
        # One vector added to every column of a softmax's y changes nothing, nor does a y that is
        # orthogonal to all rows.
        singular_hessians=frozenset({Objectives.F})
        if loss == "softmax" or num_validation_rows < num_features
        else frozenset(),
    )
    rows = {split: rows_of(data, split, loss) for split in data.inputs}
    task = {split: rows[split] for split in ("train", "validation")}
    problem = in_mini_batches(problem, batch_size, num_rows, num_validation_rows, sampling=sampling)
    return problem, persistent_source(task, held_out=rows, batches=batch_size is not None)


_PENALTIES = {
    "scalar": "exp(x)/2 |y|^2",
    "per_feature": "1/2 sum_j exp(x_j) |y_j|^2",
    "per_class": "1/2 sum_k exp(x_k) |y_k|^2",
}
