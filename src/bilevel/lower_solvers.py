"""Lower solvers: one lower step is one iteration of a jaxopt solver, with its line search.

    lbfgs                quasi-Newton steps (L-BFGS)
    gradient_descent     gradient steps, or Nesterov's accelerated ones
    projected_gradient   the same, kept in a convex set

They have no step size to choose, and they stop: once |residual| <= tolerance a step changes
nothing, so K = num_lower_steps is the largest number of iterations. Implicit estimators stop there
too. A line search has no useful derivative: what differentiates through lower steps is refused.

Memory: lbfgs keeps 2 history + 3 vectors like y, the others at most 2. jaxopt (Blondel et al.,
NeurIPS 2022, arXiv 2105.15183) is behind solver_iterations.py.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel import option_checks as check
from bilevel.convex_sets import ConvexSet, projection_onto
from bilevel.solver_iterations import Engine, Place, gradient_steps, quasi_newton
from bilevel.step_types import LowerOptimizer, Reason, ScalarOf
from bilevel.types import Array, Index, Projection, Tree


def lbfgs(*, tolerance: float = 1e-6, history: int = 10) -> LowerOptimizer:
    """L-BFGS with a zoom line search: y without constraints, a smooth f.

    Liu, Nocedal, Mathematical Programming 45, 1989. Where the last two gradients show no positive
    curvature (f is not convex there), or a line search fails, it forgets its memory and goes on
    from a gradient step.

    Raises ValueError where tolerance is not positive and finite, or history < 1.
    """
    history = check.whole_number("history", history, least=None)
    if history < 1:
        raise ValueError(f"history={history} must be at least 1; choose history=10")
    text = f"y_k by L-BFGS ({history} pairs, zoom line search) along d_k"
    return _lower_optimizer("lbfgs", quasi_newton(history), text, tolerance)


def gradient_descent(*, tolerance: float = 1e-6, acceleration: bool = False) -> LowerOptimizer:
    """y_k = y_{k-1} - eta_k d_k, eta_k halved until f decreases enough, then doubled for the next.

    acceleration: Nesterov's, from a point beyond y_{k-1}: about sqrt(condition number) iterations
    in place of (condition number). Beck, Teboulle, SIAM Journal on Imaging Sciences 2, 2009; it
    starts again where it overshoots (O'Donoghue, Candes, Foundations of Computational Mathematics
    15, 2015).

    Raises ValueError where tolerance is not positive and finite.
    """
    text = f"y_k = y_{{k-1}} - eta_k d_k, eta_k by backtracking{_words(acceleration)}"
    return _lower_optimizer("gradient_descent", gradient_steps(acceleration), text, tolerance)


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
    engine = gradient_steps(acceleration)
    return _lower_optimizer("projected_gradient", engine, text, tolerance, onto)


def _words(acceleration: bool) -> str:
    return " and Nesterov's acceleration" if acceleration else ""


def _lower_optimizer(
    name: str, engine: Engine, text: str, tolerance: float, projection: Projection | None = None
) -> LowerOptimizer:
    tolerance = check.number("tolerance", tolerance)
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
            place = Place(_of_vector(objective, unravel), onto, flat, d, residual)
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
