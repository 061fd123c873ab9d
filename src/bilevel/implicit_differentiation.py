"""Implicit differentiation (AID) of the lower solution, whatever solves the linear system.

Pedregosa: Hyperparameter optimization with approximate gradient, ICML 2016 (arXiv 1602.02355),
with the stationarity condition of the lower dynamics in place of grad f = 0. Where y = y(x) solves
d(x, y) = 0, d = grad_y psi, psi = w_F F + w_f f, and H = d d / d y + damping I:

    H q = grad_y F(x, y_K),     g = dF/dx - (d d / dx)^T q

Under a projection P the condition is y = P(y - d(x, y)). With S the (symmetric) Jacobian of P at
y - d, dy = S z turns its derivative into a symmetric system, so that one kind of solver does all:

    A q = S grad_y F,   A = S (I - S) + S H S,   g = dF/dx - (d d / dx)^T S q

The lower steps may descend mini-batches; the system is that of all rows.

Valid near a lower solution where A is regular; at a y_K that is not one, g is the derivative of F
along the solutions of d(x, y) = d(x, y_K), not of F(x, y_K(x)). The start does not matter to a
solution, hence no gradient reaches it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from src.bilevel.linear_solve import Matvec
from src.bilevel.lower_solve import run_steps, run_until
from src.bilevel.proximal import draws_start
from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    Limit,
    LowerDynamics,
    Tree,
)

# solve(matvec, b, start, iteration, key) -> q
Solve = Callable[[Matvec, Tree, Tree, Array, Array], Tree]


class Carry(NamedTuple):
    """Upper iterations done, and the last q where the next solve starts from it, else ()."""

    iteration: Array
    solution: Tree


class System(NamedTuple):
    """A and S as products, at one point."""

    matvec: Matvec
    project: Matvec


def implicit(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    solve: Solve,
    *,
    damping: float | None,
    lower_tolerance: float | None,
    tolerance_decay: float = 1.0,
    max_residual: float,
    warm_start: bool,
    solver: str,
    regularises: bool = False,
) -> Hypergradient:
    """Run the lower steps, solve the system with `solve`, report how far both got.

    damping: None for the problem's own. lower_tolerance: stop the lower steps where |stationarity|
    <= lower_tolerance tolerance_decay^n, n the upper iteration; None for all K. A run stops where
    |A q - b| / |b| exceeds max_residual. `regularises`: the solver itself adds the damping.

    Raises ValueError on a value outside its range, on dynamics that never rest, and without damping
    on a lower Hessian that is known to be singular.
    """
    damping = damping_of(problem, damping)
    if not 0 <= damping < math.inf:
        raise ValueError(
            f"damping={damping} must be finite and not negative; choose damping=0 for none"
        )
    if lower_tolerance is not None and not 0 < lower_tolerance < math.inf:
        raise ValueError(
            f"lower_tolerance={lower_tolerance} must be positive and finite; null does all steps"
        )
    if not 0 < tolerance_decay <= 1:
        raise ValueError(f"tolerance_decay={tolerance_decay} is outside (0, 1]; 1 for none")
    if not max_residual > 0:
        raise ValueError(f"max_residual={max_residual} must be positive; choose max_residual=1")
    stationarity = dynamics.stationarity
    if stationarity is None:
        raise ValueError(f"implicit differentiation needs a lower solution, but {dynamics.moving}")
    if dynamics.descends in problem.singular_hessians and not damping:
        raise ValueError(
            f"damping={damping}: the Hessian of {dynamics.descends} in y is singular, so the "
            "linear system has no unique solution; choose hypergradient.damping=0.1"
            f"{_ways_to_regularity(problem, dynamics)}; hypergradient=unrolled needs no solution"
        )
    if lower_tolerance is not None and not takes_all_rows(problem):
        raise ValueError(
            f"lower_tolerance={lower_tolerance}: steps on mini-batches never come to rest; choose "
            "hypergradient.lower_tolerance=null, or problem.batch_size=null"
        )
    inner_damping = 0.0 if regularises else damping
    whole = on_all_rows(problem)

    def init(y0: Tree) -> Carry:
        solution = jax.tree.map(jnp.zeros_like, y0) if warm_start else ()
        return Carry(jnp.zeros((), jnp.int32), solution)

    def lower_solution(
        carry: Carry, context: Tree, task: Tree, params: Tree, y0: Tree
    ) -> tuple[Tree, Tree]:
        """y, and what there is to report."""
        state = dynamics.init(params, y0)
        if lower_tolerance is None:
            y = run_steps(problem, dynamics, params, context, task, state, 1, num_lower_steps).y
            return y, residual_of(context, task, params, y)
        tolerance = lower_tolerance * tolerance_decay**carry.iteration
        state, done = run_until(
            problem, dynamics, params, context, task, state, num_lower_steps, tolerance
        )
        steps = {"lower_steps": done.astype(tolerance.dtype)}
        return state.y, steps | residual_of(context, task, params, state.y)

    def residual_of(context: Tree, task: Tree, params: Tree, y: Tree) -> dict[str, Array]:
        found = stationarity(whole, params, context, task, y)
        return {"lower_residual": optax.tree.norm(found)}

    def estimate(
        carry: Carry, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        y, diagnostics = lower_solution(carry, context, task, params, y0)
        (value, metrics), (of_context, v) = jax.value_and_grad(
            problem.upper_objective, argnums=(0, 2), has_aux=True
        )(context, task, y, None)
        system = linear_system(whole, dynamics, context, task, params, y, inner_damping)
        b = system.project(v)
        start = carry.solution if warm_start else jax.tree.map(jnp.zeros_like, b)
        q = solve(system.matvec, b, start, carry.iteration, key)
        multiplier = system.project(q)

        _, pull_back = jax.vjp(
            lambda context, params: dynamics.direction(whole, params, context, task, y, 1),
            context,
            params,
        )
        through_context, through_params = pull_back(multiplier)
        of_params = jax.tree.map(jnp.negative, through_params)
        applied = system.matvec(q)
        # With and without the damping: how well the system is solved, and how far it was changed.
        added = q if regularises else system.project(multiplier)
        shift = jax.tree.map(lambda leaf: damping * leaf, added)
        damped = jax.tree.map(jnp.add, applied, shift) if regularises else applied
        diagnostics |= {"linear_residual": _relative(damped, b)}
        if damping:
            plain = jax.tree.map(jnp.subtract, damped, shift)
            diagnostics |= {"undamped_residual": _relative(plain, b)}
        return HypergradientOutput(
            value,
            jax.tree.map(jnp.subtract, of_context, through_context),
            of_params,
            jax.tree.map(jnp.zeros_like, y0),
            y=y,
            metrics=metrics,
            diagnostics=diagnostics,
            carry=Carry(carry.iteration + 1, q if warm_start else ()),
        )

    remedy = (
        "The usual remedies: more damping (hypergradient.damping), more solver steps, terms or "
        "rank, a smaller step_size of a series, more lower steps; hypergradient=unrolled needs no "
        "linear solve"
    )
    return Hypergradient(
        init=init,
        estimate=estimate,
        formula=_formula(dynamics, damping)
        + f",  by {solver};  psi = what the lower steps descend",
        limits={
            "linear_residual": Limit(
                max_residual,
                f"the linear solve left |A q - b| / |b| above hypergradient.max_residual="
                f"{max_residual:g} (1 is no better than q = 0)",
                remedy,
            )
        },
    )


def takes_all_rows(problem: BilevelProblem) -> bool:
    """Whether the lower steps descend f on all rows, not on mini-batches."""
    return problem.batch is BilevelProblem._field_defaults["batch"]


def on_all_rows(problem: BilevelProblem) -> BilevelProblem:
    """The same objectives without mini-batches: what a lower solution is a solution of."""
    return problem._replace(batch=BilevelProblem._field_defaults["batch"])


def damping_of(problem: BilevelProblem, damping: float | None) -> float:
    """The option of an estimator, where it is None the problem's own damping."""
    return problem.damping if damping is None else damping


def _ways_to_regularity(problem: BilevelProblem, dynamics: LowerDynamics) -> str:
    ways = "" if draws_start(problem) else ", or proximal_weight=0.1 (a term of f)"
    if dynamics.descends == "f" and "f + F" not in problem.singular_hessians:
        ways += ", or aggregation=descent aggregation.law=constant, whose F makes it regular here"
    return ways


def _formula(dynamics: LowerDynamics, damping: float) -> str:
    hessian = "H = Hessian of psi in y" + (f" + {damping:g} I" if damping else "")
    if dynamics.projection is None:
        return f"g = dF/dx - (d grad_y psi / dx)^T q,  H q = grad_y F,  {hessian}"
    return (
        "g = dF/dx - (d grad_y psi / dx)^T S q,  (S (I - S) + S H S) q = S grad_y F,  "
        f"S = Jacobian of P at y - grad_y psi,  {hessian}"
    )


def linear_system(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    context: Tree,
    task: Tree,
    params: Tree,
    y: Tree,
    damping: float,
) -> System:
    """A and S at y, as products with a vector; without a projection S = I and A = H."""

    def direction(y: Tree) -> Tree:
        return dynamics.direction(problem, params, context, task, y, 1)

    d, hessian = jax.linearize(direction, y)

    def damped(vector: Tree) -> Tree:
        return jax.tree.map(lambda h, w: h + damping * w, hessian(vector), vector)

    if dynamics.projection is None:
        return System(damped, lambda vector: vector)
    _, project = jax.linearize(dynamics.projection, jax.tree.map(jnp.subtract, y, d))

    def matvec(vector: Tree) -> Tree:
        inside = project(vector)
        curved = damped(inside)
        return project(jax.tree.map(lambda w, s, h: w - s + h, vector, inside, curved))

    return System(matvec, project)


def implicit_target(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    dense_inverse: Callable[[Array, Array], Array],
    *,
    damping: float | None,
):
    """F along the lower solution as the estimator approximates it, with its inverse frozen.

    phi(x, params) = F(x, y_K - S M S (d(x, params, y_K) - d_K)), M = dense_inverse(A, key) the
    matrix by which the estimator replaces the inverse of A. Its derivative at the point is the
    estimate; written with dense matrices, it shares no solver with it.
    """

    shift, whole = damping_of(problem, damping), on_all_rows(problem)

    def at_point(context: Tree, task: Tree, params: Tree, y0: Tree, key: Array):
        state = dynamics.init(params, y0)
        y = run_steps(problem, dynamics, params, context, task, state, 1, num_lower_steps).y
        flat, unravel = ravel_pytree(y)

        def direction(context: Tree, params: Tree, flat_y: Array) -> Array:
            found = dynamics.direction(whole, params, context, task, unravel(flat_y), 1)
            return ravel_pytree(found)[0]

        frozen = direction(context, params, flat)
        identity = jnp.eye(flat.size, dtype=flat.dtype)
        hessian = jax.jacfwd(direction, argnums=2)(context, params, flat) + shift * identity
        projected = identity
        if dynamics.projection is not None:
            onto = dynamics.projection
            projected = jax.jacrev(lambda z: ravel_pytree(onto(unravel(z)))[0])(flat - frozen)
        matrix = projected @ (identity - projected) + projected @ hessian @ projected
        response = projected @ dense_inverse(matrix, key) @ projected

        def phi(context: Tree, params: Tree, y0: Tree) -> Array:
            del y0
            moved = flat - response @ (direction(context, params, flat) - frozen)
            return problem.upper_objective(context, task, unravel(moved), None)[0]

        return phi

    return at_point


def _relative(found: Tree, b: Tree) -> Array:
    """|found - b| / |b|, zero where b is."""
    size = optax.tree.norm(b)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, found, b))
    return error / jnp.where(size > 0, size, 1)
