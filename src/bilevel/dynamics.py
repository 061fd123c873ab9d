"""Lower dynamics: one lower step, composed of an aggregation and a lower optimizer."""

import jax
import jax.numpy as jnp

from src.bilevel.dependence import read_by
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
    """y_k = optimizer(y_{k-1}, d_k), d_k = w_F(k) grad_y F + w_f(k) grad_y f at y_{k-1}.

    The steps have a stationarity condition where the weights do not change with k and the
    optimizer rests at a zero of the (projected) direction.
    """
    moving = optimizer.moving or _weights_that_move(aggregation)

    def init_params(num_lower_steps: int, y0: Tree) -> dict[str, Tree]:
        return {
            "aggregation": aggregation.init(num_lower_steps),
            "lower_optimizer": optimizer.init_params(num_lower_steps, y0),
        }

    def objective(
        problem: BilevelProblem,
        params: Tree,
        context: Tree,
        task: Tree,
        y: Tree,
        k: Array | int,
        batch: Tree = None,
    ) -> Array:
        # One scalar, so that one backward pass gives the direction: the weights do not depend on
        # y, hence the gradient of the mix is the mix of the gradients.
        upper_weight, lower_weight = aggregation.weights(params["aggregation"], k)
        batch = problem.batch(task, k) if batch is None else batch
        mixed = lower_weight * problem.lower_objective(context, task, y, batch)
        if upper_weight is not None:
            mixed = mixed + upper_weight * problem.upper_objective(context, task, y, batch)[0]
        return mixed

    direction = jax.grad(objective, argnums=4)

    def move(params: Tree, direction: Tree, state: LowerState, k: Array) -> LowerState:
        return LowerState(
            *optimizer.update(params["lower_optimizer"], direction, state.slots, state.y, k)
        )

    def step(
        problem: BilevelProblem,
        params: Tree,
        context: Tree,
        task: Tree,
        state: LowerState,
        k: Array,
        batch: Tree = None,
    ) -> LowerState:
        return move(params, direction(problem, params, context, task, state.y, k, batch), state, k)

    def stationarity(
        problem: BilevelProblem,
        params: Tree,
        context: Tree,
        task: Tree,
        y: Tree,
        batch: Tree = None,
    ) -> Tree:
        found = direction(problem, params, context, task, y, 1, batch)
        return residual(optimizer.projection, found, y)

    def project(params: dict[str, Tree]) -> dict[str, Tree]:
        return {
            "aggregation": aggregation.project(params["aggregation"]),
            "lower_optimizer": optimizer.project(params["lower_optimizer"]),
        }

    return LowerDynamics(
        init_params=init_params,
        init=lambda params, y0: LowerState(y0, optimizer.init(params["lower_optimizer"], y0)),
        objective=objective,
        direction=direction,
        move=move,
        step=step,
        stationarity=None if moving else stationarity,
        moving=moving,
        projection=optimizer.projection,
        descends=_descended(aggregation),
        project=project,
        formula=f"{optimizer.formula};  {aggregation.formula}",
        sees_upper=aggregation.sees_upper,
    )


def residual(projection, direction: Tree, y: Tree) -> Tree:
    """The direction itself, or y - P(y - direction) under a projection P; zero at a solution."""
    if projection is None:
        return direction
    target = projection(jax.tree.map(jnp.subtract, y, direction))
    return jax.tree.map(jnp.subtract, y, target)


def _weights_that_move(aggregation: Aggregation) -> str:
    params = jax.eval_shape(lambda: aggregation.init(2))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    if not read_by(aggregation.weights, params, step)[1]:
        return ""
    return (
        "the weights of F and f change from step to step, so the steps have no resting point; "
        "choose aggregation.law=constant, aggregation=lower_only, or hypergradient=unrolled"
    )


def _descended(aggregation: Aggregation) -> str:
    upper, lower = aggregation.weights(aggregation.init(1), 1)
    names = {"f": lower, "F": 0.0 if upper is None else upper}
    return " + ".join(name for name, weight in names.items() if float(weight))


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
