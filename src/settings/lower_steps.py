"""The lower optimizer of a run, and the lower steps by which its new tasks are tested."""

from collections.abc import Mapping
from typing import Literal

from bilevel.dynamics import compose, confined, for_testing
from bilevel.lower_level import LowerDynamics
from bilevel.shapes import learned_per_step
from bilevel.step_types import Aggregation, LowerOptimizer
from bilevel.types import BilevelProblem, Tree
from src.settings.checked import Settings
from src.settings.config import Node, about, call
from src.settings.errors import UserError


def lower_optimizer(node: Node, problem: BilevelProblem) -> LowerOptimizer:
    """The lower optimizer, inside the bounds of y where the problem has some."""
    optimizer = call(node)
    with about(node):
        return confined(optimizer, problem.project_lower)


def dynamics_of_tests(
    optimizer: LowerOptimizer,
    node: Node,
    settings: Settings,
    problem: BilevelProblem,
    aggregation: Aggregation,
) -> LowerDynamics:
    """The lower step on a new task: it has no query labels, and its size may be another.

    node: what the optimizer was made from. Raises UserError where it has no size to be set, and
    where something is learned for each lower step and tests have another number of them.
    """
    if settings.test_step_size != "learned":
        optimizer = _with_step_size(settings.test_step_size, node, problem, optimizer)
    dynamics = compose(for_testing(aggregation), optimizer)
    option, asked = "test_num_lower_steps", settings.steps_of_tests()
    refuse_other_steps(problem, dynamics, settings.num_lower_steps, asked, option)
    return dynamics


def refuse_tests_of_their_own(name: str, settings: Settings) -> None:
    """One fixed task is scored at the y that its training has reached. Raises UserError."""
    own = {
        "test_num_lower_steps": (settings.test_num_lower_steps, None),
        "test_step_size": (settings.test_step_size, "learned"),
    }
    for option, (value, default) in own.items():
        if value != default:
            shown = "null" if default is None else default
            raise UserError(
                f"{option}={value}: problem={name} is one fixed task, which is scored as it was "
                f"trained; choose {option}={shown}"
            )


def refuse_other_steps(
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    trained: int,
    asked: int,
    option: str = "num_lower_steps",
) -> None:
    """Parameters with one value per step exist for the steps that were trained, and no others."""
    if asked < 1:
        raise UserError(f"{option}={asked} must be at least 1")
    if asked == trained:
        return
    for name, one_each in learned_per_step(problem, dynamics, trained).items():
        if one_each:
            raise UserError(
                f"{option}={asked}: {name.partition('.')[2]} was learned with one value for "
                f"each of {trained} lower steps, and there is none for other steps; choose "
                f"{option}={trained}"
            )


def _with_step_size(
    size: Literal["initial"] | float,
    node: Node,
    problem: BilevelProblem,
    optimizer: LowerOptimizer,
) -> LowerOptimizer:
    """The optimizer that ignores what was learned of its step size, but nothing else."""
    changed: dict[str, float | str] = {} if size == "initial" else {"step_size": size}
    if changed and "step_size" not in node.options:
        raise UserError(
            f"test_step_size={size}: lower_optimizer={node.factory.__name__} has no step size; "
            "choose test_step_size=learned, or lower_optimizer=sgd"
        )
    if "learn" in node.options:
        changed["learn"] = "none"
    if not changed:
        return optimizer
    plain = lower_optimizer(node._replace(options={**node.options, **changed}), problem)

    def update(params: Mapping[str, Tree], *rest: Tree) -> tuple[Tree, Tree]:
        others = {name: value for name, value in params.items() if name != "step_size"}
        return plain.update(others, *rest)

    return plain._replace(update=update)
