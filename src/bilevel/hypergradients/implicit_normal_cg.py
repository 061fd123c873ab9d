"""Implicit hypergradient by conjugate gradients on the normal equations.

Grazzi, Franceschi, Pontil, Salzo: On the iteration complexity of hypergradient computation, ICML
2020 (arXiv 2006.16218) discuss both systems.

    H^T H q = H^T grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q

Time: one lower solve and two Hessian-vector products per solver step, about (condition number) of
them. Memory: a few lower iterates. Valid near a lower solution where H is regular; unlike CG it
does not break down where H is indefinite (a saddle, a non-convex f), and its tolerance is that of
the normal equations.
"""

from src.bilevel.krylov import krylov, krylov_target
from src.bilevel.linear_solve import normal_conjugate_gradient
from src.bilevel.types import BilevelProblem, Hypergradient, LowerDynamics

DIFFERENTIATES = ("context", "aggregation")
TARGET = krylov_target


def implicit_normal_cg(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    persistent: bool,
    *,
    damping: float | None = None,
    tolerance: float = 1e-6,
    tolerance_decay: float = 1.0,
    max_solver_steps: int = 100,
    lower_tolerance: float | None = None,
    max_residual: float = 1.0,
) -> Hypergradient:
    """Options and refusals as `krylov`."""
    return krylov(
        problem,
        dynamics,
        num_lower_steps,
        persistent,
        normal_conjugate_gradient,
        damping=damping,
        tolerance=tolerance,
        tolerance_decay=tolerance_decay,
        max_solver_steps=max_solver_steps,
        lower_tolerance=lower_tolerance,
        max_residual=max_residual,
        named="conjugate gradients on the normal equations",
    )
