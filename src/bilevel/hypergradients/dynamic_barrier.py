"""Dynamic barrier: F is descended as far as f still falls fast enough (BOME).

    z      = y after K lower steps on f, held fixed
    q(x,y) = f(x, y) - f(x, z)
    lambda = max(phi - <grad F, grad q>, 0) / |grad q|^2,    phi = share |grad q|^2
    y      = y - eta (grad_y F + lambda grad_y q),   g = grad_x F + lambda grad_x q

Liu, Ye, Wright, Stone, Liu: BOME! Bilevel optimization made easy, NeurIPS 2022 (arXiv 2209.08709),
Alg. 1. Gradients and inner products are in (context, y): in (x, y) where the objectives read x
itself. x and y move by one step each; K is of z alone. The paper has no bounds of y; where lower
steps end in a projection P, grad_y q is y - P(y - grad_y q) in lambda and phi.

Time: one lower solve, and four gradients. No second derivatives. Memory: two lower iterates. Valid
where f(x, y) - min f bounds the distance to a lower solution (Polyak and Lojasiewicz); several
lower solutions are admitted.
"""

import jax
import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, Point
from bilevel.penalties import objectives, output_of
from bilevel.shapes import refuse_memory
from bilevel.types import Array, Tree


def dynamic_barrier(*, share: float = 0.5) -> Hypergradient:
    """g = dF/dx + lambda dq/dx with the smallest lambda >= 0 for which q falls at the rate phi.

    share: phi = share |grad q|^2. Raises ValueError unless share > 0; `check` does for a lower
    optimizer with a memory, which the one step of y would not have.
    """
    share = check.number("share", share)
    if not share > 0:
        raise ValueError(f"share={share} must be positive; choose share=0.5")

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        z = lower.solve(point)
        rows = objectives(lower, lower.num_steps + 1)
        here = (point.context, point.y0)
        gap, of_gap = jax.value_and_grad(
            lambda context, y: rows.f(context, y) - rows.f(context, z), argnums=(0, 1)
        )(*here)
        of_upper = jax.grad(rows.F, argnums=(0, 1))(*here)
        # Along what a bound holds in balance q has no slope: y cannot move there.
        free = (of_gap[0], lower.residual(of_gap[1], point.y0))
        size = optax.tree.norm(free, squared=True)
        # Where q has no slope there is nothing to hold it down with.
        wanted = share - optax.tree.vdot(of_upper, free) / jnp.where(size > 0, size, 1)
        weight = jnp.where(size > 0, jnp.maximum(wanted, 0), 0)
        of_context, of_y = jax.tree.map(lambda a, b: a + weight * b, of_upper, of_gap)
        level = lower.at(point)
        y = level.move(optax.tree.cast_like(of_y, point.y0), level.init(point.y0), 1).y
        shown = {"penalty_weight": weight, "value_gap": gap}
        return output_of(lower, point, y, of_context, shown)

    return Hypergradient(
        "dynamic_barrier",
        estimate,
        "g = dF/dx + lambda dq/dx, q = f(x, y) - f(x, z), "
        f"lambda = max({share:g} - <grad F, grad q> / |grad q|^2, 0);  z: K steps on f from y;  "
        "y moves once along grad_y F + lambda grad_y q",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        steps_of_y=lambda num_steps: 1,
        own_directions=True,
        check=refuse_memory,
        certified_with={"share": (0.5, 20.0)},
    )
