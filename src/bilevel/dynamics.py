"""Lower dynamics: one lower step, composed of an aggregation and a lower optimizer."""

import jax

from src.bilevel.types import (
    Aggregation,
    Array,
    BilevelProblem,
    LowerDynamics,
    LowerOptimizer,
    LowerState,
    Tree,
)


def compose(aggregation: Aggregation, optimizer: LowerOptimizer) -> LowerDynamics:
    """y_k = optimizer(y_{k-1}, d_k), d_k = w_F(k) grad_y F + w_f(k) grad_y f at y_{k-1}."""

    def init_params(num_lower_steps: int, y0: Tree) -> dict[str, Tree]:
        return {
            "aggregation": aggregation.init(num_lower_steps),
            "lower_optimizer": optimizer.init_params(num_lower_steps, y0),
        }

    def step(
        problem: BilevelProblem,
        params: Tree,
        context: Tree,
        task: Tree,
        state: LowerState,
        k: Array,
        batch: Tree = None,
    ) -> LowerState:
        weights = aggregation.weights(params["aggregation"], k)
        direction = jax.grad(mixed_objective, argnums=4)(
            problem, weights, context, task, state.y, batch
        )
        y, slots = optimizer.update(params["lower_optimizer"], direction, state.slots, state.y, k)
        return LowerState(y, slots)

    def project(params: dict[str, Tree]) -> dict[str, Tree]:
        return {
            "aggregation": aggregation.project(params["aggregation"]),
            "lower_optimizer": optimizer.project(params["lower_optimizer"]),
        }

    return LowerDynamics(
        init_params=init_params,
        init=lambda params, y0: LowerState(y0, optimizer.init(params["lower_optimizer"], y0)),
        step=step,
        project=project,
        formula=f"{optimizer.formula};  {aggregation.formula}",
        sees_upper=aggregation.sees_upper,
    )


def mixed_objective(
    problem: BilevelProblem, weights: tuple, context: Tree, task: Tree, y: Tree, batch: Tree
) -> Array:
    """w_F F + w_f f as one scalar, so that one backward pass gives the direction.

    The weights do not depend on y, hence the gradient of the mix is the mix of the gradients.
    """
    upper_weight, lower_weight = weights
    mixed = lower_weight * problem.lower_objective(context, task, y, batch)
    if upper_weight is not None:
        mixed = mixed + upper_weight * problem.upper_objective(context, task, y, batch)[0]
    return mixed


def for_testing(aggregation: Aggregation) -> Aggregation:
    """The same aggregation where the labels of F must not be seen: weights (0, t)."""
    if not aggregation.sees_upper:
        return aggregation

    def init(num_lower_steps: int) -> dict[str, Array]:
        return {name: v for name, v in aggregation.init(num_lower_steps).items() if name == "t"}

    return aggregation._replace(
        init=init,
        weights=aggregation.test_weights,
        formula="d_k = t grad_y f(x, y_{k-1})",
        sees_upper=False,
    )
