"""The lower level of one task, bound once; whoever uses it speaks of y and of the step k alone.

LowerProblem   f and F of one task, the lower step, and K        at(point) -> LowerLevel
LowerLevel     the same at one (context, dynamics parameters)    functions of y and k
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.step_types import DynamicsParams, Reason
from bilevel.types import Array, BilevelProblem, Index, Metrics, Objectives, Projection, Tree


class Point(NamedTuple):
    """Where a gradient is taken; a gradient has the same form.

    context            what the objectives see of x
    dynamics_params    what is learned of the lower step, alpha, s, t and step size:
                       {"aggregation": ..., "lower_optimizer": ...}
    y0                 the start of the lower level
    """

    context: Tree
    dynamics_params: DynamicsParams
    y0: Tree


class LowerState(NamedTuple):
    """The iterate y_k and the state of the lower optimizer."""

    y: Tree
    opt_state: Tree


class OfStep(Protocol):
    def __call__(self, y: Tree, k: Index) -> Array:
        """psi_k(y) = w_F(k) F + w_f(k) f, on the rows of step k."""
        ...


class DirectionOfStep(Protocol):
    def __call__(self, y: Tree, k: Index) -> Tree:
        """d_k = grad psi_k(y)."""
        ...


class Move(Protocol):
    def __call__(self, direction: Tree, state: LowerState, k: Index) -> LowerState:
        """y_k from y_{k-1} and d_k."""
        ...


class LowerLevel(NamedTuple):
    """The lower level at one point: functions of y and of the step k.

    init(y0)     the state before the first step
    upper(y)     F and its metrics, on all rows
    """

    init: Callable[[Tree], LowerState]
    objective: OfStep
    direction: DirectionOfStep
    move: Move
    upper: Callable[[Tree], tuple[Array, Metrics]]

    def step(self, state: LowerState, k: Index) -> LowerState:
        """Lower step k."""
        return self.move(self.direction(state.y, k), state, k)

    def run(self, state: LowerState, first: int, last: int) -> LowerState:
        """Lower steps k = first..last (1-based, inclusive) as one scan; none if last < first."""
        steps = jnp.arange(first, last + 1)
        return lax.scan(lambda state, k: (self.step(state, k), None), state, steps)[0]

    def score(self, y: Tree) -> tuple[Array, tuple[Tree, Metrics]]:
        """F and (y, metrics): what estimators differentiate, and what they hand on."""
        value, metrics = self.upper(y)
        return value, (y, metrics)

    def score_each(self, y0: Tree, num_steps: int) -> tuple[Array, tuple[Tree, Metrics]]:
        """F at y_1, ..., y_K, and (y_K, metrics there).

        Reverse mode computes F again in each step, and so keeps the iterates alone.
        """
        upper = jax.checkpoint(lambda y: self.upper(y)[0], prevent_cse=False)

        def body(state: LowerState, k: Index) -> tuple[LowerState, Array]:
            state = self.step(state, k)
            return state, upper(state.y)

        state, values = lax.scan(body, self.init(y0), jnp.arange(1, num_steps + 1))
        return values, (state.y, self.upper(state.y)[1])


class LowerDynamics(NamedTuple):
    """One lower step y_{k-1} -> y_k for any problem (`dynamics.compose`).

    init_params(K, y0)                      the first dynamics_params
    at(problem, task, context, params)      the lower level at a point
    project                                 of dynamics_params into their bounds
    projection                              P where the steps end in a projection, or None
    descends                                the objectives that have a weight in the first step
    never_rests, no_derivative, reads_objective, tolerance, rescales   as in LowerOptimizer
    sees_upper                              as in Aggregation
    """

    init_params: Callable[[int, Tree], DynamicsParams]
    at: Callable[[BilevelProblem, Tree, Tree, DynamicsParams], LowerLevel]
    project: Projection
    formula: str
    projection: Projection | None
    descends: Objectives
    sees_upper: bool
    never_rests: Reason | None = None
    no_derivative: Reason | None = None
    reads_objective: Reason | None = None
    tolerance: float | None = None
    rescales: bool = False


class LowerProblem(NamedTuple):
    """The lower level of one task, and the number of its steps K, which nothing else stores.

    persistent   whether the task is the same in every iteration
    """

    problem: BilevelProblem
    dynamics: LowerDynamics
    num_steps: int
    persistent: bool
    task: Tree = ()

    def at(self, point: Point) -> LowerLevel:
        """The lower level at (context, dynamics_params); the start is not read."""
        return self.dynamics.at(self.problem, self.task, point.context, point.dynamics_params)

    def on_all_rows(self) -> "LowerProblem":
        """The same without mini-batches: a lower solution solves the problem of all rows."""
        return self._replace(problem=self.problem._replace(mini_batch=None))

    def upper_on_rows(self, context: Tree, y: Tree, k: Index) -> tuple[Array, Metrics]:
        """F and its metrics, on the rows of step k."""
        return self.problem.upper_objective(*self.problem.rows(context, self.task, k), y)

    def residual(self, direction: Tree, y: Tree) -> Tree:
        """Zero at a lower solution: d itself, or y - P(y - d) where steps end in a projection P."""
        onto = self.dynamics.projection
        if onto is None:
            return direction
        return jax.tree.map(jnp.subtract, y, onto(jax.tree.map(jnp.subtract, y, direction)))

    def solve(self, point: Point) -> Tree:
        """y_K."""
        level = self.at(point)
        return level.run(level.init(point.y0), 1, self.num_steps).y

    def solve_until(self, point: Point, tolerance: Array | float) -> tuple[Tree, Array]:
        """(y, steps done): at most K steps, until |residual| <= tolerance.

        Only for dynamics that rest: their direction does not depend on k, so that of the next step
        serves as the residual of this one.
        """
        level = self.at(point)

        def unfinished(carry: tuple[LowerState, Tree, Array]) -> Array:
            state, direction, done = carry
            distance = optax.tree.norm(self.residual(direction, state.y))
            return (done < self.num_steps) & (distance > tolerance)

        def body(carry: tuple[LowerState, Tree, Array]) -> tuple[LowerState, Tree, Array]:
            state, direction, done = carry
            state = level.move(direction, state, done + 1)
            return state, level.direction(state.y, 1), done + 1

        start = level.init(point.y0)
        first = (start, level.direction(start.y, 1), jnp.zeros((), jnp.int32))
        state, _, done = lax.while_loop(unfinished, body, first)
        return state.y, done


def run_in_segments(level: LowerLevel, state: LowerState, num_steps: int) -> LowerState:
    """Lower steps 1..num_steps whose reverse pass keeps about 2 sqrt(num_steps) iterates.

    Segments of ceil(sqrt(num_steps)) steps: reverse mode stores the state at the head of each and
    runs a segment again when it gets there (Griewank and Walther, Evaluating derivatives, 2008,
    ch. 12, with one level).
    """
    length = max(1, math.ceil(math.sqrt(num_steps)))
    whole, rest = divmod(num_steps, length)

    def segment(state: LowerState, before: Index, steps: int) -> LowerState:
        return lax.scan(
            lambda state, k: (level.step(state, k), None), state, before + jnp.arange(1, steps + 1)
        )[0]

    # Inside a scan nothing can merge the second run of a segment with the first.
    recomputed = jax.checkpoint(segment, static_argnums=2, prevent_cse=False)
    state, _ = lax.scan(
        lambda state, before: (recomputed(state, before, length), None),
        state,
        length * jnp.arange(whole),
    )
    return segment(state, whole * length, rest) if rest else state


def trajectory(
    level: LowerLevel, y0: Tree, num_steps: int, observe: Callable[[Tree], Tree]
) -> Tree:
    """observe(y_0), ..., observe(y_K) along a leading axis; the y_k are not kept."""

    def body(state: LowerState, k: Array) -> tuple[LowerState, Tree]:
        state = level.step(state, k)
        return state, observe(state.y)

    _, rest = lax.scan(body, level.init(y0), jnp.arange(1, num_steps + 1))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), observe(y0), rest)
