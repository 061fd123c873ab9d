"""WarpGrad: the mean of F after each lower step, differentiated through that one step.

Flennerhag et al.: Meta-learning with warped gradient descent, ICLR 2020 (arXiv 1909.00025), eq. 8:

    L(x) = mean over k = 1..K of F(x, Phi_k(x, y_{k-1}))   with the iterates y_{k-1} held fixed

The upper variable (warp layers) so learns to make each single step good, from wherever it starts.
The paper learns the start by another rule. Here the start gets a gradient too: the Jacobian of
every y_{k-1} in the start is taken to be the identity, as in `truncated`.

Time: one lower solve, and K gradients of F through one step. Memory: one step. Valid if one step
shows enough of what x does; for K = 1 it is `unrolled`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bilevel.estimator import Hypergradient, HypergradientOutput, Target
from bilevel.lower_level import LowerProblem, LowerState, Point
from bilevel.types import Array, Index, Tree


def _zeros_to_sum(leaf: Array) -> Array:
    """In 32 bits at least: a sum of many terms in fewer stops growing."""
    return jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))


def warp_grad() -> Hypergradient:
    """The derivative of the mean of F after each step. The reported F is that at y_K."""

    def estimate(lower: LowerProblem, point: Point, carry: Tree, key: Array) -> HypergradientOutput:
        def score(moved: Point, state: LowerState, k: Index):
            level = lower.at(moved)
            after = level.step(state._replace(y=moved.y0), k)
            value, metrics = level.upper(after.y)
            return value, (after, metrics)

        differentiate = jax.value_and_grad(score, has_aux=True)

        def body(carried: tuple[LowerState, Point], k: Index):
            state, total = carried
            at_y = point._replace(y0=state.y)
            (value, (after, metrics)), gradient = differentiate(at_y, state, k)
            return (after, jax.tree.map(jnp.add, total, gradient)), (value, metrics)

        nothing = jax.tree.map(_zeros_to_sum, point)
        first = lower.at(point).init(point.y0), nothing
        (state, total), scores = lax.scan(body, first, jnp.arange(1, lower.num_steps + 1))
        value, metrics = jax.tree.map(lambda leaf: leaf[-1], scores)
        mean = jax.tree.map(lambda t, leaf: (t / lower.num_steps).astype(leaf.dtype), total, point)
        return HypergradientOutput(value, mean, state.y, metrics)

    def target(lower: LowerProblem, point: Point, key: Array):
        at_point, steps = lower.at(point), jnp.arange(1, lower.num_steps + 1)

        def forward(state: LowerState, k: Index) -> tuple[LowerState, LowerState]:
            return at_point.step(state, k), state

        _, places = lax.scan(forward, at_point.init(point.y0), steps)

        def phi(moved: Point) -> Array:
            level = lower.at(moved)
            by = jax.tree.map(jnp.subtract, moved.y0, point.y0)

            def one(place: LowerState, k: Index) -> Array:
                state = place._replace(y=jax.tree.map(jnp.add, place.y, by))
                return level.upper(level.step(state, k).y)[0]

            return jax.vmap(one)(places, steps).mean()

        return phi

    return Hypergradient(
        "warp_grad",
        estimate,
        "g = d/dx of the mean over k of F(x, y_k), each y_k through step k alone",
        Target("Mean over k of F(x, Phi_k(x, y_{k-1})) with the iterates frozen", target),
    )
