"""Sums of random quadratics with every closed form: a test bed for stochastic methods.

    f(x, y) = 1/n sum_i [1/2 y^T A_i y + 1/2 x^T B_i x + x^T C_i y + a_i.y + b_i.x]

and F of the same form, with m rows of its own. With the means A, B, C, a, b of f, and those of F
marked ',

    y*(x) = -A^-1 (C^T x + a) = D x + d
    h(x)  = F(x, y*(x)),    grad h = B' x + C' y* + b' + D^T (A' y* + C'^T x + a')
    Hessian of h = [I; D]^T [[B', C'], [C'^T, A']] [I; D]

The form is that of `simulated` in benchmark_bilevel (Dagreou et al., NeurIPS 2022, arXiv
2201.13409). What holds here by construction:

- A, B, A', B' have the eigenvalues geomspace(mu, L), and no A_i or B_i has a negative one;
- C and C' have the singular values linspace(0, L_cross), the largest of them L_cross;
- h is strongly convex: the matrix in the middle is at least mu - L_cross_upper > 0, hence so is
  the Hessian of h, as |[x; D x]| >= |x|.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.from_objectives import persistent_source
from bilevel.mini_batches import Sampling, in_mini_batches
from bilevel.types import Array, BilevelProblem, Exact, Metrics, TaskSource, Tree


def quadratic(
    *,
    num_lower_rows: int = 256,
    num_upper_rows: int = 256,
    dim_upper: int = 20,
    dim_lower: int = 20,
    mu: float = 0.1,
    L: float = 1.0,
    L_cross_lower: float = 0.3,
    L_cross_upper: float = 0.05,
    noise: float = 1.0,
    batch_size: int | None = None,
    sampling: Sampling = "rows",
    data_seed: int = 0,
) -> tuple[BilevelProblem, TaskSource]:
    """x (dim_upper,) and y (dim_lower,), both from 0.

    `batch_size`: rows of f, and of F where the steps descend it too, per lower step, drawn as
    `sampling` says (src/bilevel/mini_batches.py); None for all.
    Rows differ by `noise` in [0, 1]: 0 makes them equal, at 1 an A_i is a Wishart matrix with as
    many degrees of freedom as y has entries. All of them are on the device,
    (n + m) (dim_upper^2 + dim_upper dim_lower + dim_lower^2) numbers: 2.5 MB of float32 at the
    defaults, 246 MB at n = m = 1024 and dimensions of 100.

    Raises ValueError on sizes below 1, a negative seed, mu outside (0, L], noise outside [0, 1],
    a negative L_cross, and L_cross_upper >= mu, where h may be unbounded from below.
    """
    for name, size, example in (
        ("num_lower_rows", num_lower_rows, 256),
        ("num_upper_rows", num_upper_rows, 256),
        ("dim_upper", dim_upper, 20),
        ("dim_lower", dim_lower, 20),
    ):
        if size < 1:
            raise ValueError(
                f"{name}={size} must be at least 1; choose for example {name}={example}"
            )
    _check_range("mu", mu, 0 < mu <= L < np.inf, f"must be in (0, L], L={L}", L / 10)
    _check_range("noise", noise, 0 <= noise <= 1, "is outside [0, 1]", 1.0)
    _check_range(
        "L_cross_lower", L_cross_lower, 0 <= L_cross_lower < np.inf, "must not be negative", 0.3
    )
    _check_range(
        "L_cross_upper",
        L_cross_upper,
        0 <= L_cross_upper < mu,
        f"is outside [0, mu), mu={mu}: F(x, y*(x)) might have no minimum",
        mu / 2,
    )
    _check_range("data_seed", data_seed, data_seed >= 0, "must not be negative", 0)
    generator = np.random.default_rng(data_seed)
    task = {
        part: jax.tree.map(
            lambda leaf: jnp.asarray(leaf, dtype=float),
            _rows(generator, rows, dim_upper, dim_lower, mu, L, cross, noise),
        )
        for part, rows, cross in (
            ("train", num_lower_rows, L_cross_lower),
            ("validation", num_upper_rows, L_cross_upper),
        )
    }

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        return _value(_means(task["train"]), context, y)

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        return _value(_means(task["validation"]), context, y), {}

    def slope(task: Tree) -> Array:
        """D, the derivative of y*."""
        f = _means(task["train"])
        return -jnp.linalg.solve(f["A"], f["C"].T)

    def lower_solution(x: Array, task: Tree) -> Array:
        f = _means(task["train"])
        return -jnp.linalg.solve(f["A"], f["C"].T @ x + f["a"])

    def hypergradient(x: Array, task: Tree) -> Array:
        upper, y = _means(task["validation"]), lower_solution(x, task)
        through_y = upper["A"] @ y + upper["C"].T @ x + upper["a"]
        return upper["B"] @ x + upper["C"] @ y + upper["b"] + slope(task).T @ through_y

    def upper_solution(task: Tree) -> Array:
        upper, D = _means(task["validation"]), slope(task)
        mixed = upper["C"] @ D
        matrix = upper["B"] + mixed + mixed.T + D.T @ upper["A"] @ D
        return -jnp.linalg.solve(matrix, hypergradient(jnp.zeros(dim_upper), task))

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        return {
            "upper_loss": upper_objective(context, task, y)[0],
            "lower_loss": lower_objective(context, task, y),
            "value_function_gradient_norm": jnp.linalg.norm(hypergradient(x, task)),
            "lower_variable_error": jnp.linalg.norm(y - lower_solution(x, task)),
            "upper_variable_error": jnp.linalg.norm(x - upper_solution(task)),
        }

    form = "1/2 y.A_i y + 1/2 x.B_i x + x.C_i y + a_i.y + b_i.x"
    problem = BilevelProblem(
        init_upper=lambda key: jnp.zeros(dim_upper),
        prepare=lambda x, task: x,
        init_lower=lambda key, x: jnp.zeros(dim_lower),
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas={
            "f": f"f(x, y) = mean over {num_lower_rows} rows i of {form}",
            "F": f"F(x, y) = mean over {num_upper_rows} other rows i of {form}",
        },
        exact=Exact(lower_solution, hypergradient, upper_solution),
    )
    problem = in_mini_batches(
        problem, batch_size, num_lower_rows, num_upper_rows, sampling=sampling
    )
    return problem, persistent_source(task, batches=batch_size is not None)


def _value(means: Tree, x: Array, y: Array) -> Array:
    squares = 0.5 * (y @ means["A"] @ y + x @ means["B"] @ x)
    return squares + x @ means["C"] @ y + means["a"] @ y + means["b"] @ x


def _means(rows: Tree) -> Tree:
    """Means over the rows; taken anew each time, as a method that sees rows only would have to."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), rows)


def _rows(
    generator: np.random.Generator,
    num_rows: int,
    dim_upper: int,
    dim_lower: int,
    mu: float,
    largest: float,
    cross: float,
    noise: float,
) -> dict[str, np.ndarray]:
    """A (n, q, q), B (n, p, p), C (n, p, q), a (n, q), b (n, p), p and q the dimensions of x, y."""

    def positive(size: int) -> np.ndarray:
        """R S_i R, R^2 the mean; S_i = (1 - noise) I + noise W_i >= 0, the mean of W_i being I."""
        basis = _orthogonal(generator, size)
        root = (basis * np.sqrt(np.geomspace(mu, largest, size))) @ basis.T
        draws = generator.standard_normal((num_rows * size, size))
        # The columns of Q are orthonormal: the blocks of Q, as W_i = n Q_i^T Q_i, have the mean I.
        white = np.linalg.qr(draws)[0].reshape(num_rows, size, size) @ root
        return (1 - noise) * root @ root + noise * num_rows * white.transpose(0, 2, 1) @ white

    def around(mean: np.ndarray, scale: float) -> np.ndarray:
        draws = generator.standard_normal((num_rows, *mean.shape))
        return mean + noise * scale * (draws - draws.mean(axis=0))

    shared = min(dim_upper, dim_lower)
    left, right = (_orthogonal(generator, size)[:, :shared] for size in (dim_upper, dim_lower))
    mixed = (left * np.linspace(cross, 0, shared, endpoint=shared > 1)) @ right.T
    return {
        "A": positive(dim_lower),
        "B": positive(dim_upper),
        "C": around(mixed, cross / (dim_upper * dim_lower) ** 0.25),
        "a": around(generator.standard_normal(dim_lower), 1.0),
        "b": around(generator.standard_normal(dim_upper), 1.0),
    }


def _orthogonal(generator: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(generator.standard_normal((size, size)))[0]


def _check_range(name: str, value: float, good: bool, why: str, example: float) -> None:
    if not good:
        raise ValueError(f"{name}={value} {why}; choose for example {name}={example:g}")
