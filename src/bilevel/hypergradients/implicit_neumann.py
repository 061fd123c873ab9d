"""Implicit hypergradient by a truncated Neumann series.

Lorraine, Vicol, Duvenaud: Optimizing millions of hyperparameters by implicit differentiation,
AISTATS 2020 (arXiv 1911.02590), Alg. 3:

    q = eta sum_{j < m} (I - eta H)^j grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q

Time: one lower solve and m Hessian-vector products. Memory: a few lower iterates. Valid near a
lower solution where eta |H| < 2, else the series diverges, which `linear_residual` shows; m terms
equal the last m of infinitely many unrolled steps of SGD with step eta. With too few terms it is
biased towards grad_y F itself, as is early stopping.
"""

import jax.numpy as jnp

from src.bilevel.implicit_differentiation import implicit, implicit_target
from src.bilevel.linear_solve import neumann
from src.bilevel.types import Array, BilevelProblem, Hypergradient, LowerDynamics, Tree

DIFFERENTIATES = ("context", "aggregation")


def target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float,
    step_size: float,
    num_terms: int,
    **_,
):
    """F along d(x, y) = d(x, y_K), the inverse Hessian replaced by the series."""

    def series(matrix: Array, key: Array) -> Array:
        del key
        identity = jnp.eye(len(matrix), dtype=matrix.dtype)
        total = power = identity
        for _ in range(num_terms - 1):
            power = power @ (identity - step_size * matrix)
            total = total + power
        return step_size * total

    return implicit_target(problem, dynamics, num_lower_steps, series, damping=damping)


TARGET = target


def implicit_neumann(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float,
    step_size: float,
    num_terms: int = 50,
    lower_tolerance: float | None = None,
    max_residual: float = 1.0,
) -> Hypergradient:
    """m = num_terms terms with eta = step_size (that of the lower steps is a natural choice).

    Raises ValueError on a value outside its range, and as `implicit`.
    """
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be positive; choose that of the lower steps")
    if num_terms < 1:
        raise ValueError(f"num_terms={num_terms} must be at least 1; choose num_terms=50")

    def solve(matvec, b: Tree, start: Tree, iteration: Array, key: Array) -> Tree:
        del start, iteration, key
        return neumann(matvec, b, step_size, num_terms)

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
