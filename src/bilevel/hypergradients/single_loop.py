"""Single loop: y, the multiplier q and x move together, one step each (SOBA; SABA; SRBA; BAMM).

    y_k = y_{k-1} - eta d(x, y_{k-1}),             d = grad_y psi, psi = w_F F + w_f f
    q_k = q_{k-1} - rho (H q_{k-1} - grad_y F),    H = d d / dy + damping I, at y_{k-1}
    g   = dF/dx - (d d / dx)^T q_{K-1},            at y_{K-1}

Dagreou, Ablin, Vaiter, Moreau: A framework for bilevel optimization that enables stochastic and
global variance reduction algorithms, NeurIPS 2022 (arXiv 2201.13409), SOBA: K = 1. With
mini-batches each step draws rows of f and of F, the same for all three directions, each of which is
unbiased at (x, y, q); a rule of src/bilevel/variance_reduction.py then takes out their noise: saga
makes it SABA, sarah SRBA (arXiv 2302.08766). Where w_F is not 0 it is the single loop of bilevel
averaging (sl-BAMM: Liu, Liu, Yao, Zeng, Zhang, ICML 2023), with fixed weights. A moving average of
g (MA-SOBA) is an upper optimizer: momentum. The authors' benchmark (benchmark_bilevel) has
step_power=0.5 for SOBA, of y, q and x alike, and 0 for SABA and SRBA.

Time: per lower step a gradient of F and three of f; twice that with sarah or storm. Memory: two
lower iterates; with sarah or storm also the last point and directions, with saga two lower iterates
and an x for each block of rows of f, one of each for F.
Valid where H is regular and x moves slowly against y and q; the task must be the same in every
iteration.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import variance_reduction
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.followed_system import damping_of, refuse_lower_level, refuse_options
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.mini_batches import Position, first_position, going_on
from bilevel.option_checks import kind
from bilevel.penalties import objectives
from bilevel.shapes import first_point
from bilevel.stationarity import no_error, relative_error
from bilevel.step_sizes import falling, refuse_power, shortened, words_of
from bilevel.types import Array, BilevelProblem, Index, Objectives, Tree
from bilevel.variance_reduction import (
    Directions,
    OfBlocks,
    Parts,
    VarianceReduction,
    refuse_blocks,
)


class Variables(NamedTuple):
    """All that moves. The point has no start, which none of this reads."""

    point: Point
    y: Tree
    q: Tree


class OfLower(NamedTuple):
    """Means over rows of f (of psi): d, (d d / dy) q and (d d / dx)^T q."""

    direction: Tree
    curved: Tree
    through: Point


class OfUpper(NamedTuple):
    """Means over rows of F: grad_y F and dF/dx."""

    slope: Tree
    direct: Point


class Carry(NamedTuple):
    """q, the place in the run's sequence of mini-batches, and the memory of the reduction."""

    q: Tree
    position: Position
    memory: Tree


def single_loop(
    *,
    step_size: float = 0.1,
    damping: float | None = None,
    step_power: float = 0.0,
    reduction: VarianceReduction | None = None,
) -> Hypergradient:
    """g = dF/dx - (d d / dx)^T q, where y and q take K steps from those of the iteration before.

    step_size: rho, of q. damping: added to H; None for the problem's own. step_power: the steps of
    y and q fall as (n + 1)^-step_power. reduction: of the noise of mini-batches, None for none.
    Raises ValueError where step_size <= 0, damping < 0 or step_power < 0; `check` does for tasks
    that change, for a Hessian that is known to be singular without damping, where lower steps end
    in a projection, and for saga where mini-batches have no blocks or the steps descend F too.
    """
    refuse_options(step_size, damping)
    refuse_power(step_power)
    if reduction is not None:
        example = "bilevel.variance_reduction.saga()"
        kind("reduction", reduction, VarianceReduction, example)

    def init(lower: LowerProblem, y0: Tree) -> Carry:
        q = jax.tree.map(jnp.zeros_like, y0)
        if reduction is None:
            return Carry(q, first_position(), ())

        def first(task: Tree) -> tuple[Variables, Parts]:
            v = Variables(first_point(lower, task, y0), y0, q)
            return v, parts_at(lower._replace(task=task), v, 1)

        v, parts = jax.eval_shape(first, lower.task)
        memory = reduction.init(v, parts, lower.problem.blocks)
        return Carry(q, first_position(), memory)

    def estimate(
        lower: LowerProblem, point: Point, carry: Carry, key: Array
    ) -> HypergradientOutput:
        position, task = carry.position.of(lower.task)
        done = position.steps
        share = falling(step_power, done // lower.num_steps)
        lower = shortened(lower._replace(task=task), share)
        level = lower._replace(problem=_on_rows_of(lower, position)).at(point)
        directions = directions_of(lower)
        reduce = variance_reduction.plain if reduction is None else reduction.reduce

        def body(now: tuple[LowerState, Tree, Tree, Point, Array], k: Index):
            state, q, memory, *_ = now
            parts, memory = reduce(directions, memory, Variables(at, state.y, q), done + k)
            (d, curved, through), (slope, direct) = parts
            applied = jax.tree.map(lambda h, q: h + damping_of(lower, damping) * q, curved, q)
            moved = jax.tree.map(
                lambda q, h, s: q - jnp.asarray(share * step_size, q.dtype) * (h - s),
                *(q, applied, slope),
            )
            gradient = jax.tree.map(jnp.subtract, direct, through)
            error = relative_error(applied, slope)
            return (level.move(d, state, k), moved, memory, gradient, error), None

        at = point._replace(y0=())
        nothing = jax.tree.map(jnp.zeros_like, at)
        start = (level.init(point.y0), carry.q, carry.memory, nothing, no_error(point.y0))
        steps = jnp.arange(1, lower.num_steps + 1)
        (state, q, memory, gradient, error), _ = lax.scan(body, start, steps)
        value, metrics = lower.upper_on_rows(point.context, state.y, done + lower.num_steps)
        gradient = gradient._replace(y0=jax.tree.map(jnp.zeros_like, point.y0))
        onwards = Carry(q, position.after(lower.num_steps), memory)
        return HypergradientOutput(
            value, gradient, state.y, metrics, {"linear_residual": error}, onwards
        )

    def _on_rows_of(lower: LowerProblem, position: Position) -> BilevelProblem:
        """A step that measures the objective does so on the rows of its direction."""
        problem, blocks = lower.problem, lower.problem.blocks
        if reduction is None or not reduction.in_blocks or blocks is None:
            return going_on(problem, position)

        def of_block(context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
            return blocks.at(context, task, *blocks.of_step(task, position.steps + k))

        return problem._replace(mini_batch=of_block)

    def check(lower: LowerProblem, shapes: Point) -> None:
        refuse_lower_level(lower, damping_of(lower, damping))
        if reduction is not None:
            refuse_blocks(reduction, lower.problem)
            # alpha and s may be 0 at first, and learned to be more.
            weighs_F = {"alpha", "s"} & set(shapes.dynamics_params["aggregation"])
            if reduction.in_blocks and (weighs_F or lower.dynamics.descends != Objectives.f):
                raise ValueError(
                    f"{reduction.name} remembers what rows of f gave, but the lower "
                    "steps descend F too; choose aggregation=lower_only, or "
                    "hypergradient=single_loop_sarah"
                )

    formula = (
        f"g = dF/dx - (d grad_y psi / dx)^T q;  q moves by {step_size:g} (grad_y F - H q) in each "
        "lower step, H = Hessian of psi in y + damping;  psi = what the lower steps descend"
        f"{words_of(step_power, 'y and q')}"
    )
    if reduction is not None:
        formula += f";  each direction by {reduction.name}: {reduction.formula}"
    return Hypergradient(
        "single_loop" if reduction is None else f"single_loop_{reduction.name}",
        estimate,
        formula,
        None,
        differentiates=frozenset({"context", "aggregation"}),
        through_steps=False,
        needs_stationarity=True,
        follows=True,
        on_rows=True,
        init=init,
        check=check,
    )


def parts_at(lower: LowerProblem, v: Variables, k: Index) -> Parts:
    """Both parts of the three directions, on the rows of step k."""

    def of_lower(point: Point, y: Tree) -> Tree:
        return lower.at(point).direction(y, k)

    def of_upper(point: Point, y: Tree) -> Array:
        return objectives(lower, k).F(point.context, y)

    direction, pull_back = jax.vjp(of_lower, v.point, v.y)
    through, curved = pull_back(v.q)
    direct, slope = jax.grad(of_upper, argnums=(0, 1))(v.point, v.y)
    return Parts(OfLower(direction, curved, through), OfUpper(slope, direct))


def directions_of(lower: LowerProblem) -> Directions:
    """The parts on the rows that a reduction asks for.

    k counts the steps of the run; the weights of f and F are those of any step, because the lower
    steps come to rest.
    """
    problem, blocks = lower.problem, lower.problem.blocks
    of_blocks = None
    if blocks is not None:

        def on(v: Variables, i: Index, j: Index) -> Parts:
            those = problem._replace(
                mini_batch=lambda context, task, k: blocks.at(context, task, i, j)
            )
            return parts_at(lower._replace(problem=those), v, 1)

        of_blocks = OfBlocks(on, lambda k: blocks.of_step(lower.task, k))
    return Directions(
        on_step=lambda v, k: parts_at(lower, v, k),
        on_all=lambda v: parts_at(lower.on_all_rows(), v, 1),
        blocks=of_blocks,
    )
