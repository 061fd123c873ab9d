"""What the implicit estimators with a Krylov solver share: tolerance, its schedule, warm start."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from src.bilevel.implicit_differentiation import implicit, implicit_target
from src.bilevel.types import Array, BilevelProblem, Hypergradient, LowerDynamics, Tree


def krylov(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    persistent: bool,
    solver: Callable[..., Tree],
    *,
    damping: float | None,
    tolerance: float,
    tolerance_decay: float,
    max_solver_steps: int,
    lower_tolerance: float | None,
    max_residual: float,
    named: str,
) -> Hypergradient:
    """`implicit` with solver(matvec, b, start, tolerance, max_steps) -> q.

    Upper iteration n solves to the relative tolerance max(tolerance tolerance_decay^n, float
    epsilon). Where the task persists, a solve starts from the q of the iteration before.

    Raises ValueError on a value outside its range, and as `implicit`.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance} is outside (0, 1); choose tolerance=1e-6")
    if max_solver_steps < 1:
        raise ValueError(f"max_solver_steps={max_solver_steps} must be at least 1; choose 100")

    def solve(matvec: Any, b: Tree, start: Tree, iteration: Array, key: Array) -> Tree:
        del key
        epsilon = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(b))
        wanted = jnp.maximum(tolerance * jnp.power(tolerance_decay, iteration), epsilon)
        return solver(matvec, b, start, wanted, max_solver_steps)

    return implicit(
        problem,
        dynamics,
        num_lower_steps,
        solve,
        damping=damping,
        lower_tolerance=lower_tolerance,
        tolerance_decay=tolerance_decay,
        max_residual=max_residual,
        warm_start=persistent,
        solver=named,
    )


def krylov_target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float | None = None,
    **_,
):
    """F along d(x, y) + damping (y - y_K) = d(x, y_K)."""
    invert = partial(jnp.linalg.pinv, hermitian=True)
    return implicit_target(
        problem, dynamics, num_lower_steps, lambda matrix, key: invert(matrix), damping=damping
    )
