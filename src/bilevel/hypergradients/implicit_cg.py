"""Implicit hypergradient by conjugate gradients (HOAG, AID-CG).

Pedregosa: Hyperparameter optimization with approximate gradient, ICML 2016 (arXiv 1602.02355),
Alg. 1: lower problem and linear system are solved to tolerances that shrink with the iteration.

    H q = grad_y F,   g = dF/dx - (d grad_y psi / dx)^T q    (psi: what the lower steps descend)

Time: one lower solve and one Hessian-vector product per solver step, about sqrt(condition number)
of them. Memory: a few lower iterates, whatever K. Valid near a lower solution where H is positive
definite; damping makes a singular one so, at the price of a bias that `undamped_residual` shows.
"""

from src.bilevel.krylov import krylov, krylov_target
from src.bilevel.linear_solve import conjugate_gradient
from src.bilevel.types import BilevelProblem, Hypergradient, LowerDynamics

DIFFERENTIATES = ("context", "aggregation")
TARGET = krylov_target


def implicit_cg(
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
        conjugate_gradient,
        damping=damping,
        tolerance=tolerance,
        tolerance_decay=tolerance_decay,
        max_solver_steps=max_solver_steps,
        lower_tolerance=lower_tolerance,
        max_residual=max_residual,
        named="conjugate gradients",
    )
