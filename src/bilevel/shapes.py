"""What a problem is made of, found by tracing: nothing is computed or compiled."""

from typing import NamedTuple

import jax

from bilevel.lower_level import LowerDynamics, LowerProblem, Point
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, BilevelProblem, Metrics, TaskSource, Tree


class Shapes(NamedTuple):
    """Shapes and dtypes of one task and of everything that depends on it."""

    task: Tree
    x: Tree
    context: Tree
    y: Tree
    lower_objective: Tree
    upper_objective: Tree
    scores: Metrics


def one_task(source: TaskSource, data: Tree, key: Array, split: str) -> Tree:
    """A task of the split, without the leading axis of a meta-batch."""
    return jax.tree.map(lambda leaf: leaf[0], source.sample(data, key, split, 1))


def shapes_of(problem: BilevelProblem, source: TaskSource, split: str) -> Shapes:
    """The shapes of a problem on a task of this split."""

    def everything(key: Array) -> Shapes:
        task = one_task(source, source.seeded(source.data, key), key, split)
        x = problem.init_upper(key)
        y = problem.init_lower(key, x)
        context = problem.prepare(x, task)
        return Shapes(
            task,
            x,
            context,
            y,
            problem.lower_objective(context, task, y),
            problem.upper_objective(context, task, y)[0],
            problem.evaluate(x, context, task, y),
        )

    return jax.eval_shape(everything, jax.random.key(0))


def learned_shapes(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> DynamicsParams:
    """The shapes of the learned parameters of the lower step."""

    def init(key: Array) -> DynamicsParams:
        y0 = problem.init_lower(key, problem.init_upper(key))
        return dynamics.init_params(num_lower_steps, y0)

    return jax.eval_shape(init, jax.random.key(0))


def point_shapes(lower: LowerProblem, shapes: Shapes) -> Point:
    """The shapes of a point at which a gradient is taken."""
    learned = learned_shapes(lower.problem, lower.dynamics, lower.num_steps)
    return Point(shapes.context, learned, shapes.y)


def first_point(lower: LowerProblem, task: Tree, y0: Tree) -> Point:
    """A point at the first x, without a start: to be traced for the shapes that a carry needs."""
    x = lower.problem.init_upper(jax.random.key(0))
    params = lower.dynamics.init_params(lower.num_steps, y0)
    return Point(lower.problem.prepare(x, task), params, ())


def refuse_memory(lower: LowerProblem, shapes: Point) -> None:
    """Raises ValueError for a lower optimizer with momentum or averages, where y makes one step.

    They start anew in every upper iteration, so in a first step they are of that step alone.
    """
    dynamics = lower.dynamics
    if dynamics.reads_objective or dynamics.no_derivative:
        return
    state = jax.eval_shape(lambda point: lower.at(point).init(point.y0).opt_state, shapes)
    if jax.tree.leaves(state):
        raise ValueError(
            "the lower optimizer remembers its directions (momentum, or averages of Adam), but "
            "starts anew in every upper iteration, where y makes one step: momentum would do "
            "nothing, and Adam would see signs alone; choose lower_optimizer=sgd, or more "
            "lower steps where y takes them (of bome z alone does)"
        )


def learned_per_step(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> dict[str, bool]:
    """{"group.name": whether it has one value per lower step} of the learned parameters."""
    here, one_more = (
        learned_shapes(problem, dynamics, steps) for steps in (num_lower_steps, num_lower_steps + 1)
    )
    leaves = zip(jax.tree_util.tree_leaves_with_path(here), jax.tree.leaves(one_more), strict=True)
    return {
        f"{path[0].key}.{path[1].key}": leaf.shape != other.shape for (path, leaf), other in leaves
    }
