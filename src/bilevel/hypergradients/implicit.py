"""Implicit differentiation (AID) of the lower solution, whatever solves the linear system.

Pedregosa: Hyperparameter optimization with approximate gradient, ICML 2016 (arXiv 1602.02355),
with the stationarity condition of the lower dynamics in place of grad f = 0; Blondel et al.:
Efficient and modular implicit differentiation, NeurIPS 2022 (arXiv 2105.15183). Where y = y(x)
solves d(x, y) = 0, d = grad_y psi, psi = w_F F + w_f f, and H = d d / d y + damping I:

    H q = grad_y F(x, y_K),     g = dF/dx - (d d / dx)^T q

Under a projection P the condition is y = P(y - d(x, y)). With S the (symmetric) Jacobian of P at
y - d, dy = S z turns its derivative into a symmetric system, so that one kind of solver does all:

    A q = S grad_y F,   A = S (I - S) + S H S,   g = dF/dx - (d d / dx)^T S q

The lower steps may descend mini-batches; the system is that of all rows.

Time: one lower solve and the solver's products with H. Memory: a few lower iterates, whatever K.
Valid near a lower solution where A is regular (damping makes a singular one so, at the price of a
bias that `undamped_residual` shows); at a y_K that is not one, g is the derivative of F along the
solutions of d(x, y) = d(x, y_K), not of F(x, y_K(x)). The start does not matter to a solution,
hence no gradient reaches it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bilevel.dependence import draws_start
from bilevel.estimator import Hypergradient, HypergradientOutput, Limit, Target
from bilevel.linear_solvers import Equation, LinearSolver, cg
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_tolerance import refuse_stopping, refuse_tolerance, solved_to_tolerance
from bilevel.option_checks import kind, number, numbers
from bilevel.stationarity import (
    System,
    linear_system,
    onto_range,
    part_inside,
    relative_error,
)
from bilevel.types import Array, Metrics, Objectives, Tree


class Carry(NamedTuple):
    """Upper iterations done, and the last q where the next solve starts from it, else ()."""

    iteration: Array
    solution: Tree


def implicit(
    *,
    solver: LinearSolver | None = None,
    damping: float | None = None,
    lower_tolerance: float | None = None,
    tolerance_decay: float = 1.0,
    max_residual: float | None = 1.0,
) -> Hypergradient:
    """Run the lower level, solve the system with `solver` (None: cg()), report both residuals.

    damping: None for the problem's own. lower_tolerance: stop the lower steps where |stationarity|
    <= lower_tolerance tolerance_decay^n, n the upper iteration; None for the lower optimizer's
    own, and all K steps where it has none. The solver's tolerance decays alike. Where the task
    persists, a solve starts from the q of the iteration before. A run stops where |A q - b| / |b|
    exceeds max_residual; None: never.

    Raises ValueError on a value outside its range; `check` does where the lower steps never rest,
    and without damping on a lower Hessian that is known to be singular.
    """
    solver = cg() if solver is None else solver
    example = "bilevel.linear_solvers.cg()"
    kind("solver", solver, LinearSolver, example)
    bound = math.inf if max_residual is None else max_residual
    _refuse(solver, damping, lower_tolerance, tolerance_decay, bound)

    def damping_of(lower: LowerProblem) -> float:
        own = lower.problem.damping if damping is None else damping
        return own or (solver.damping if damping is None else 0.0)

    def init(lower: LowerProblem, y0: Tree) -> Carry:
        warm = lower.persistent and solver.uses_start
        return Carry(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, y0) if warm else ())

    def estimate(
        lower: LowerProblem, point: Point, carry: Carry, key: Array
    ) -> HypergradientOutput:
        added = damping_of(lower)
        shrink = jnp.power(tolerance_decay, carry.iteration)
        y, diagnostics = solved_to_tolerance(lower, point, lower_tolerance, shrink)
        whole = lower.on_all_rows()
        (value, metrics), (of_context, v) = jax.value_and_grad(
            lambda context, y: whole.at(point._replace(context=context)).upper(y),
            argnums=(0, 1),
            has_aux=True,
        )(point.context, y)
        system = linear_system(whole, point, y, 0.0 if solver.adds_damping else added)
        b = v if lower.dynamics.projection is None else part_inside(system, v)
        warm = bool(jax.tree.leaves(carry.solution))
        start = carry.solution if warm else jax.tree.map(jnp.zeros_like, b)
        if warm and lower.dynamics.projection is not None:
            start = onto_range(system, start)
        in_solver = added if solver.adds_damping else 0.0
        q = solver.solve(Equation(system.matvec, b, in_solver, start, shrink), key)
        multiplier = system.project(q)

        _, pull_back = jax.vjp(lambda moved: whole.at(moved).direction(y, 1), point)
        (through,) = pull_back(multiplier)
        gradient = Point(
            jax.tree.map(jnp.subtract, of_context, through.context),
            jax.tree.map(jnp.negative, through.dynamics_params),
            jax.tree.map(jnp.zeros_like, point.y0),
        )
        return HypergradientOutput(
            value,
            gradient,
            y,
            metrics,
            diagnostics={**diagnostics, **residuals(system, q, b, added)},
            carry=Carry(carry.iteration + 1, q if warm else ()),
        )

    def residuals(system: System, q: Tree, b: Tree, damping: float) -> Metrics:
        """With and without the damping: how well A q = b is solved, and how far A was changed."""
        applied = system.matvec(q)
        added = q if solver.adds_damping else system.project(system.project(q))
        shift = jax.tree.map(lambda leaf: damping * leaf, added)
        damped = jax.tree.map(jnp.add, applied, shift) if solver.adds_damping else applied
        if not damping:
            return {"linear_residual": relative_error(damped, b)}
        plain = jax.tree.map(jnp.subtract, damped, shift)
        return {
            "linear_residual": relative_error(damped, b),
            "undamped_residual": relative_error(plain, b),
        }

    def target(lower: LowerProblem, point: Point, key: Array):
        """F(x, y_K - S M S (d(x, params, y_K) - d_K)), M what stands for the inverse of A, frozen.

        Written with dense matrices, it shares no solver with the estimate.
        """
        whole, shift = lower.on_all_rows(), damping_of(lower)
        flat, unravel = ravel_pytree(lower.solve(point))

        def direction(moved: Point, flat_y: Array) -> Array:
            return ravel_pytree(whole.at(moved).direction(unravel(flat_y), 1))[0]

        frozen = direction(point, flat)
        identity = jnp.eye(flat.size, dtype=flat.dtype)
        hessian = jax.jacfwd(direction, argnums=1)(point, flat)
        if not solver.adds_damping:
            hessian = hessian + shift * identity
        projected, onto = identity, lower.dynamics.projection
        if onto is not None:
            projected = jax.jacrev(lambda z: ravel_pytree(onto(unravel(z)))[0])(flat - frozen)
        matrix = projected @ (identity - projected) + projected @ hessian @ projected
        response = projected @ solver.inverse(matrix, shift, key) @ projected

        def phi(moved: Point) -> Array:
            solution = flat - response @ (direction(moved, flat) - frozen)
            return whole.at(moved).upper(unravel(solution))[0]

        return phi

    def check(lower: LowerProblem, shapes: Point) -> None:
        problem, dynamics, added = lower.problem, lower.dynamics, damping_of(lower)
        if dynamics.descends in problem.singular_hessians and not added:
            raise ValueError(
                f"damping={added}: the Hessian of {dynamics.descends} in y is singular, so the "
                "linear system has no unique solution; choose hypergradient.damping=0.1"
                f"{_ways_to_regularity(lower)}; hypergradient=unrolled needs no solution"
            )
        refuse_stopping(lower, lower_tolerance)

    of_solver = {f"solver.{name}": values for name, values in solver.certified_with.items()}
    exact = solver.exact_with
    return Hypergradient(
        f"implicit_{solver.name}",
        estimate,
        "g = dF/dx - (d grad_y psi / dx)^T q,  H q = grad_y F,  H = Hessian of psi in y + damping "
        f"(with a projection, its part inside the set),  by {solver.formula};  psi = what the "
        "lower steps descend",
        Target(_target_formula(solver), target),
        differentiates=frozenset({"context", "aggregation"}),
        through_steps=False,
        needs_stationarity=True,
        certified_with={"damping": (0.0, 0.2), **of_solver},
        exact_with=exact and _prefixed({"damping": 0.0, **exact}),
        work=solver.work and f"solver.{solver.work}",
        init=init,
        check=check,
        limits={
            "linear_residual": Limit(
                bound,
                f"the linear solve left |A q - b| / |b| above hypergradient.max_residual="
                f"{bound:g} (1 is no better than q = 0)",
                "The usual remedies: more damping (hypergradient.damping), more solver steps, "
                "terms or rank, a smaller step_size of a series, more lower steps; "
                "hypergradient=unrolled needs no linear solve",
            )
        },
    )


def _refuse(
    solver: LinearSolver,
    damping: float | None,
    lower_tolerance: float | None,
    tolerance_decay: float,
    max_residual: float,
) -> None:
    numbers(damping=damping, max_residual=max_residual)
    tolerance_decay = number("tolerance_decay", tolerance_decay)
    if damping is not None and not 0 <= damping < math.inf:
        raise ValueError(
            f"damping={damping} must be finite and not negative; choose damping=0 for none"
        )
    if damping == 0 and solver.damping:
        raise ValueError(
            f"damping={damping} must be positive and finite: with {solver.formula} it stands for "
            f"what that misses; choose {solver.damping:g}"
        )
    refuse_tolerance(lower_tolerance)
    if not 0 < tolerance_decay <= 1:
        raise ValueError(f"tolerance_decay={tolerance_decay} is outside (0, 1]; 1 for none")
    if not max_residual > 0:
        raise ValueError(f"max_residual={max_residual} must be positive; choose max_residual=1")
    if not (solver.has_residual or math.isinf(max_residual)):
        raise ValueError(
            f"max_residual={max_residual:g}: with {solver.formula} no system is solved, so a "
            "residual says nothing of the gradient; choose max_residual=None (null)"
        )


def _ways_to_regularity(lower: LowerProblem) -> str:
    problem, dynamics = lower.problem, lower.dynamics
    ways = "" if draws_start(problem) else ", or proximal_weight=0.1 (a term of f)"
    mixed = Objectives.f | Objectives.F
    if dynamics.descends == Objectives.f and mixed not in problem.singular_hessians:
        ways += ", or aggregation=descent aggregation.law=constant, whose F makes it regular here"
    return ways


def _target_formula(solver: LinearSolver) -> str:
    if not solver.stands_for:
        return "F along d(x, y) + damping (y - y_K) = d(x, y_K)"
    return f"F along d(x, y) = d(x, y_K), the inverse Hessian replaced by {solver.stands_for}"


def _prefixed(options: dict) -> dict:
    """Those of the solver under their full name."""
    return {k if k == "damping" else f"solver.{k}": v for k, v in options.items()}
