"""y and x along corrected moving averages of their directions on mini-batches (MRBO).

    h(x, y; B)  = dF/dx - (d d / dx)^T q,  q by L steps from 0 on the rows of B (stocBiO)
    u_n         = d(x_n, y_n; B_n) + (1 - eta_n) (u_{n-1} - d(x_{n-1}, y_{n-1}; B_n))
    g_n         = h(x_n, y_n; B_n) + (1 - eta_n) (g_{n-1} - h(x_{n-1}, y_{n-1}; B_n))
    y           moves along u_n by one lower step;  x along g_n

Yang, Ji, Liang: Provably faster algorithms for bilevel optimization, NeurIPS 2021 (arXiv
2106.04692), Algorithm 1 (in benchmark_bilevel with step_power=1/3, of y and x); SUSTAIN (Khanduri
et al., arXiv 2102.07367) differs in how q is drawn. K lower steps are K such pairs, of which the
last g counts.

Time: per lower step two gradients of f, two of F and 2 (L + 1) products with its Hessian. Memory:
the directions and the variables of the step before. Valid as `stochastic_implicit` is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.followed_system import damping_of, refuse_lower_level
from bilevel.hypergradients.stochastic_implicit import (
    on_rows,
    refuse_system,
    rows_taken,
)
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.mini_batches import Position, first_position, with_steps
from bilevel.option_checks import kind
from bilevel.shapes import first_point
from bilevel.stationarity import no_error
from bilevel.step_sizes import falling, refuse_power, shortened, words_of
from bilevel.types import Array, Index, Tree
from bilevel.variance_reduction import (
    Directions,
    Parts,
    VarianceReduction,
    storm,
)


class Variables(NamedTuple):
    """All that moves. The point has no start, which none of this reads."""

    point: Point
    y: Tree


class Carry(NamedTuple):
    """The pairs of u and g done, and what the averages remember of the last one."""

    position: Position
    memory: Tree


def recursive_momentum(
    *,
    step_size: float = 0.1,
    num_steps: int = 10,
    damping: float | None = None,
    step_power: float = 0.0,
    reduction: VarianceReduction | None = None,
) -> Hypergradient:
    """g and u by `reduction` (None: storm()), q by `num_steps` steps of size `step_size`.

    damping: added to H; None for the problem's own. step_power: the steps of y fall as
    (n + 1)^-step_power; those of q, which starts from 0, do not.
    Raises ValueError on options out of their range, and for a reduction that remembers blocks;
    `check` does for a lower level that `stochastic_implicit` refuses.
    """
    refuse_system(step_size, num_steps, damping)
    refuse_power(step_power)
    rule = storm() if reduction is None else reduction
    kind("reduction", rule, VarianceReduction, "bilevel.variance_reduction.storm()")
    if rule.in_blocks:
        raise ValueError(
            f"reduction={rule.name}: h is a product of several mini-batches, so no block has a "
            "part in it to remember; choose storm, sarah, or hypergradient=single_loop_saga"
        )
    stride = 1 + rows_taken(num_steps)

    def first_of(n: Index) -> Array:
        """The first rows of pair n = 1, 2, ... of the run."""
        return stride * (jnp.asarray(n) - 1) + 1

    def parts_at(lower: LowerProblem, v: Variables, n: Index) -> Parts:
        """d and h on the rows of pair n."""
        first = first_of(n)
        d = lower.at(v.point).direction(v.y, first)
        zeros = jax.tree.map(jnp.zeros_like, v.y)
        h = on_rows(
            lower, v.point, v.y, zeros, first + 1, num_steps, step_size, damping_of(lower, damping)
        )
        return Parts(d, (h.gradient, h.error))

    def init(lower: LowerProblem, y0: Tree) -> Carry:
        def first(task: Tree) -> tuple[Variables, Parts]:
            v = Variables(first_point(lower, task, y0), y0)
            return v, parts_at(lower._replace(task=task), v, 1)

        v, parts = jax.eval_shape(first, lower.task)
        memory = rule.init(v, parts, lower.problem.blocks)
        return Carry(first_position(), memory)

    def estimate(
        lower: LowerProblem, point: Point, carry: Carry, key: Array
    ) -> HypergradientOutput:
        position, task = carry.position.of(lower.task)
        lower = lower._replace(task=task)
        done = position.steps
        share = falling(step_power, done // lower.num_steps)
        # A step that measures the objective does so on the rows of its direction.
        along = lower._replace(problem=with_steps(lower.problem, lambda k: first_of(done + k)))
        level = shortened(along, share).at(point)
        directions = Directions(
            on_step=lambda v, n: parts_at(lower, v, n),
            on_all=lambda v: parts_at(lower.on_all_rows(), v, 1),
        )

        def body(now: tuple[LowerState, Tree, Point, Array], k: Index):
            state, memory, *_ = now
            v = Variables(at, state.y)
            (u, (gradient, error)), memory = rule.reduce(directions, memory, v, done + k)
            return (level.move(u, state, k), memory, gradient, error), None

        at = point._replace(y0=())
        nothing = jax.tree.map(jnp.zeros_like, at)
        start = (level.init(point.y0), carry.memory, nothing, no_error(point.y0))
        steps = jnp.arange(1, lower.num_steps + 1)
        (state, memory, gradient, error), _ = lax.scan(body, start, steps)
        value, metrics = lower.upper_on_rows(
            point.context, state.y, stride * (done + lower.num_steps)
        )
        gradient = gradient._replace(y0=jax.tree.map(jnp.zeros_like, point.y0))
        onwards = Carry(position.after(lower.num_steps), memory)
        return HypergradientOutput(
            value, gradient, state.y, metrics, {"linear_residual": error}, onwards
        )

    def check(lower: LowerProblem, shapes: Point) -> None:
        refuse_lower_level(lower, damping_of(lower, damping))

    return Hypergradient(
        "recursive_momentum",
        estimate,
        f"g and the lower direction by {rule.name}: {rule.formula};  D = dF/dx - (d grad_y psi / "
        f"dx)^T q,  {num_steps} steps q = q - {step_size:g} (H q - grad_y F) from q = 0,  H = "
        "Hessian of psi in y + damping;  psi = what the lower steps descend"
        f"{words_of(step_power, 'y')}",
        None,
        differentiates=frozenset({"context", "aggregation"}),
        through_steps=False,
        needs_stationarity=True,
        follows=True,
        on_rows=True,
        init=init,
        check=check,
    )
