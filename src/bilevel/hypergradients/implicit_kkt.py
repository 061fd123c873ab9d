"""Implicit differentiation of a lower solution under constraints, through its KKT conditions.

min over y of f(x, y) where g(x, y) <= 0, with multipliers lambda >= 0; D = diag(active):

    grad_y f + J^T lambda = 0,   active: g = 0,   else: lambda = 0,   J = dg/dy
    S = [H, J^T D; D J, I - D],  H = Hessian in y of f + lambda^T g
    S (p, q) = (grad_y F, 0),    g = dF/dx - (d grad_y (f + lambda^T g) / dx)^T p - (D dg/dx)^T q

The lower steps descend f + weight/2 sum max(0, g)^2 (`bilevel.constraints`). What they end at is a
solution with lambda = weight max(0, g), but for g = lambda / weight in place of 0. From there a few
steps of the primal-dual active set strategy (active where lambda + weight g > 0), which is a
semismooth Newton method: Hintermueller, Ito, Kunisch, SIAM Journal on Optimization 13, 2002. They
are kept where they lower the residual of these conditions. Else (f is not convex there, say) y is
what the lower steps ended at, and -D / weight joins the lower right block of S: this is the
derivative of the penalised solution (`implicit`).

F is the objective without its squares; G(x, y) <= 0, and what of g no y can keep, come to their
limits without a bias too (`bilevel.upper_multipliers`, with the context in place of x), at the rate
upper_rate. Where they count, g is the gradient of F + mu^T (g, G), not that of the squares which
the reported F has.

Eigenvalues of S that are 0 up to rounding are left out of its inverse: y does not move along the
solutions of a linear program that has several, and of dependent active gradients the shortest
multipliers count. Up to rounding means below eps^(2/3) of the largest, which is 2e-5 in float32: a
direction in which f is curved less than that, beside another, counts as one without curvature
(float64: 4e-11). Where a multiplier is 0 the solution has a kink in x, and g is one of its slopes.

Time: one lower solve, an eigendecomposition of S per Newton step, (|y| + |g|)^3, and the gradients
of all constraints. Memory: S, and (|g| + |G|) |x|.
Valid where y is a strict lower solution whose active gradients are independent.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from bilevel import option_checks as check
from bilevel.constraints import kept_apart
from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_tolerance import refuse_stopping, refuse_tolerance, solved_to_tolerance
from bilevel.types import Array, Objectives, Penalised, Tree
from bilevel.upper_multipliers import upper_multipliers

LARGEST = 2000  # |y| + |g|: S is dense


class Conditions(NamedTuple):
    """The KKT conditions of one task, y and g as vectors."""

    penalised: Penalised
    task: Tree
    unravel: Callable[[Array], Tree]

    def g(self, context: Tree, y: Array) -> Array:
        """The constraints; what is above 0 is violated."""
        values = self.penalised.constraints(context, self.task, self.unravel(y))
        return ravel_pytree(values)[0].astype(y.dtype)

    def scores(self, context: Tree, y: Array) -> Array:
        """F, g and G."""
        at = context, self.task, self.unravel(y)
        G = self.penalised.upper
        return jnp.concatenate(
            [
                self.penalised.F(*at)[0][None],
                self.g(context, y),
                ravel_pytree(() if G is None else G(*at))[0].astype(y.dtype),
            ]
        )

    def slope(self, context: Tree, y: Array, multipliers: Array) -> Array:
        """grad_y (f + lambda^T g)."""

        def lagrangian(y: Array) -> Array:
            value = self.penalised.f(context, self.task, self.unravel(y))
            return value + multipliers @ self.g(context, y)

        return jax.grad(lagrangian)(y)

    def active(self, context: Tree, y: Array, multipliers: Array) -> Array:
        """lambda + weight g > 0."""
        return multipliers + self.penalised.weight * self.g(context, y) > 0

    def residual(self, context: Tree, y: Array, multipliers: Array, active: Array) -> Array:
        """0 at a lower solution: (|y| + |g|,)."""
        of_g = jnp.where(active, self.g(context, y), multipliers)
        return jnp.concatenate([self.slope(context, y, multipliers), of_g])

    def matrix(self, context: Tree, y: Array, multipliers: Array, active: Array) -> Array:
        """S: (|y| + |g|, |y| + |g|)."""
        hessian = jax.jacfwd(lambda y: self.slope(context, y, multipliers))(y)
        jacobian = jnp.where(active[:, None], jax.jacrev(lambda y: self.g(context, y))(y), 0)
        return jnp.block([[hessian, jacobian.T], [jacobian, jnp.diag(jnp.where(active, 0.0, 1.0))]])


class Solution(NamedTuple):
    """y and multipliers as vectors, |residual|, and whether they are the penalised ones."""

    y: Array
    multipliers: Array
    distance: Array
    penalised: Array


def implicit_kkt(
    *, lower_tolerance: float | None = None, newton_steps: int = 10, upper_rate: float = 10.0
) -> Hypergradient:
    """Run the lower level on the penalties, make its end exact by Newton steps, and solve S.

    lower_tolerance: stop the lower steps where |stationarity| is below; None for the lower
    optimizer's own, and all K steps where it has none. newton_steps: 0 for none, which is
    `implicit` with a dense matrix. upper_rate: how fast the violation c of an upper constraint with
    gradient a in x falls, at least, as x descends: like exp(-upper_rate |a|^2 t). Where x comes to
    rest does not depend on it, but upper_rate |a|^2 times the upper step size must stay below 1.

    Raises ValueError on a value outside its range; `check` does without constraints of the lower
    level, on mini-batches, where lower steps descend F too or end in a projection, and where y and
    g have more than 2000 entries together.
    """
    refuse_tolerance(lower_tolerance)
    upper_rate = check.number("upper_rate", upper_rate)
    newton_steps = check.whole_number("newton_steps", newton_steps, least=None)
    if newton_steps < 0:
        raise ValueError(
            f"newton_steps={newton_steps} must not be negative; choose newton_steps=10"
        )
    if not 0 < upper_rate < math.inf:
        raise ValueError(
            f"upper_rate={upper_rate} must be positive and finite, or x would not return to where "
            "the upper constraints hold; choose upper_rate=10"
        )

    def solved(lower: LowerProblem, point: Point, y: Tree) -> tuple[Conditions, Solution]:
        """From y_K."""
        flat, unravel = ravel_pytree(y)
        conditions = Conditions(kept_apart(lower.problem), lower.task, unravel)
        return conditions, polished(conditions, point.context, flat, newton_steps)

    def solution(lower: LowerProblem, point: Point, y: Tree) -> Tree:
        conditions, found = solved(lower, point, y)
        return conditions.unravel(found.y)

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        context = point.context
        start, diagnostics = solved_to_tolerance(lower, point, lower_tolerance)
        conditions, found = solved(lower, point, start)
        y, active = conditions.unravel(found.y), conditions.active(context, *found[:2])
        value, metrics = lower.problem.upper_objective(context, lower.task, y)
        rows, mu = slopes(conditions, context, found, upper_rate)
        gradient = ravel_pytree(context)[1](rows[0] + mu @ rows[1:])
        return HypergradientOutput(
            value,
            jax.tree.map(jnp.zeros_like, point)._replace(context=gradient),
            y,
            metrics,
            diagnostics={
                **diagnostics,
                "kkt_residual": found.distance,
                "active_constraints": active.sum().astype(found.y.dtype),
                # That of the penalised f is |J^T lambda| at an exact solution.
                "stationarity_norm": found.distance,
            },
        )

    def target(lower: LowerProblem, point: Point, key: Array):
        """F + mu^T (g, G) at (x, y - the first part of M^-1 (R(x) - R)), mu, M and R frozen.

        R is the residual, M its derivative.
        """
        start, _ = solved_to_tolerance(lower, point, lower_tolerance)
        conditions, found = solved(lower, point, start)
        active = conditions.active(point.context, *found[:2])
        both = jnp.concatenate([found.y, found.multipliers])
        _, mu = slopes(conditions, point.context, found, upper_rate)

        def residual(context: Tree, both: Array) -> Array:
            y, multipliers = jnp.split(both, [found.y.size])
            return conditions.residual(context, y, multipliers, active)

        frozen = residual(point.context, both)
        matrix = jax.jacfwd(residual, argnums=1)(point.context, both)
        matrix = matrix - jnp.diag(_softened(conditions, found, active))

        def phi(moved: Point) -> Array:
            change = jnp.linalg.solve(matrix, residual(moved.context, both) - frozen)
            scores = conditions.scores(moved.context, found.y - change[: found.y.size])
            return scores[0] + mu @ scores[1:]

        return phi

    return Hypergradient(
        "implicit_kkt",
        estimate,
        "g = dF/dx - (d grad_y (f + lambda^T g) / dx)^T p - (dg/dx)^T q over active g,  "
        "[H, J^T; J, 0] (p, q) = (grad_y F, 0),  H = Hessian of f + lambda^T g in y,  J = dg/dy",
        Target("F, and constraints with their multipliers, along the KKT conditions", target),
        differentiates=frozenset({"context"}),
        through_steps=False,
        needs_stationarity=True,
        check=lambda lower, shapes: _check(lower, shapes, lower_tolerance),
        solution=solution,
    )


def polished(conditions: Conditions, context: Tree, y: Array, newton_steps: int) -> Solution:
    """The best of the Newton steps from the penalised y, or that y with its own multipliers."""

    def at(y: Array, multipliers: Array) -> Solution:
        active = conditions.active(context, y, multipliers)
        residual = conditions.residual(context, y, multipliers, active)
        return Solution(y, multipliers, jnp.linalg.norm(residual), jnp.asarray(False))

    def step(now: tuple[Solution, Solution], _: None) -> tuple[tuple[Solution, Solution], None]:
        y, multipliers, best = now[0].y, now[0].multipliers, now[1]
        active = conditions.active(context, y, multipliers)
        # What is not active loses its multiplier in this step: the others answer for it.
        kept = jnp.where(active, multipliers, 0)
        matrix = conditions.matrix(context, y, kept, active)
        residual = conditions.residual(context, y, kept, active)
        change = pseudo_inverse(matrix) @ residual
        moved = at(y - change[: y.size], kept - jnp.where(active, change[y.size :], 0))
        better = moved.distance < best.distance  # never where it is no number
        return (moved, jax.tree.map(lambda a, b: jnp.where(better, a, b), moved, best)), None

    first = at(y, conditions.penalised.weight * jnp.maximum(conditions.g(context, y), 0))
    (_, best), _ = lax.scan(step, (first, first), None, length=newton_steps)
    own = first._replace(penalised=jnp.asarray(True))
    kept = best.distance < first.distance
    return jax.tree.map(lambda a, b: jnp.where(kept, a, b), best, own)


def slopes(
    conditions: Conditions, context: Tree, found: Solution, upper_rate: float
) -> tuple[Array, Array]:
    """d (F, g, G) / dx along the solution, (1 + |g| + |G|, |context|), and mu of g and G.

    Where y answers for a constraint, its row is 0. Of g only what no y can keep counts above: what
    is violated at the exact y, and what has no y in it.
    """
    active = conditions.active(context, *found[:2])
    matrix = conditions.matrix(context, *found[:2], active)
    inverse = pseudo_inverse(matrix - jnp.diag(_softened(conditions, found, active)))
    of_context, of_y = jax.jacrev(conditions.scores, argnums=(0, 1))(context, found.y)
    direct = jax.vmap(lambda row: ravel_pytree(row)[0])(of_context)
    _, pull_back = jax.vjp(lambda x: conditions.residual(x, *found[:2], active), context)
    through = jax.vmap(lambda row: ravel_pytree(pull_back(row))[0])(of_y @ inverse[: found.y.size])
    rows = direct - through

    weight, number = conditions.penalised.weight, found.multipliers.size
    values, of_scores = conditions.scores(context, found.y)[1:], jnp.linalg.norm(rows[1:], axis=1)
    rounding = jnp.sqrt(jnp.finfo(rows.dtype).eps) * jnp.linalg.norm(direct[1:], axis=1)
    of_g = jnp.arange(len(values)) < number
    without_y = ~of_y[1:].any(axis=1)
    counted = jnp.where(of_g, ~found.penalised & ((values > 0) | without_y), True)
    # At a penalised y the squares of g are as they are in F.
    squares = jnp.where(of_g & found.penalised, weight * jnp.maximum(values, 0), 0)
    mu = upper_multipliers(
        rows[1:], values, counted & (of_scores > rounding), rows[0] + squares @ rows[1:], upper_rate
    )
    return rows, mu + squares


def pseudo_inverse(matrix: Array) -> Array:
    """Of a symmetric matrix, without the eigenvalues that are 0 up to rounding."""
    values, vectors = jnp.linalg.eigh(matrix)
    sizes = jnp.abs(values)
    regular = sizes > jnp.finfo(matrix.dtype).eps ** (2 / 3) * sizes.max(initial=0)
    inverse = jnp.where(regular, 1 / jnp.where(regular, values, 1), 0)
    return (vectors * inverse[None, :]) @ vectors.T


def _softened(conditions: Conditions, found: Solution, active: Array) -> Array:
    """What leaves the diagonal of S where g = lambda / weight in place of 0."""
    soft = jnp.where(found.penalised & active, 1 / conditions.penalised.weight, 0)
    return jnp.concatenate([jnp.zeros_like(found.y), soft.astype(found.y.dtype)])


def _check(lower: LowerProblem, shapes: Point, lower_tolerance: float | None) -> None:
    problem, dynamics = lower.problem, lower.dynamics
    refuse_stopping(lower, lower_tolerance)
    if problem.penalised is None:
        raise ValueError(
            "hypergradient=implicit_kkt differentiates the constraints of the lower level, but "
            "this problem has none; choose hypergradient=implicit_cg (method=hoag)"
        )
    if problem.mini_batch is not None:
        raise ValueError(
            "hypergradient=implicit_kkt needs the lower solution of all rows, but the lower steps "
            "see mini-batches; choose problem.batch_size=null, or hypergradient=implicit_cg"
        )
    if dynamics.descends != Objectives.f:
        raise ValueError(
            f"hypergradient=implicit_kkt needs a lower solution of f, but the lower steps descend "
            f"{dynamics.descends}; choose aggregation=lower_only"
        )
    if dynamics.projection is not None:
        raise ValueError(
            "hypergradient=implicit_kkt knows bounds of y as constraints alone, but the lower "
            "steps end in a projection; choose problem.lower_bounds=penalty (in Python "
            "lower_constraints in place of project_lower), or hypergradient=implicit_cg"
        )
    constraints = jax.eval_shape(
        problem.penalised.constraints, shapes.context, lower.task, shapes.y0
    )
    size = sum(leaf.size for leaf in jax.tree.leaves((shapes.y0, constraints)))
    if size > LARGEST:
        raise ValueError(
            "hypergradient=implicit_kkt solves dense systems of the size of y and its "
            f"constraints, {size:,} here, at most {LARGEST:,}; choose hypergradient=implicit_cg "
            "(method=hoag)"
        )
