"""Implicit differentiation whose linear system is solved on mini-batches, too (stocBiO; AmIGO).

    y    K lower steps on rows of their own, from the y of the iteration before
    q    = q - rho (H_l q - grad_y F),  l = 1..L,  H_l = d d / dy + damping I on rows of its own
    g    = dF/dx - (d d / dx)^T q,  again on rows of its own;  grad F on one set of rows

From q = 0 the L steps are the Neumann series with new rows in each factor, as in stocBiO: Ji, Yang,
Liang, ICML 2021 (arXiv 2010.07962), eqs. 5 and 6; from the q of the iteration before they are
AmIGO: Arbel, Mairal, ICLR 2022 (arXiv 2111.14580), Algorithm 1. From q = 0, K = 1 and falling steps
(step_power=0.4, of x 0.6) make TTSA (Hong, Wai, Wang, Yang, arXiv 2007.05170), and K > 1 with 0.5
BSA (Ghadimi, Wang, arXiv 1802.02246); in both the number of steps of q is random, here it is not.

Time: K gradients of f, L products with its Hessian on mini-batches, a gradient of F. Memory: a few
lower iterates. Valid where H is regular on all rows, with a bias that K and L leave; the task must
be the same in every iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.followed_system import damping_of, refuse_lower_level, refuse_options
from bilevel.lower_level import LowerProblem, Point
from bilevel.mini_batches import Position, first_position, going_on
from bilevel.penalties import objectives
from bilevel.stationarity import relative_error
from bilevel.step_sizes import falling, refuse_power, shortened, words_of
from bilevel.types import Array, Index, Tree


class Carry(NamedTuple):
    """q where the next system starts from it, else (), and the place among the mini-batches."""

    q: Tree
    position: Position


class OnRows(NamedTuple):
    """g, q, and |H q - grad_y F| / |grad_y F| on the last rows."""

    gradient: Point
    q: Tree
    error: Array


def stochastic_implicit(
    *,
    step_size: float = 0.1,
    num_steps: int = 10,
    warm: bool = False,
    damping: float | None = None,
    step_power: float = 0.0,
) -> Hypergradient:
    """g = dF/dx - (d d / dx)^T q, q after `num_steps` steps of `step_size` to H q = grad_y F.

    warm: start from the q of the iteration before (AmIGO), not from 0 (stocBiO). damping: added to
    H; None for the problem's own. step_power: the steps of y fall as (n + 1)^-step_power; those of
    q with warm, too (from 0 shorter ones would solve less of the system).
    Raises ValueError where step_size <= 0, num_steps < 1, damping < 0 or step_power < 0; `check`
    does for tasks that change, for a Hessian that is known to be singular without damping, and
    where lower steps end in a projection.
    """
    refuse_system(step_size, num_steps, damping)
    refuse_power(step_power)

    def init(lower: LowerProblem, y0: Tree) -> Carry:
        return Carry(jax.tree.map(jnp.zeros_like, y0) if warm else (), first_position())

    def estimate(
        lower: LowerProblem, point: Point, carry: Carry, key: Array
    ) -> HypergradientOutput:
        position, task = carry.position.of(lower.task)
        lower = lower._replace(task=task, problem=going_on(lower.problem, position))
        rows = lower.num_steps + rows_taken(num_steps)
        share = falling(step_power, position.steps // rows)
        y = shortened(lower, share).solve(point)
        q = carry.q if warm else jax.tree.map(jnp.zeros_like, y)
        first = lower.num_steps + 1
        damped, size = damping_of(lower, damping), share * step_size if warm else step_size
        found = on_rows(lower, point, y, q, first, num_steps, size, damped)
        value, metrics = lower.upper_on_rows(point.context, y, first)
        onwards = position.after(rows)
        return HypergradientOutput(
            value,
            found.gradient,
            y,
            metrics,
            {"linear_residual": found.error},
            Carry(found.q if warm else (), onwards),
        )

    return Hypergradient(
        "stochastic_implicit",
        estimate,
        f"g = dF/dx - (d grad_y psi / dx)^T q,  {num_steps} steps q = q - {step_size:g} (H q - "
        f"grad_y F) on mini-batches from {'the last q' if warm else 'q = 0'},  H = Hessian of psi "
        "in y + damping;  psi = what the lower steps descend"
        f"{words_of(step_power, 'y and q' if warm else 'y')}",
        None,
        differentiates=frozenset({"context", "aggregation"}),
        through_steps=False,
        needs_stationarity=True,
        follows=True,
        on_rows=True,
        init=init,
        check=lambda lower, shapes: refuse_lower_level(lower, damping_of(lower, damping)),
    )


def rows_taken(num_steps: int) -> int:
    """How many sets of rows one estimate of `on_rows` draws."""
    return num_steps + 2


def on_rows(
    lower: LowerProblem,
    point: Point,
    y: Tree,
    q: Tree,
    first: Index,
    num_steps: int,
    step_size: Array | float,
    damping: float,
) -> OnRows:
    """g at y by `num_steps` steps from q: F on the rows of step `first`, f on those that follow."""

    def of_upper(moved: Point, y: Tree) -> Array:
        return objectives(lower, first).F(moved.context, y)

    def pulled_back(q: Tree, k: Index) -> tuple[Point, Tree]:
        """(d d / dx)^T q and (H + damping I) q, on the rows of step k."""
        _, pull_back = jax.vjp(lambda moved, y: lower.at(moved).direction(y, k), point, y)
        through, curved = pull_back(q)
        return through, jax.tree.map(lambda h, q: h + damping * q, curved, q)

    def body(q: Tree, k: Index) -> tuple[Tree, Array]:
        applied = pulled_back(q, k)[1]
        moved = jax.tree.map(
            lambda q, h, s: q - jnp.asarray(step_size, q.dtype) * (h - s), q, applied, slope
        )
        return moved, relative_error(applied, slope)

    direct, slope = jax.grad(of_upper, argnums=(0, 1))(point, y)
    q, errors = lax.scan(body, q, first + jnp.arange(1, num_steps + 1))
    through = pulled_back(q, first + num_steps + 1)[0]
    return OnRows(jax.tree.map(jnp.subtract, direct, through), q, errors[-1])


def refuse_system(step_size: float, num_steps: int, damping: float | None) -> None:
    """Raises ValueError on options of the linear system that are out of range."""
    refuse_options(step_size, damping)
    check.whole_number("num_steps", num_steps, least=None)
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1; choose num_steps=10")
