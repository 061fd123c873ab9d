"""Implicit hypergradient by a Nystrom approximation of the lower Hessian.

Hataya, Yamada: Nystrom method for accurate and scalable implicit differentiation, AISTATS 2023
(arXiv 2302.09726): from `rank` random columns H_c of H, with H_cc their rows of the same index,

    q = (H_c H_cc^+ H_c^T + damping I)^{-1} grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q

H_cc^+ the pseudo-inverse of the positive part of H_cc.

Time: one lower solve, `rank` Hessian-vector products in one batch, no iteration. Memory: `rank`
lower iterates. Valid near a lower solution for a positive semi-definite H with few large
eigenvalues; what the columns miss is taken as damping alone, and `linear_residual` shows how much
that was.
"""

import math

import jax
import jax.numpy as jnp

from src.bilevel.implicit_differentiation import damping_of, implicit, implicit_target
from src.bilevel.linear_solve import nystrom
from src.bilevel.types import Array, BilevelProblem, Hypergradient, LowerDynamics, Tree

DAMPING = 0.1
DIFFERENTIATES = ("context", "aggregation")


def target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float | None = None,
    rank: int,
    **_,
):
    """F along d(x, y) = d(x, y_K), the inverse Hessian replaced by the approximation."""

    shift = _damping(problem, damping)

    def approximate(matrix: Array, key: Array) -> Array:
        chosen = _columns(key, len(matrix), rank)
        core = matrix[chosen][:, chosen]
        values, vectors = jnp.linalg.eigh(core)
        inverse = (vectors * jnp.where(values > 1e-12, 1 / values, 0)) @ vectors.T
        low_rank = matrix[:, chosen] @ inverse @ matrix[:, chosen].T
        return jnp.linalg.inv(low_rank + shift * jnp.eye(len(matrix), dtype=matrix.dtype))

    return implicit_target(problem, dynamics, num_lower_steps, approximate, damping=0.0)


TARGET = target


def implicit_nystrom(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    *,
    damping: float | None = None,
    rank: int = 20,
    lower_tolerance: float | None = None,
    max_residual: float = 1.0,
) -> Hypergradient:
    """`rank` columns, drawn anew for every task and iteration; all of them where y has fewer.

    Raises ValueError on a value outside its range, and as `implicit`.
    """
    damping = _damping(problem, damping)
    if not 0 < damping < math.inf:
        raise ValueError(
            f"damping={damping} must be positive and finite: it stands for what the columns miss; "
            "choose 0.1"
        )
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1; choose rank=20")

    def solve(matvec, b: Tree, start: Tree, iteration: Array, key: Array) -> Tree:
        del start, iteration
        size = sum(leaf.size for leaf in jax.tree.leaves(b))
        return nystrom(matvec, b, _columns(key, size, rank), damping)

    return implicit(
        problem,
        dynamics,
        num_lower_steps,
        solve,
        damping=damping,
        lower_tolerance=lower_tolerance,
        max_residual=max_residual,
        warm_start=False,
        solver=f"a Nystrom approximation of rank {rank}",
        regularises=True,
    )


def _damping(problem: BilevelProblem, damping: float | None) -> float:
    """None: the problem's own, or 0.1 where that is none."""
    return damping_of(problem, damping) or (DAMPING if damping is None else 0.0)


def _columns(key: Array, size: int, rank: int) -> Array:
    """Which columns: min(rank, size) of them without repetition."""
    return jax.random.permutation(key, size)[:rank]
