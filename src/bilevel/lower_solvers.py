"""Lower solvers: one lower step is one iteration of a jaxopt solver, with its line search.

    lbfgs                quasi-Newton steps (L-BFGS)
    gradient_descent     gradient steps, or Nesterov's accelerated ones
    projected_gradient   the same, kept in a convex set

They have no step size to choose, and they stop: once |residual| <= tolerance a step changes
nothing, so K = num_lower_steps is the largest number of iterations. Implicit estimators stop there
too. A line search has no useful derivative: what differentiates through lower steps is refused.

Memory: lbfgs keeps 2 history + 3 vectors like y, the others at most 2. jaxopt (Blondel et al.,
NeurIPS 2022, arXiv 2105.15183) is reached through linear_solve.py alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel.convex_sets import ConvexSet, projection_onto
from bilevel.linear_solve import load_jaxopt
from bilevel.types import (
    Array,
    Index,
    LowerOptimizer,
    Projection,
    Reason,
    ScalarOf,
    Tree,
    unchanged,
)

# We run the loop ourselves. Without `unroll` a line search is a lax.while_loop, which ends early;
# 30 halvings of a step size are a factor of 1e-9.
_OPTIONS = {"implicit_diff": False, "unroll": False, "maxls": 30}
# A change of f is read off its values where it is this many times their rounding error.
_RESOLVED = 1000


class _Place(NamedTuple):
    """Where an iteration starts, y as one vector.

    objective   never NaN: inf instead, so that a line search turns back there
    onto        the projection
    d           the gradient of the objective at y
    residual    |d|, or |y - P(y - d)|; not zero
    """

    objective: ScalarOf
    onto: Projection
    y: Array
    d: Array
    residual: Array


class _Engine(NamedTuple):
    """A jaxopt solver: its first state, and (y, state) after one iteration."""

    start: Callable[[ScalarOf, Array], Tree]
    iterate: Callable[[_Place, Any], tuple[Array, Tree]]


def lbfgs(*, tolerance: float = 1e-6, history: int = 10) -> LowerOptimizer:
    """L-BFGS with a zoom line search: y without constraints, a smooth f.

    Liu, Nocedal, Mathematical Programming 45, 1989. Where the last two gradients show no positive
    curvature (f is not convex there), or a line search fails, it forgets its memory and goes on
    from a gradient step.

    Raises ValueError where tolerance is not positive and finite, or history < 1.
    """
    if history < 1:
        raise ValueError(f"history={history} must be at least 1; choose history=10")

    def solver(objective: ScalarOf) -> Any:
        return load_jaxopt().LBFGS(objective, history_size=history, **_OPTIONS)

    def iterate(place: _Place, state: Any) -> tuple[Array, Tree]:
        # The value and gradient that the state holds are of the step before, whose objective may
        # have been another one.
        state = state._replace(value=place.objective(place.y), grad=place.d)
        moved, state = solver(place.objective).update(place.y, state)
        usable = jnp.isfinite(state.value) & jnp.isfinite(state.grad).all()
        learned = usable & ~state.failed_linesearch & (state.gamma > 0)
        memory = {"s_history": 0, "y_history": 0, "rho_history": 0, "gamma": 1, "stepsize": 1}
        kept = {
            name: jnp.where(learned, getattr(state, name), nothing)
            for name, nothing in memory.items()
        }
        return jnp.where(usable, moved, place.y), state._replace(**kept)

    engine = _Engine(lambda objective, y: solver(objective).init_state(y), iterate)
    text = f"y_k by L-BFGS ({history} pairs, zoom line search) along d_k"
    return _lower_optimizer("lbfgs", engine, text, tolerance)


def gradient_descent(*, tolerance: float = 1e-6, acceleration: bool = False) -> LowerOptimizer:
    """y_k = y_{k-1} - eta_k d_k, eta_k halved until f decreases enough, then doubled for the next.

    acceleration: Nesterov's, from a point beyond y_{k-1}: about sqrt(condition number) iterations
    in place of (condition number). Beck, Teboulle, SIAM Journal on Imaging Sciences 2, 2009; it
    starts again where it overshoots (O'Donoghue, Candes, Foundations of Computational Mathematics
    15, 2015).

    Raises ValueError where tolerance is not positive and finite.
    """
    text = f"y_k = y_{{k-1}} - eta_k d_k, eta_k by backtracking{_words(acceleration)}"
    return _lower_optimizer("gradient_descent", _gradient_steps(acceleration), text, tolerance)


def projected_gradient(
    *,
    set: ConvexSet,
    lower: float | None = None,
    upper: float | None = None,
    radius: float | None = None,
    tolerance: float = 1e-6,
    acceleration: bool = False,
) -> LowerOptimizer:
    """y_k = P(y_{k-1} - eta_k d_k), P the Euclidean projection onto a convex set.

    Sets, `lower`, `upper` and `radius` as in `lower_optimizers.projected`; eta_k and
    `acceleration` as in `gradient_descent`. It stops where |y - P(y - d)| <= tolerance, and
    implicit estimators differentiate that fixed point.

    Raises ValueError as both of them.
    """
    onto, words = projection_onto(set, lower, upper, radius)
    text = f"y_k = P(y_{{k-1}} - eta_k d_k), {words}, eta_k by backtracking{_words(acceleration)}"
    engine = _gradient_steps(acceleration)
    return _lower_optimizer("projected_gradient", engine, text, tolerance, onto)


def _words(acceleration: bool) -> str:
    return " and Nesterov's acceleration" if acceleration else ""


def _gradient_steps(acceleration: bool) -> _Engine:
    """jaxopt.ProjectedGradient, in the coordinates u of y + residual u.

    Its line search compares values of f with a slack of one rounding error: near a solution in
    float32 it then takes any step size. In these coordinates a step has size one wherever it is.
    """

    def solver(change: ScalarOf, onto: Projection, slope: Array) -> Any:
        return load_jaxopt().ProjectedGradient(
            change,
            lambda u, _: onto(u),
            # Asked for at the base alone, where the change is zero.
            value_and_grad=lambda u: (jnp.zeros((), u.dtype), slope),
            acceleration=acceleration,
            **_OPTIONS,
        )

    def start(objective: ScalarOf, y: Array) -> Tree:
        return solver(objective, unchanged, y).init_state(y)

    def iterate(place: _Place, state: Any) -> tuple[Array, Tree]:
        objective, onto, y, d, _ = place
        size = jnp.where(place.residual > 0, place.residual, 1)
        base, value, slope = y, objective(y), d
        if acceleration:
            base = state.velocity
            value, slope = jax.value_and_grad(objective)(base)

        def at(u: Array) -> Array:
            return y + size * u

        def change(u: Array) -> Array:
            """(f(at u) - f(base)) / size^2; by the trapezoidal rule where f does not resolve it."""
            there, slope_there = jax.value_and_grad(objective)(at(u))
            difference = there - value
            rounding = jnp.finfo(value.dtype).eps * jnp.maximum(jnp.abs(there), jnp.abs(value))
            unresolved = jnp.abs(difference) < _RESOLVED * rounding
            integral = jnp.vdot(slope + slope_there, at(u) - base) / 2
            return jnp.where(unresolved, integral, difference) / size / size

        inside = solver(change, lambda u: (onto(at(u)) - y) / size, slope / size)
        if acceleration:
            state = state._replace(velocity=(base - y) / size)
        u, state = inside.update(jnp.zeros_like(y), state)
        moved = onto(at(u))
        usable = jnp.isfinite(objective(moved)) & jnp.isfinite(moved).all()
        moved = jnp.where(usable, moved, y)
        if not acceleration:
            return moved, state
        fresh = ~usable | (jnp.vdot(base - moved, moved - y) > 0)
        return moved, state._replace(
            velocity=jnp.where(fresh, moved, at(state.velocity)), t=jnp.where(fresh, 1, state.t)
        )

    return _Engine(start, iterate)


def _lower_optimizer(
    name: str, engine: _Engine, text: str, tolerance: float, projection: Projection | None = None
) -> LowerOptimizer:
    if not 0 < tolerance < math.inf:
        raise ValueError(
            f"tolerance={tolerance} must be positive and finite; choose for example tolerance=1e-6"
        )

    def init(params: Mapping[str, Tree], y0: Tree, objective: ScalarOf) -> Tree:
        flat, unravel = ravel_pytree(y0)
        return engine.start(_of_vector(objective, unravel), flat)

    def update(
        params: Mapping[str, Tree],
        direction: Tree,
        opt_state: Tree,
        y: Tree,
        k: Index,
        objective: ScalarOf,
    ) -> tuple[Tree, Tree]:
        (flat, unravel), d = ravel_pytree(y), ravel_pytree(direction)[0]

        def onto(point: Array) -> Array:
            return ravel_pytree(projection(unravel(point)))[0] if projection else point

        residual = jnp.linalg.norm(flat - onto(flat - d) if projection else d)

        def iterate() -> tuple[Tree, Tree]:
            place = _Place(_of_vector(objective, unravel), onto, flat, d, residual)
            moved, state = engine.iterate(place, opt_state)
            # Parts of jaxopt's state change their type on the way.
            same = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), state, opt_state)
            return unravel(moved), same

        return lax.cond(residual <= tolerance, lambda: (y, opt_state), iterate)

    return LowerOptimizer(
        init_params=lambda num_lower_steps, y0: {},
        init=init,
        update=update,
        project=lambda params: params,
        formula=f"{text}, until |{'y - P(y - d)' if projection else 'd'}| <= {tolerance:g}",
        projection=projection,
        no_derivative=Reason(
            f"lower_optimizer={name} runs a solver to a tolerance, and its line search has no "
            "derivative",
            "hypergradient=implicit_cg (method=hoag), which needs the solution alone, or "
            "lower_optimizer=sgd, whose steps have one",
        ),
        tolerance=tolerance,
    )


def _of_vector(objective: ScalarOf, unravel: Callable[[Array], Tree]) -> ScalarOf:
    """The objective of y as one vector; inf where it is no number."""

    def of_vector(flat: Array) -> Array:
        value = objective(unravel(flat))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    return of_vector
