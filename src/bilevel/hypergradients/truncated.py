"""Truncated hypergradient: reverse mode through the last n of the K lower steps (TRHG, K-RMD).

Shaban, Cheng, Hatch, Boots: Truncated back-propagation for bilevel optimization, AISTATS 2019
(arXiv 1810.10667).

    g = d/dx F(x, Phi_K o ... o Phi_{K-n+1}(x, y_{K-n}))   with y_{K-n} held fixed

Where the start is learned, the Jacobian of the dropped steps, d y_{K-n} / d y_0, is taken to be
the identity, so that n = 0 gives the start FOMAML's gradient. n = K is `unrolled`.

Time: K steps forward, n back. Memory: n lower iterates. Valid where steps far back do not matter:
the bias shrinks like (1 - step_size mu)^n where f is mu-strongly convex; with several lower
solutions it does not shrink.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target, by_reverse_mode
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.option_checks import whole_number
from bilevel.types import Array, Tree


def truncated(*, keep_last: int) -> Hypergradient:
    """The derivative through the last `keep_last` = n steps, 0 <= n <= K.

    Raises TypeError where n is no whole number, ValueError where it is negative; `check`, and so
    any estimate, does where n > K.
    """
    keep_last = whole_number("keep_last", keep_last, least=None)
    if keep_last < 0:
        raise ValueError(f"keep_last={keep_last} must not be negative; choose keep_last=0 or more")

    def drop(lower: LowerProblem, point: Point) -> LowerState:
        """The state after the dropped steps."""
        check(lower, point)
        level = lower.at(point)
        return level.run(level.init(point.y0), 1, lower.num_steps - keep_last)

    def finish(lower: LowerProblem, dropped: LowerState, moved: Point):
        """F after the kept steps; moved.y0 is how far the start moved, and y_{K-n} with it."""
        level = lower.at(moved)
        state = dropped._replace(y=jax.tree.map(jnp.add, dropped.y, moved.y0))
        return level.score(level.run(state, lower.num_steps - keep_last + 1, lower.num_steps).y)

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        dropped = lax.stop_gradient(drop(lower, point))
        unmoved = point._replace(y0=jax.tree.map(jnp.zeros_like, point.y0))
        return by_reverse_mode(lambda moved: finish(lower, dropped, moved), unmoved)

    def target(lower: LowerProblem, point: Point, key: Array):
        dropped = drop(lower, point)

        def phi(moved: Point) -> Array:
            by = jax.tree.map(jnp.subtract, moved.y0, point.y0)
            return finish(lower, dropped, moved._replace(y0=by))[0]

        return phi

    def check(lower: LowerProblem, shapes: Point) -> None:
        if keep_last > lower.num_steps:
            raise ValueError(
                f"keep_last={keep_last} is outside 0..{lower.num_steps} (0..num_lower_steps): no "
                f"more steps exist; choose keep_last={lower.num_steps}, or hypergradient=unrolled "
                "to keep them all"
            )

    return Hypergradient(
        "truncated",
        estimate,
        f"g = d F(x, y_K(x)) / dx through the last {keep_last} of the K steps",
        Target("F(x, y_K(x)) with the dropped steps frozen", target),
        dropped_steps=lambda num_steps: num_steps - keep_last,
        certified_with={"keep_last": (0, 1, 3, 4)},
        check=check,
    )


def one_step() -> Hypergradient:
    """`truncated` to the last step."""
    return truncated(keep_last=1)._replace(name="one_step", certified_with={})
