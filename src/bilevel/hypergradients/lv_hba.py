"""Proximal Lagrangian value function, for a lower level with constraints g(x, y) <= 0 (LV-HBA).

    v(x, y, z) = min over theta, max over lambda in [0, bound], of
                 f(x, theta) + lambda^T g(x, theta) + |theta - y|^2 / (2 gamma1)
                 - |lambda - z|^2 / (2 gamma2)
    minimised    F + c (f(x, y) - v(x, y, z)) over x, y with g(x, y) <= 0, and z in [0, bound]

In each of the K lower steps, c = weight (n + 1)^power, all at x:

    theta  by the lower optimizer along grad_y (f + lambda^T g)(theta) + (theta - y) / gamma1
    lambda = clip(lambda + eta (g(theta) - (lambda - z) / gamma2)),  both from the old theta, lambda
    y      by the lower optimizer along grad_y (F / c + f + mu^T g)(y) - (y - theta) / gamma1, where
           mu = clip(mu + rho g(y)) before the step and, from the same mu, after it
    z      = clip(z + beta (lambda - z) / gamma2),                   clip: into [0, bound]
    g_x    = dF/dx(y) + c (d(f + mu^T g)/dx(y) - d(f + lambda^T g)/dx(theta))
    rho    = constraint_weight

Yao, Yu, Zeng, Zhang: Constrained bi-level optimization: proximal Lagrangian value function approach
and Hessian-free algorithm, ICLR 2024 (arXiv 2401.16164), with K = 1. Three things differ there:
(x, y) is projected onto {g <= 0}, the objective is divided by c, and x moves together with y. Here
x moves by any upper optimizer and a projection of both is seldom at hand, so y has multipliers mu
of its own, by the method of multipliers, which keep it feasible in the limit: at rest g(y) <= 0
holds exactly, for each rho. F has the squares that it has for every method (`bilevel.constraints`).

After a run y comes from lower steps on the penalties, as for all methods, and from
`steps_of_solution` further ones along grad_y (f + mu^T g), which remove their bias.

Time: per lower step two gradients of f, three of g and one of F. No second derivatives. Memory: two
lower iterates and three multipliers per constraint. Valid for f and g convex in y, all multipliers
below bound, and steps of y shorter than 2 / (L + rho |dg/dy|^2), off by the order of 1 / c.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel import option_checks as check
from bilevel.constraints import kept_apart
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.penalties import (
    WEIGHT_LIMIT,
    Followed,
    counted,
    following,
    growing,
    output_of,
    refuse_weight,
)
from bilevel.shapes import first_point
from bilevel.types import Array, Index, Penalised, Tree


class Saddle(NamedTuple):
    """theta like y; its multipliers lambda, their centre z, and mu of y: (constraints,)."""

    theta: Tree
    multipliers: Array
    centre: Array
    of_y: Array


class OfTask(NamedTuple):
    """f, g and F of one task, as functions of (context, y)."""

    penalised: Penalised
    lower: LowerProblem

    def g(self, context: Tree, y: Tree) -> Array:
        """(number of constraints,)."""
        values = ravel_pytree(self.penalised.constraints(context, self.lower.task, y))[0]
        return values.astype(jnp.result_type(*jax.tree.leaves(y)))

    def lagrangian(self, context: Tree, y: Tree, multipliers: Array) -> Array:
        """f + lambda^T g."""
        return self.penalised.f(context, self.lower.task, y) + multipliers @ self.g(context, y)

    def pushed(self, context: Tree, y: Tree, multipliers: Array, bound: float) -> Array:
        """clip(mu + rho g(y))."""
        return jnp.clip(multipliers + self.penalised.weight * self.g(context, y), 0, bound)

    def upper(self, context: Tree, y: Tree) -> Array:
        """F."""
        return self.lower.problem.upper_objective(context, self.lower.task, y)[0]


def lv_hba(
    *,
    weight: float = 10.0,
    power: float = 0.3,
    gamma: float = 1.0,
    gamma_of_multipliers: float = 1.0,
    step_size_of_multipliers: float = 0.1,
    step_size_of_centre: float = 0.1,
    bound: float = 1000.0,
    steps_of_solution: int = 200,
) -> Hypergradient:
    """g_x = dF/dx + c (d(f + mu^T g)/dx(y) - d(f + lambda^T g)/dx(theta)).

    weight, power: c = weight (n + 1)^power in upper iteration n. gamma: gamma1, of
    |theta - y|^2 / (2 gamma1). gamma_of_multipliers: gamma2. step_size_of_multipliers: eta, of
    lambda. step_size_of_centre: beta, of z. bound: of lambda, mu and z.
    steps_of_solution: how many make y feasible before it is scored; 0 for none.
    Raises ValueError for a weight outside (0, 1e6], a power outside [0, 1], a negative
    steps_of_solution, another option that is not positive and finite, and beta > gamma2; `check`
    does without constraints of the lower level, and on mini-batches.
    """
    refuse_weight(weight, power)
    for name, value, usual in (
        ("gamma", gamma, 1),
        ("gamma_of_multipliers", gamma_of_multipliers, 1),
        ("step_size_of_multipliers", step_size_of_multipliers, 0.1),
        ("step_size_of_centre", step_size_of_centre, 0.1),
        ("bound", bound, 1000),
    ):
        check.number(name, value)
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite; choose {name}={usual}")
    steps_of_solution = check.whole_number("steps_of_solution", steps_of_solution, least=None)
    if steps_of_solution < 0:
        raise ValueError(
            f"steps_of_solution={steps_of_solution} must not be negative; choose "
            "steps_of_solution=200"
        )
    if step_size_of_centre > gamma_of_multipliers:
        raise ValueError(
            f"step_size_of_centre={step_size_of_centre} is above "
            f"gamma_of_multipliers={gamma_of_multipliers}: z would step past lambda; choose "
            f"step_size_of_centre={0.1 * gamma_of_multipliers:g}"
        )

    def estimate(
        lower: LowerProblem, point: Point, carry: Followed, key: Array
    ) -> HypergradientOutput:
        scale = growing(weight, power, carry.iteration)
        level, context, of = lower.at(point), point.context, of_task(lower)

        def into_bounds(multipliers: Array) -> Array:
            return jnp.clip(multipliers, 0, bound)

        def body(now: tuple[LowerState, LowerState, Array, Array, Array], k: Index):
            other, state, multipliers, centre, of_y = now
            theta, y = other.y, state.y
            slope = jax.tree.map(
                lambda f, theta, y: f + (theta - y) / gamma,
                jax.grad(of.lagrangian, argnums=1)(context, theta, multipliers),
                theta,
                y,
            )
            ascent = of.g(context, theta) - (multipliers - centre) / gamma_of_multipliers
            other = level.move(slope, other, k)
            multipliers = into_bounds(multipliers + step_size_of_multipliers * ascent)
            slope = jax.tree.map(
                lambda f, upper, y, theta: f + upper / scale - (y - theta) / gamma,
                jax.grad(of.lagrangian, argnums=1)(context, y, of.pushed(context, y, of_y, bound)),
                jax.grad(of.upper, argnums=1)(context, y),
                y,
                other.y,
            )
            state = level.move(slope, state, k)
            of_y = of.pushed(context, state.y, of_y, bound)
            drift = (multipliers - centre) / gamma_of_multipliers
            centre = into_bounds(centre + step_size_of_centre * drift)
            return (other, state, multipliers, centre, of_y), None

        before = carry.other if lower.persistent else first_saddle(lower, point)
        states = level.init(before.theta), level.init(point.y0)
        start = (*states, before.multipliers, before.centre, before.of_y)
        steps = jnp.arange(1, lower.num_steps + 1)
        (other, state, multipliers, centre, of_y), _ = lax.scan(body, start, steps)

        def objective(context: Tree) -> tuple[Array, Array]:
            gap = of.lagrangian(context, state.y, of_y)
            gap -= of.lagrangian(context, other.y, multipliers)
            return of.upper(context, state.y) + scale * gap, gap

        of_context, gap = jax.grad(objective, has_aux=True)(context)
        shown = {"penalty_weight": scale, "value_gap": gap}
        onwards = following(carry, Saddle(other.y, multipliers, centre, of_y))
        return output_of(lower, point, state.y, of_context, shown, onwards)

    def solution(lower: LowerProblem, point: Point, y: Tree) -> Tree:
        """The method of multipliers, a step of y and one of mu at a time, from y_K."""
        level, context, of = lower.at(point), point.context, of_task(lower)

        def body(now: tuple[LowerState, Array], k: Index):
            state, mu = now
            pushed = of.pushed(context, state.y, mu, bound)
            slope = jax.grad(of.lagrangian, argnums=1)(context, state.y, pushed)
            state = level.move(slope, state, k)
            return (state, of.pushed(context, state.y, mu, bound)), None

        start = level.init(y), first_saddle(lower, point).of_y
        (state, _), _ = lax.scan(body, start, jnp.arange(1, steps_of_solution + 1))
        return state.y

    return Hypergradient(
        "lv_hba",
        estimate,
        "g = dF/dx(y) + c (d(f + mu^T g)/dx(y) - d(f + lambda^T g)/dx(theta)), "
        f"c = {weight:g} (n + 1)^"
        f"{power:g};  theta descends and lambda ascends f + lambda^T g + |theta - y|^2 / "
        f"(2 {gamma:g}) - |lambda - z|^2 / (2 {gamma_of_multipliers:g}), "
        f"y descends F / c + f + mu^T g - |y - theta|^2 / (2 {gamma:g}), mu by the method of "
        "multipliers, z follows lambda",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        own_directions=True,
        init=first,
        check=_check,
        solution=solution,
        limits={"penalty_weight": WEIGHT_LIMIT},
    )


def of_task(lower: LowerProblem) -> OfTask:
    """f, g and F of the task; without constraints g is empty."""
    return OfTask(kept_apart(lower.problem), lower)


def first_saddle(lower: LowerProblem, point: Point) -> Saddle:
    """theta at y0, no multipliers."""
    g = jax.eval_shape(of_task(lower).g, point.context, point.y0)
    none = jnp.zeros(g.shape, g.dtype)
    return Saddle(point.y0, none, none, none)


def first(lower: LowerProblem, y0: Tree) -> Followed:
    """Before the first iteration; lower.task may hold shapes alone."""
    started = counted(lower, y0)
    if not lower.persistent:
        return started

    def constraints(task: Tree) -> Array:
        return of_task(lower._replace(task=task)).g(first_point(lower, task, y0).context, y0)

    g = jax.eval_shape(constraints, lower.task)
    none = jnp.zeros(g.shape, g.dtype)
    return started._replace(other=Saddle(y0, none, none, none))


def _check(lower: LowerProblem, shapes: Point) -> None:
    del shapes
    if lower.problem.penalised is None:
        raise ValueError(
            "hypergradient=lv_hba follows the multipliers of the constraints of the lower level, "
            "but this problem has none; choose hypergradient=moreau_envelope (method=meha), or "
            "give the problem lower_constraints"
        )
    if lower.problem.mini_batch is not None:
        raise ValueError(
            "hypergradient=lv_hba has one multiplier for each constraint of all rows, but the "
            "lower steps see mini-batches; choose problem.batch_size=null, or "
            "hypergradient=moreau_envelope (method=meha)"
        )
