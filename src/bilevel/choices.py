"""What a method is: the record of its choices, and their checks. The published: methods.py."""

import math
from typing import NamedTuple, TypedDict, get_args

import optax

from bilevel import lower_optimizers
from bilevel import problem_checks as check
from bilevel.aggregation import lower_only
from bilevel.algorithms.hypergradient_descent import LowerStart
from bilevel.dynamics import compose, confined
from bilevel.estimator import Hypergradient
from bilevel.lower_level import LowerDynamics
from bilevel.optax_steps import from_optax
from bilevel.step_types import Aggregation, LowerOptimizer
from bilevel.types import BilevelProblem


class Method(NamedTuple):
    """A way to solve a bilevel problem.

    lower_start       y0 from one key (fixed), from a new key each iteration (redrawn), or y_K of
                      the iteration before (warm)
    proximal_weight   rho of the term rho/2 |y - y0|^2 that is added to f (iMAML); 0 for none
    """

    name: str
    aggregation: Aggregation
    lower_optimizer: LowerOptimizer
    hypergradient: Hypergradient
    num_lower_steps: int
    lower_start: LowerStart = "fixed"
    proximal_weight: float = 0.0

    def dynamics(self, problem: BilevelProblem) -> LowerDynamics:
        """The lower step, inside the bounds of y where the problem has some."""
        return compose(self.aggregation, confined(self.lower_optimizer, problem.project_lower))


class LowerChoices(TypedDict, total=False):
    """What every method leaves open.

    num_lower_steps   K, 100 unless given
    step_size         of plain gradient steps, 0.1 unless given
    lower_optimizer   in place of plain gradient steps (`bilevel.lower_optimizers`, or of optax)
    lower_start       as in `Method`
    """

    num_lower_steps: int
    step_size: float
    lower_optimizer: LowerOptimizer | optax.GradientTransformation
    lower_start: LowerStart


def method(
    name: str,
    hypergradient: Hypergradient,
    aggregation: Aggregation | None = None,
    *,
    num_lower_steps: int = 100,
    step_size: float | None = None,
    lower_optimizer: LowerOptimizer | optax.GradientTransformation | None = None,
    lower_start: LowerStart = "fixed",
    proximal_weight: float = 0.0,
    **unknown: object,
) -> Method:
    """A method of one's own. aggregation: None descends f alone.

    lower_optimizer: one of optax is taken as `bilevel.lower_optimizers.from_optax` does.
    Raises TypeError or ValueError where a choice is not of its kind or not known, where
    num_lower_steps < 1, and on a step size beside a lower optimizer.
    """
    if unknown:
        options = ", ".join(LowerChoices.__annotations__)
        raise TypeError(
            f"{name} has no option {next(iter(unknown))}; for the lower level there are {options}"
        )
    check.numbers(step_size=step_size)
    proximal_weight = check.number("proximal_weight", proximal_weight)
    if not 0 <= proximal_weight < math.inf:
        raise ValueError(
            f"proximal_weight={proximal_weight} must be finite and not negative; choose "
            "proximal_weight=1, or proximal_weight=0 for none"
        )
    check.kind("hypergradient", hypergradient, Hypergradient, "bilevel.hypergradients.unrolled()")
    num_lower_steps = check.whole_number("num_lower_steps", num_lower_steps)
    if aggregation is not None:
        check.kind("aggregation", aggregation, Aggregation, "bilevel.lower_only()")
    if isinstance(lower_optimizer, optax.GradientTransformation):
        lower_optimizer = from_optax(lower_optimizer)
    if lower_optimizer is not None:
        example = "bilevel.lower_optimizers.adam(step_size=0.1)"
        check.kind("lower_optimizer", lower_optimizer, LowerOptimizer, example)
        if step_size is not None:
            raise ValueError(
                f"step_size={step_size} is given beside lower_optimizer, which has a step size of "
                "its own; leave one of the two out"
            )
    if lower_start not in get_args(LowerStart):
        raise ValueError(
            f"lower_start={lower_start!r} is none of {', '.join(get_args(LowerStart))}; the first "
            "y0 itself belongs to bilevel.problem(lower_start=...)"
        )
    optimizer = lower_optimizer or lower_optimizers.sgd(
        step_size=0.1 if step_size is None else step_size
    )
    return Method(
        name,
        aggregation or lower_only(),
        optimizer,
        hypergradient,
        num_lower_steps,
        lower_start,
        proximal_weight,
    )


def following(lower: LowerChoices) -> LowerChoices:
    """The choices, with a warm start where nothing else is chosen."""
    return {"lower_start": "warm", **lower}
