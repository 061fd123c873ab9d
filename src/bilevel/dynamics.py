"""Lower dynamics: one lower step, composed of an aggregation and a lower optimizer."""

import jax
import jax.numpy as jnp

from bilevel.dependence import read_by
from bilevel.lower_level import LowerDynamics, LowerLevel, LowerState
from bilevel.step_types import Aggregation, DynamicsParams, LowerOptimizer, Reason
from bilevel.types import Array, BilevelProblem, Index, Objectives, Projection, Tree


def compose(aggregation: Aggregation, optimizer: LowerOptimizer) -> LowerDynamics:
    """y_k = optimizer(y_{k-1}, d_k), d_k = w_F(k) grad_y F + w_f(k) grad_y f at y_{k-1}.

    The steps have a stationarity condition where the weights do not change with k and the
    optimizer rests at a zero of the (projected) direction.
    """

    def init_params(num_lower_steps: int, y0: Tree) -> DynamicsParams:
        return {
            "aggregation": aggregation.init(num_lower_steps),
            "lower_optimizer": optimizer.init_params(num_lower_steps, y0),
        }

    def project(params: DynamicsParams) -> DynamicsParams:
        return {
            "aggregation": aggregation.project(params["aggregation"]),
            "lower_optimizer": optimizer.project(params["lower_optimizer"]),
        }

    def at(
        problem: BilevelProblem, task: Tree, context: Tree, dynamics_params: DynamicsParams
    ) -> LowerLevel:
        of_weights, of_step = dynamics_params["aggregation"], dynamics_params["lower_optimizer"]

        def objective(y: Tree, k: Index) -> Array:
            # One scalar, so that one backward pass gives the direction: the weights do not depend
            # on y, hence the gradient of the mix is the mix of the gradients.
            upper_weight, lower_weight = aggregation.weights(of_weights, k)
            seen = problem.rows(context, task, k)
            mixed = lower_weight * problem.lower_objective(*seen, y)
            if upper_weight is not None:
                mixed = mixed + upper_weight * problem.upper_objective(*seen, y)[0]
            return mixed

        def init(y0: Tree) -> LowerState:
            return LowerState(y0, optimizer.init(of_step, y0, lambda y: objective(y, 1)))

        def move(direction: Tree, state: LowerState, k: Index) -> LowerState:
            return LowerState(
                *optimizer.update(
                    of_step, direction, state.opt_state, state.y, k, lambda y: objective(y, k)
                )
            )

        return LowerLevel(
            init=init,
            objective=objective,
            direction=jax.grad(objective),
            move=move,
            upper=lambda y: problem.upper_objective(context, task, y),
        )

    return LowerDynamics(
        init_params=init_params,
        at=at,
        project=project,
        formula=f"{optimizer.formula};  {aggregation.formula}",
        projection=optimizer.projection,
        descends=_descended(aggregation),
        sees_upper=aggregation.sees_upper,
        never_rests=optimizer.never_rests or _changing_weights(aggregation),
        no_derivative=optimizer.no_derivative,
        reads_objective=optimizer.reads_objective,
        tolerance=optimizer.tolerance,
        rescales=optimizer.rescales,
    )


def confined(optimizer: LowerOptimizer, onto: Projection | None) -> LowerOptimizer:
    """The optimizer whose steps end in the projection of a problem; itself where there is none.

    y = P(y - d) holds at a solution; y = P(y - D d) with factors D of their own for each entry
    holds elsewhere, unless P is onto a box, which a function cannot be asked.

    Raises ValueError where its steps end in a projection of its own, or are those of a solver.
    """
    if onto is None:
        return optimizer
    if optimizer.projection is not None or optimizer.no_derivative is not None:
        raise ValueError(
            "the problem keeps y inside its bounds itself, and the lower optimizer has a set or a "
            "solver of its own; choose lower_optimizer=sgd"
        )

    formula = f"{optimizer.formula},  then into the bounds of y"
    bounded = optimizer.ending_in(onto)._replace(formula=formula)
    if not optimizer.rescales or optimizer.never_rests:
        return bounded
    return bounded._replace(
        never_rests=Reason(
            "steps with a length of their own for each entry (Adam's) come to rest in the bounds "
            "of y where other points are nearer to a solution",
            "lower_optimizer=sgd or momentum, or hypergradient=unrolled",
        )
    )


def _changing_weights(aggregation: Aggregation) -> Reason | None:
    params = jax.eval_shape(lambda: aggregation.init(2))
    step = jax.ShapeDtypeStruct((), jnp.int32)
    if not read_by(aggregation.weights, params, step)[1]:
        return None
    return Reason(
        "the weights of F and f change from step to step, so the steps have no resting point",
        "aggregation.law=constant, aggregation=lower_only, or hypergradient=unrolled",
    )


def _descended(aggregation: Aggregation) -> Objectives:
    # Numbers even where somebody composes inside jit.
    with jax.ensure_compile_time_eval():
        upper, lower = aggregation.weights(aggregation.init(1), 1)
        weights = {Objectives.f: lower, Objectives.F: 0.0 if upper is None else upper}
        descended = Objectives(0)
        for objective, weight in weights.items():
            if float(weight):
                descended |= objective
    return descended


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
