"""Single iterations of jaxopt's solvers, for an objective of one vector.

lower_solvers.py makes lower optimizers of them. jaxopt itself is reached through linear_solve.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.linear_solve import load_jaxopt
from bilevel.step_types import ScalarOf
from bilevel.types import Array, Projection, Tree, unchanged

# We run the loop ourselves. Without `unroll` a line search is a lax.while_loop, which ends early.
_OPTIONS = {"implicit_diff": False, "unroll": False}
# Of the step size in one line search: the square of 2^-10 is above the rounding of float32.
_HALVINGS = 10
_STEP_SIZES = (1e-15, 1e15)
# A change of f is read off its values where it is this many times their rounding error.
_RESOLVED = 1000


class Place(NamedTuple):
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


class Engine(NamedTuple):
    """A jaxopt solver: its first state, and (y, state) after one iteration."""

    start: Callable[[ScalarOf, Array], Tree]
    iterate: Callable[[Place, Any], tuple[Array, Tree]]


def quasi_newton(history: int) -> Engine:
    """jaxopt.LBFGS with its zoom line search."""

    def solver(objective: ScalarOf) -> Any:
        return load_jaxopt().LBFGS(objective, history_size=history, maxls=30, **_OPTIONS)

    def iterate(place: Place, state: Any) -> tuple[Array, Tree]:
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

    return Engine(lambda objective, y: solver(objective).init_state(y), iterate)


def gradient_steps(acceleration: bool) -> Engine:
    """jaxopt.ProjectedGradient, in the coordinates u of y + size u, size = eta |residual|.

    Its line search compares values of f with a slack of one rounding error, and near a solution,
    or where f is stiff, it would take any step for a good one. In these coordinates the first step
    that it tries has length one, and f the slope one, wherever it is.
    """

    def solver(change: ScalarOf, onto: Projection, slope: Array) -> Any:
        return load_jaxopt().ProjectedGradient(
            change,
            lambda u, _: onto(u),
            # Asked for at the base alone, where the change is zero.
            value_and_grad=lambda u: (jnp.zeros((), u.dtype), slope),
            acceleration=acceleration,
            maxls=_HALVINGS,
            **_OPTIONS,
        )

    def start(objective: ScalarOf, y: Array) -> Tree:
        return solver(objective, unchanged, y).init_state(y)

    def iterate(place: Place, state: Any) -> tuple[Array, Tree]:
        objective, onto, y, d, residual = place
        residual = jnp.where(residual > 0, residual, 1)
        size = state.stepsize * residual
        base, value, slope = y, objective(y), d
        if acceleration:
            base = state.velocity
            value, slope = jax.value_and_grad(objective)(base)

        def at(u: Array) -> Array:
            return y + size * u

        def change(u: Array) -> Array:
            """f(at u) - f(base), scaled; by the trapezoidal rule where values do not resolve it."""
            there, slope_there = jax.value_and_grad(objective)(at(u))
            difference = there - value
            rounding = jnp.finfo(value.dtype).eps * jnp.maximum(jnp.abs(there), jnp.abs(value))
            unresolved = jnp.abs(difference) < _RESOLVED * rounding
            integral = jnp.vdot(slope + slope_there, at(u) - base) / 2
            scaled = jnp.where(unresolved, integral, difference) / size / residual
            return jnp.where(jnp.isfinite(slope_there).all(), scaled, jnp.inf)

        begin = state._replace(stepsize=jnp.ones_like(size))
        if acceleration:
            begin = begin._replace(velocity=(base - y) / size)
        search = solver(change, lambda u: (onto(at(u)) - y) / size, slope / residual)
        _, found = search.update(jnp.zeros_like(y), begin)
        # jaxopt has doubled the step size for the next iteration; the smallest may be no good.
        eta = state.stepsize * found.stepsize / 2
        moved = onto(base - eta * slope)
        usable = (found.stepsize > 2 * 2**-_HALVINGS) & jnp.isfinite(moved).all()
        moved = jnp.where(usable, moved, y)
        found = found._replace(stepsize=jnp.clip(2 * eta, *_STEP_SIZES))
        if not acceleration:
            return moved, found
        fresh = ~usable | (jnp.vdot(base - moved, moved - y) > 0)
        return moved, found._replace(
            velocity=jnp.where(fresh, moved, at(found.velocity)), t=jnp.where(fresh, 1, found.t)
        )

    return Engine(start, iterate)
