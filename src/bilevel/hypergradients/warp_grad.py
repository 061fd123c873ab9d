"""WarpGrad: every lower iterate counts, each through the one step that follows it.

Flennerhag et al.: Meta-learning with warped gradient descent, ICLR 2020 (arXiv 1909.00025), eq. 8:

    L(x) = mean over k = 1..K of F(x, Phi_k(x, y_{k-1}))   with the iterates y_{k-1} held fixed

so that what is learned above (warp layers) shapes each step wherever it starts from, not the
trajectory. The paper leaves the start to another rule; here it enters every y_{k-1} with the
identity as its Jacobian, as in `truncated`: through the last step alone this would be FOMAML's
gradient with one step differentiated.

Time: one lower solve, and K gradients of F through one step. Memory: one step. Valid where one step
says enough; for K = 1 it is `unrolled`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from src.bilevel.types import (
    Array,
    BilevelProblem,
    Hypergradient,
    HypergradientOutput,
    LowerDynamics,
    LowerState,
    Tree,
)

DIFFERENTIATES = ("context", "aggregation", "lower_optimizer", "start")


def target(problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int):
    """Mean over k of F(x, Phi_k(x, y_{k-1})) with the iterates frozen."""

    def at_point(context: Tree, task: Tree, params: Tree, frozen_start: Tree, key: Array):
        del key
        steps = jnp.arange(1, num_lower_steps + 1)

        def forward(state: LowerState, k: Array) -> tuple[LowerState, LowerState]:
            return dynamics.step(problem, params, context, task, state, k), state

        _, places = lax.scan(forward, dynamics.init(params, frozen_start), steps)

        def phi(context: Tree, params: Tree, y0: Tree) -> Array:
            shift = jax.tree.map(jnp.subtract, y0, frozen_start)

            def one(place: LowerState, k: Array) -> Array:
                state = place._replace(y=jax.tree.map(jnp.add, place.y, shift))
                y = dynamics.step(problem, params, context, task, state, k).y
                return problem.upper_objective(context, task, y, None)[0]

            return jax.vmap(one)(places, steps).mean()

        return phi

    return at_point


TARGET = target


def warp_grad(
    problem: BilevelProblem, dynamics: LowerDynamics, num_lower_steps: int
) -> Hypergradient:
    """The derivative of the mean of F after each step. Raises ValueError where K < 1.

    The reported F is that at y_K, not the mean.
    """
    if num_lower_steps < 1:
        raise ValueError("warp_grad needs a lower step; choose num_lower_steps=1 or more")

    def estimate(
        carry: Tree, context: Tree, task: Tree, params: Tree, y0: Tree, key: Array
    ) -> HypergradientOutput:
        del key

        def scored(context: Tree, params: Tree, y: Tree, state: LowerState, k: Array):
            moved = dynamics.step(problem, params, context, task, state._replace(y=y), k)
            value, metrics = problem.upper_objective(context, task, moved.y, None)
            return value, (moved, metrics)

        differentiate = jax.value_and_grad(scored, argnums=(0, 1, 2), has_aux=True)

        def body(carried: tuple[LowerState, Tree], k: Array):
            state, total = carried
            (value, (moved, metrics)), gradient = differentiate(context, params, state.y, state, k)
            return (moved, jax.tree.map(jnp.add, total, gradient)), (value, metrics)

        zero = jax.tree.map(jnp.zeros_like, (context, params, y0))
        (state, total), (values, metrics) = lax.scan(
            body, (dynamics.init(params, y0), zero), jnp.arange(1, num_lower_steps + 1)
        )
        of_context, of_params, of_start = jax.tree.map(lambda leaf: leaf / num_lower_steps, total)
        last = jax.tree.map(lambda leaf: leaf[-1], (values, metrics))
        return HypergradientOutput(
            last[0],
            of_context,
            of_params,
            of_start,
            y=state.y,
            metrics=last[1],
            diagnostics={},
            carry=carry,
        )

    return Hypergradient(
        init=lambda y0: (),
        estimate=estimate,
        formula="g = d/dx of the mean over k of F(x, y_k), each y_k through step k alone",
    )
