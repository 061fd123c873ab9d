"""Implicit hypergradient by GMRES.

Blondel et al.: Efficient and modular implicit differentiation, NeurIPS 2022 (arXiv 2105.15183)
list it beside CG; the solver: Saad and Schultz, 1986.

    H q = grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q

Time: one lower solve, one Hessian-vector product per solver step. Memory: `restart` lower iterates.
Valid near a lower solution where H is regular; it smooths the residual monotonically also where H
is indefinite, where CG may break down.
"""

from functools import partial

from src.bilevel.krylov import krylov, krylov_target
from src.bilevel.linear_solve import gmres
from src.bilevel.types import BilevelProblem, Hypergradient, LowerDynamics

DIFFERENTIATES = ("context", "aggregation")
TARGET = krylov_target


def implicit_gmres(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    persistent: bool,
    *,
    damping: float | None = None,
    tolerance: float = 1e-6,
    tolerance_decay: float = 1.0,
    max_solver_steps: int = 100,
    restart: int = 20,
    lower_tolerance: float | None = None,
    max_residual: float = 1.0,
) -> Hypergradient:
    """Options and refusals as `krylov`; GMRES starts afresh after `restart` steps."""
    if restart < 1:
        raise ValueError(f"restart={restart} must be at least 1; choose restart=20")
    return krylov(
        problem,
        dynamics,
        num_lower_steps,
        persistent,
        partial(gmres, restart=restart),
        damping=damping,
        tolerance=tolerance,
        tolerance_decay=tolerance_decay,
        max_solver_steps=max_solver_steps,
        lower_tolerance=lower_tolerance,
        max_residual=max_residual,
        named="GMRES",
    )
