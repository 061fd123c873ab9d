"""Implicit hypergradient by a truncated Neumann series.

Lorraine, Vicol, Duvenaud: Optimizing millions of hyperparameters by implicit differentiation,
AISTATS 2020 (arXiv 1911.02590), Alg. 3:

    q = eta sum_{j < m} (I - eta H)^j grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q

m terms equal the last m of infinitely many unrolled steps of SGD with step eta. The paper takes
the step of the lower level for eta; where eta |H| > 2 the series diverges, which `linear_residual`
shows. step_size=None takes 1 / |H| from ten power iterations, for each task.

Time: one lower solve and m + 10 Hessian-vector products. Memory: a few lower iterates. Valid near
a lower solution; with too few terms it is biased towards grad_y F itself, as is early stopping.
"""

import math

import jax.numpy as jnp

from src.bilevel.implicit_differentiation import implicit, implicit_target
from src.bilevel.linear_solve import Matvec, neumann, spectral_norm
from src.bilevel.types import Array, BilevelProblem, Hypergradient, LowerDynamics, Tree

DIFFERENTIATES = ("context", "aggregation")


def target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float | None = None,
    step_size: float | None = None,
    num_terms: int,
    **_,
):
    """F along d(x, y) = d(x, y_K), the inverse Hessian replaced by the series."""

    def series(matrix: Array, key: Array) -> Array:
        identity = jnp.eye(len(matrix), dtype=matrix.dtype)
        eta = _step_size(step_size, lambda vector: matrix @ vector, matrix[0], key)
        total = power = identity
        for _ in range(num_terms - 1):
            power = power @ (identity - eta * matrix)
            total = total + power
        return eta * total

    return implicit_target(problem, dynamics, num_lower_steps, series, damping=damping)


TARGET = target


def implicit_neumann(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float | None = None,
    step_size: float | None = None,
    num_terms: int = 50,
    lower_tolerance: float | None = None,
    max_residual: float = 1.0,
) -> Hypergradient:
    """m = num_terms terms with eta = step_size, or 1 / |H| where that is None.

    Raises ValueError on a value outside its range, and as `implicit`.
    """
    if step_size is not None and not 0 < step_size < math.inf:
        raise ValueError(
            f"step_size={step_size} must be positive and finite; null takes 1 / |H|, measured"
        )
    if num_terms < 1:
        raise ValueError(f"num_terms={num_terms} must be at least 1; choose num_terms=50")

    def solve(matvec, b: Tree, start: Tree, iteration: Array, key: Array) -> Tree:
        del start, iteration
        return neumann(matvec, b, _step_size(step_size, matvec, b, key), num_terms)

    return implicit(
        problem,
        dynamics,
        num_lower_steps,
        solve,
        damping=damping,
        lower_tolerance=lower_tolerance,
        max_residual=max_residual,
        warm_start=False,
        solver=f"{num_terms} terms of the Neumann series",
    )


def _step_size(given: float | None, matvec: Matvec, like: Tree, key: Array) -> Array | float:
    if given is not None:
        return given
    norm = spectral_norm(matvec, like, key)
    return 1 / jnp.where(norm > 0, norm, 1)
