"""Sequential minimisation of F with a quadratic penalty on the value function (BVFSM).

    z_k = z_{k-1} - eta grad_z [f + mu/2 |z|^2](x, z_{k-1}),   k = 1..K;   v = f(x, z) + mu/2 |z|^2
    s   = max(f(x, y) - v, 0)                                   the violation
    y_k = y_{k-1} - eta grad_y [F + theta/2 |y|^2 + lambda/2 s^2] / (1 + lambda s)
    g   = dF/dx + lambda s (df/dx(x, y) - df/dx(x, z)),         lambda = weight (n + 1)^power

Liu, Liu, Yuan, Zeng, Zhang: A value-function-based interior-point method for non-convex bi-level
optimization, ICML 2021 (arXiv 2106.07991), and its successor with penalties, Liu, Liu, Zeng, Zhang:
Value-function-based sequential minimization for bi-level optimization (arXiv 2110.04974). mu and
theta make both solutions bounded. The division of the steps by 1 + lambda s is ours: it keeps one
step size stable as lambda grows.

Time: two lower solves, one with the gradient of F in each step. No second derivatives. Memory: two
lower iterates. Valid for a lower level that is not convex, or has several solutions, where steps on
f find its least value.
"""

import jax
import jax.numpy as jnp
import optax

from bilevel import option_checks as check
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.lower_level import LowerProblem, Point
from bilevel.penalties import (
    WEIGHT_LIMIT,
    Followed,
    descend,
    first,
    following,
    growing,
    objectives,
    other_of,
    output_of,
    refuse_weight,
)
from bilevel.types import Array, Index, Tree


def sequential_penalty(
    *, weight: float = 10.0, power: float = 0.25, mu: float = 1e-3, theta: float = 1e-3
) -> Hypergradient:
    """g = dF/dx + lambda s (df/dx(y) - df/dx(z)), s how far f(x, y) lies above its least value.

    weight, power: lambda = weight (n + 1)^power in upper iteration n. mu, theta: of the squared
    norms that are added to f for z, and to F for y.
    Raises ValueError for a weight outside (0, 1e6], a power outside [0, 1], mu < 0 or theta < 0.
    """
    refuse_weight(weight, power)
    for name, value in (("mu", mu), ("theta", theta)):
        check.number(name, value)
        if not value >= 0:
            raise ValueError(f"{name}={value} must not be negative; choose {name}=0.001")

    def estimate(
        lower: LowerProblem, point: Point, carry: Followed, key: Array
    ) -> HypergradientOutput:
        scale = growing(weight, power, carry.iteration)

        def regularised(z: Tree, k: Index) -> Array:
            added = mu / 2 * optax.tree.norm(z, squared=True)
            return objectives(lower, k).f(point.context, z) + added

        other = point._replace(y0=other_of(carry, point))
        z = descend(lower, other, regularised, lower.num_steps)

        def violation(context: Tree, y: Tree, k: Index) -> Array:
            f = objectives(lower, k).f
            least = f(context, z) + mu / 2 * optax.tree.norm(z, squared=True)
            return jnp.maximum(f(context, y) - least, 0)

        def penalised(y: Tree, k: Index) -> Array:
            s = violation(point.context, y, k)
            upper = objectives(lower, k).F(point.context, y)
            upper += theta / 2 * optax.tree.norm(y, squared=True)
            return (upper + scale / 2 * s**2) / (1 + scale * jax.lax.stop_gradient(s))

        y = descend(lower, point, penalised, lower.num_steps)
        after = lower.num_steps + 1

        def lagrangian(context: Tree) -> tuple[Array, Array]:
            s = violation(context, y, after)
            return objectives(lower, after).F(context, y) + scale / 2 * s**2, s

        of_context, s = jax.grad(lagrangian, has_aux=True)(point.context)
        shown = {"penalty_weight": scale, "value_gap": s}
        return output_of(lower, point, y, of_context, shown, following(carry, z))

    return Hypergradient(
        "sequential_penalty",
        estimate,
        f"g = dF/dx + lambda s (df/dx(y) - df/dx(z)), s = max(f(y) - f(z) - {mu:g}/2 |z|^2, 0), "
        f"lambda = {weight:g} (n + 1)^{power:g};  z descends f + {mu:g}/2 |z|^2, y descends F + "
        f"{theta:g}/2 |y|^2 + lambda/2 s^2",
        None,
        differentiates=frozenset({"context"}),
        through_steps=False,
        follows=True,
        own_directions=True,
        init=first,
        limits={"penalty_weight": WEIGHT_LIMIT},
    )
