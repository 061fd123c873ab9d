"""What estimators share that follow H q = grad_y F by a step or a few in each iteration."""

from bilevel import option_checks as check
from bilevel.lower_level import LowerProblem
from bilevel.lower_tolerance import refuse_stopping


def damping_of(lower: LowerProblem, damping: float | None) -> float:
    """What is added to H: the option, or the problem's own where that is None."""
    return lower.problem.damping if damping is None else damping


def refuse_options(step_size: float, damping: float | None) -> None:
    """Raises ValueError where step_size <= 0 or damping < 0."""
    check.number("step_size", step_size)
    check.numbers(damping=damping)
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be positive; choose step_size=0.1")
    if damping is not None and not damping >= 0:
        raise ValueError(f"damping={damping} must not be negative; choose damping=0")


def refuse_lower_level(lower: LowerProblem, damping: float) -> None:
    """Raises ValueError for a lower level whose system cannot be followed on mini-batches."""
    problem, dynamics = lower.problem, lower.dynamics
    refuse_stopping(lower, None)
    if not lower.persistent:
        raise ValueError(
            "this estimator follows one task from iteration to iteration, but the problem "
            "draws new tasks; choose hypergradient=implicit_cg, or hypergradient=unrolled"
        )
    if dynamics.projection is not None:
        raise ValueError(
            "the linear system of this estimator knows no projection; choose "
            "hypergradient=implicit_cg, or lower_optimizer=sgd"
        )
    if dynamics.descends in problem.singular_hessians and not damping:
        raise ValueError(
            f"damping={damping}: the Hessian of {dynamics.descends} in y is singular, so "
            "q grows without end; choose hypergradient.damping=0.1, or hypergradient=unrolled"
        )
