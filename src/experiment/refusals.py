"""What an estimator cannot learn is refused before anything compiles.

Follows from what its file declares (see src/bilevel/hypergradients) and from what the problem
reads, found by tracing.
"""

from types import ModuleType
from typing import Any

import jax

from src.bilevel.dependence import read_by
from src.bilevel.types import BilevelProblem, LowerDynamics, Tree
from src.experiment.config import Node
from src.experiment.errors import UserError
from src.experiment.shapes import Shapes, learned_per_step


def refuse_unlearnable(
    estimator: ModuleType,
    node: Node,
    problem: BilevelProblem,
    dynamics: LowerDynamics,
    num_lower_steps: int,
    shapes: Shapes,
) -> None:
    """Raises UserError where something that is to be learned would never get a gradient."""
    name = node.factory.__name__
    sees = set(estimator.DIFFERENTIATES)
    implicit = "direct" not in sees and "start" not in sees
    dropped = 0
    if hasattr(estimator, "dropped_steps"):
        dropped = estimator.dropped_steps(num_lower_steps, **node.options)
    for learned, per_step in learned_per_step(problem, dynamics, num_lower_steps).items():
        part, _, quantity = learned.partition(".")
        if part not in sees:
            why = "a lower solution does not depend on it" if implicit else "it does not look there"
            raise UserError(
                f"{learned} is to be learned, but hypergradient={name} gives no gradient of it: "
                f"{why}; {_unlearn(quantity, part)}, or choose hypergradient=unrolled"
            )
        if dropped == num_lower_steps:
            raise UserError(
                f"hypergradient.keep_last=0 reaches no lower step, so {learned} would never be "
                f"learned; keep a step, or {_unlearn(quantity, 'the lower step')}"
            )
        if dropped and per_step:
            raise UserError(
                f"{learned} has one value per lower step, but {name} reaches the last "
                f"{num_lower_steps - dropped} of {num_lower_steps} alone: the others would never "
                "be learned; choose hypergradient=unrolled, or one value for all steps"
            )
    _refuse_unreached_x(name, sees, dropped == num_lower_steps, problem, shapes)


def _unlearn(quantity: str, part: str) -> str:
    """How to have nothing of `part` learned, where `quantity` of it is."""
    # masked_sgd learns its masks whatever its option `learn` says, which is for the step size.
    masks = quantity == "mask_logits"
    return "take lower_optimizer=sgd" if masks else f"learn nothing of {part}"


def _refuse_unreached_x(
    name: str, sees: set[str], nothing_below: bool, problem: BilevelProblem, shapes: Shapes
) -> None:
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = read_by(problem.init_lower, key, shapes.x)[1]
    if any(jax.tree.leaves(start)) and not problem.learned_start:
        raise UserError(
            "problem: init_lower reads x, so the start is learned; say so: learned_start=True"
        )
    lower_level_too = "context" in sees and not nothing_below
    if lower_level_too and "start" in sees:
        return

    def objective(which: Any) -> Tree:
        def value(x: Tree, task: Tree, y: Tree) -> Tree:
            return which(problem.prepare(x, task), task, y, None)

        return read_by(value, shapes.x, shapes.task, shapes.y)[0]

    reads = zip(
        jax.tree_util.tree_leaves_with_path(shapes.x),
        jax.tree.leaves(objective(lambda *at: problem.upper_objective(*at)[0])),
        jax.tree.leaves(objective(problem.lower_objective)),
        jax.tree.leaves(start),
        strict=True,
    )
    for (path, _), in_upper, in_lower, in_start in reads:
        directly = in_upper and {"context", "direct"} & sees
        reached = directly or (lower_level_too and in_lower) or ("start" in sees and in_start)
        if reached or not (in_upper or in_lower or in_start):
            continue
        entry = f"x{jax.tree_util.keystr(path)}"
        if not {"context", "direct"} & sees:
            raise UserError(
                f"hypergradient={name}: {entry} would never be learned: {name} moves the start of "
                "the lower level alone; choose method.lower_variable=all, where all of x is the "
                "start (and no T- or warp layers), or hypergradient=unrolled"
            )
        if in_lower:
            looks = "it reaches no lower step" if nothing_below else "it does not look below"
            raise UserError(
                f"hypergradient={name}: {entry} would never be learned: F does not contain it, and "
                f"{looks}; choose hypergradient=unrolled, or at a lower price the last step alone, "
                "hypergradient=one_step"
            )
        raise UserError(
            f"hypergradient={name}: {entry} would never be learned: it acts through the start y0 "
            "alone, on which a lower solution does not depend; choose proximal_weight=1 (iMAML: "
            "the start is then part of f), or hypergradient=unrolled"
        )
