"""What would be wrong or never learned is refused before anything compiles.

Follows from what an estimator declares (src/bilevel/estimator.py), from what the lower dynamics
declare, and from what the problem reads, found by tracing.
"""

from typing import NamedTuple

import jax

from bilevel.dependence import read_by
from bilevel.estimator import Hypergradient
from bilevel.lower_level import LowerProblem, Point
from bilevel.shapes import Shapes, learned_per_step, point_shapes, refuse_memory
from bilevel.types import Array, Tree


class Reads(NamedTuple):
    """Whether F, f and the start read one leaf of x."""

    name: str
    upper: bool
    lower: bool
    start: bool


def refuse(hypergradient: Hypergradient, lower: LowerProblem, shapes: Shapes) -> None:
    """Raises ValueError where the estimator does not suit the lower level, or leaves something
    that is to be learned without a gradient.
    """
    dynamics, name = lower.dynamics, hypergradient.name
    if hypergradient.needs_stationarity and dynamics.never_rests:
        raise ValueError(
            f"implicit differentiation needs a lower solution, but {dynamics.never_rests}"
        )
    if hypergradient.through_steps and dynamics.no_derivative:
        raise ValueError(
            f"{name} differentiates through the lower steps, but {dynamics.no_derivative}"
        )
    if hypergradient.own_directions and dynamics.sees_upper:
        raise ValueError(
            f"{name} mixes F into the lower steps by a weight of its own; choose "
            "aggregation=lower_only"
        )
    if hypergradient.own_directions and dynamics.no_derivative:
        raise ValueError(
            f"{name} moves y along directions of its own, but {dynamics.no_derivative}"
        )
    if (hypergradient.own_directions or hypergradient.direction_alone) and dynamics.reads_objective:
        raise ValueError(
            f"{name} takes a lower step for a function of its direction alone, but "
            f"{dynamics.reads_objective}"
        )
    hypergradient.check(lower._replace(task=shapes.task), point_shapes(lower, shapes))
    refuse_unlearnable(hypergradient, lower)
    _refuse_unreached_x(hypergradient, lower, reads_of_x(lower, shapes))


def refuse_mixed_types(hypergradient: Hypergradient, lower: LowerProblem, shapes: Shapes) -> None:
    """Raises TypeError where y has several float types and the estimate cannot be traced with them.

    Many estimates take y for one vector, or multiply all of it by one number; others do not care.
    """
    types = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(shapes.y)})
    if len(types) == 1:
        return

    def estimate(task: Tree, point: Point, key: Array) -> Tree:
        bound = lower._replace(task=task)
        return hypergradient.estimate(bound, point, hypergradient.init(bound, point.y0), key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    cause, own = None, [leaf.dtype for leaf in jax.tree.leaves(shapes.y)]
    try:
        found = jax.eval_shape(estimate, shapes.task, point_shapes(lower, shapes), key)
        if all(
            [leaf.dtype for leaf in jax.tree.leaves(y)] == own for y in (found.y, found.gradient.y0)
        ):
            return
    except Exception as error:
        cause = error
    raise TypeError(
        f"y holds {' and '.join(types)}, which hypergradient={hypergradient.name} or the lower "
        "optimizer cannot mix; give all of lower_start one type of floats, or choose "
        "hypergradient=unrolled with lower_optimizer=sgd (in Python bilevel.methods.rhg())"
    ) from cause


def refuse_start(
    hypergradient: Hypergradient, lower: LowerProblem, shapes: Shapes, lower_start: str
) -> None:
    """Raises ValueError where an estimator that goes on from the last y would not get it.

    Also where y makes one step from there by an optimizer whose memory starts anew each time.
    """
    if hypergradient.follows and lower.persistent and lower_start != "warm":
        raise ValueError(
            f"lower_start={lower_start}: hypergradient={hypergradient.name} goes on from the y of "
            "the iteration before; choose lower_start=warm"
        )
    if lower_start == "warm" and lower.num_steps == 1:
        refuse_memory(lower, point_shapes(lower, shapes))


def refuse_unlearnable(hypergradient: Hypergradient, lower: LowerProblem) -> None:
    """Raises ValueError for a learned parameter of the lower step without a gradient."""
    name, sees, steps = hypergradient.name, hypergradient.differentiates, lower.num_steps
    dropped = hypergradient.dropped_steps(steps)
    for learned, per_step in learned_per_step(lower.problem, lower.dynamics, steps).items():
        part, _, quantity = learned.partition(".")
        if part not in sees:
            why = "it does not look there"
            if hypergradient.needs_stationarity:
                why = "a lower solution does not depend on it"
            raise ValueError(
                f"{learned} is to be learned, but hypergradient={name} gives no gradient of it: "
                f"{why}; {_unlearn(quantity, part)}, or choose hypergradient=unrolled"
            )
        if dropped == steps:
            raise ValueError(
                f"hypergradient={name} reaches no lower step, so {learned} would never be "
                f"learned; keep a step, or {_unlearn(quantity, 'the lower step')}"
            )
        if dropped and per_step:
            raise ValueError(
                f"{learned} has one value per lower step, but {name} reaches the last "
                f"{steps - dropped} of {steps} alone: the others would never be learned; choose "
                "hypergradient=unrolled, or one value for all steps"
            )


def _unlearn(quantity: str, part: str) -> str:
    """How to have nothing of `part` learned, where `quantity` of it is."""
    # masked_sgd learns its masks whatever its option `learn` says, which is for the step size.
    masks = quantity == "mask_logits"
    return "take lower_optimizer=sgd" if masks else f"learn nothing of {part}"


def reads_of_x(lower: LowerProblem, shapes: Shapes) -> list[Reads]:
    """What reads each leaf of x.

    Raises ValueError where the start reads x and the problem does not say so, and for a leaf that
    nothing reads.
    """
    problem = lower.problem
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = read_by(problem.init_lower, key, shapes.x)[1]
    if any(jax.tree.leaves(start)) and not problem.learned_start:
        raise ValueError(
            "problem: init_lower reads x, so the start is learned; say so: learned_start=True"
        )

    def upper(x: Tree, task: Tree, y: Tree) -> Tree:
        return problem.upper_objective(problem.prepare(x, task), task, y)[0]

    def below(x: Tree, task: Tree, y: Tree) -> Tree:
        return problem.lower_objective(problem.prepare(x, task), task, y)

    in_upper, in_lower = (
        read_by(function, shapes.x, shapes.task, shapes.y)[0] for function in (upper, below)
    )
    paths = jax.tree_util.tree_leaves_with_path(shapes.x)
    leaves = zip(paths, *map(jax.tree.leaves, (in_upper, in_lower, start)), strict=True)
    reads = [Reads(f"x{jax.tree_util.keystr(path)}", *each) for (path, _), *each in leaves]
    for leaf in reads:
        if not (leaf.upper or leaf.lower or leaf.start):
            raise ValueError(
                f"{leaf.name} would never be learned: neither F nor f nor the start y0 reads it; "
                "use it in an objective, or take it out of x"
            )
    return reads


def _refuse_unreached_x(
    hypergradient: Hypergradient, lower: LowerProblem, reads: list[Reads]
) -> None:
    name, sees = hypergradient.name, hypergradient.differentiates
    nothing_below = hypergradient.dropped_steps(lower.num_steps) == lower.num_steps
    lower_level_too = "context" in sees and not nothing_below
    for leaf in reads:
        directly = leaf.upper and {"context", "direct"} & sees
        below = lower_level_too and leaf.lower
        if directly or below or (leaf.start and "start" in sees):
            continue
        if not {"context", "direct"} & sees:
            raise ValueError(
                f"hypergradient={name}: {leaf.name} would never be learned: {name} moves the start "
                "of the lower level alone; choose method.lower_variable=all (in Python "
                "lower_start=lambda key, x: x), where all of x is the start (and no T- or warp "
                "layers), or hypergradient=unrolled"
            )
        if leaf.lower:
            looks = "it reaches no lower step" if nothing_below else "it does not look below"
            raise ValueError(
                f"hypergradient={name}: {leaf.name} would never be learned: F does not contain it, "
                f"and {looks}; choose hypergradient=unrolled, or at a lower price the last step "
                "alone, hypergradient=one_step"
            )
        raise ValueError(
            f"hypergradient={name}: {leaf.name} would never be learned: it acts through the start "
            "y0 alone, on which a lower solution does not depend; choose proximal_weight=1 (iMAML: "
            "the start is then part of f), or hypergradient=unrolled"
        )
