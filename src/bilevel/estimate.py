"""One hypergradient of a problem by a method, by itself or as the gradient of a function."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel import problem_checks as check
from bilevel.estimator import in_types_of
from bilevel.lower_level import LowerProblem, Point
from bilevel.methods import Method
from bilevel.own_problem import Problem
from bilevel.proximal import proximal
from bilevel.refusals import refuse, refuse_mixed_types, refuse_start
from bilevel.shapes import one_task, shapes_of
from bilevel.step_types import DynamicsParams
from bilevel.types import Array, Metrics, Tree


class Found(NamedTuple):
    """What `hypergradient` returns.

    value               F(x, y_K)
    gradient            the estimate of d F(x, y*(x)) / dx, of the structure of x
    y                   y_K
    metrics             scores of F at y_K
    diagnostics         of the estimate itself, such as linear_residual
    dynamics_gradient   the estimate for what is learned of the lower step (alpha, step size)
    objective           what is differentiated: F(x, y_K), but the weighted sum for multi_step, and
                        F at the worst step for pessimistic (iaptt)
    """

    value: Array
    gradient: Tree
    y: Tree
    metrics: Metrics
    diagnostics: Metrics
    dynamics_gradient: DynamicsParams
    objective: Array


def hypergradient(
    problem: Problem,
    method: Method,
    x: Tree,
    *,
    y0: Tree = None,
    key: Array | None = None,
) -> Found:
    """An estimate of d F(x, y*(x)) / dx by a method, at x: a pure function for jit and vmap.

    y0: where the lower level starts, of the float types of the problem's own start, which None
    takes; it is held fixed, and nothing of the gradient comes through it. key: draws a start, a
    task or mini-batches where the problem has such; None: jax.random.key(0).

    The result is not to be differentiated again: the derivative of `value` is that of the program
    which computes it, seldom the estimate. `value_function` is for jax.grad.

    Each call is the first iteration of a run, n = 0. hoag then solves its linear system to its
    first tolerance: for one precise estimate, give tolerance=1e-10.

    Raises TypeError or ValueError, before compiling, where x or y0 does not fit the problem, or the
    method does not suit it or approaches the gradient over many iterations (soba, pbgd, bome).
    """
    _refuse_alone(method)
    return first_estimate(problem, method, x, y0=y0, key=key)


def first_estimate(
    problem: Problem,
    method: Method,
    x: Tree,
    *,
    y0: Tree = None,
    key: Array | None = None,
) -> Found:
    """The estimate in the first iteration of a run by any method, also where it is no gradient.

    Arguments and errors as of `hypergradient`.
    """
    lower = suited_lower_problem(problem, method)
    x = check.strong(x)
    check.floats("x", x)
    bilevel_problem, source = lower.problem, problem.source
    key = jax.random.key(0) if key is None else check.usable_key("key", key)
    check.same_form("x", x, "upper_start", jax.eval_shape(bilevel_problem.init_upper, key))
    task_key, start_key, own_key = jax.random.split(key, 3)
    task = one_task(source, source.seeded(source.data, key), task_key, "train")
    context, pull_context = jax.vjp(lambda x: bilevel_problem.prepare(x, task), x)
    start, pull_start = jax.vjp(lambda x: bilevel_problem.init_lower(start_key, x), x)
    if y0 is not None:
        y0 = check.strong(y0)
        check.floats("y0", y0)
        check.same_form("y0", y0, "lower_start", start)
        # Of the types of the problem's start, which f and F were checked with.
        start = optax.tree.cast_like(y0, start)
    params = lower.dynamics.init_params(lower.num_steps, start)
    bound, estimator = lower._replace(task=task), method.hypergradient
    point = Point(context, params, start)
    carry = estimator.init(bound, start)
    output = in_types_of(point, estimator.estimate(bound, point, carry, own_key))
    gradient = pull_context(output.gradient.context)[0]
    if y0 is None:
        through_start = pull_start(output.gradient.y0)[0]
        gradient = jax.tree.map(jnp.add, gradient, through_start)
    return Found(
        output.value,
        gradient,
        output.y,
        output.metrics,
        output.diagnostics,
        output.gradient.dynamics_params,
        output.value if output.objective is None else output.objective,
    )


def value_function(
    problem: Problem, method: Method, *, key: Array | None = None
) -> Callable[[Tree], Array]:
    """phi(x) = F(x, y_K(x)), whose jax.grad is the method's hypergradient.

    Of a method that minimises another function of the steps, phi is that: `objective` of `Found`.
    For optimizers that want a function: optax, scipy, jaxopt. `key`, and what n = 0 means for hoag,
    as in `hypergradient`. It has first derivatives in reverse mode alone.

    Raises ValueError as `hypergradient`.
    """
    _refuse_alone(method)

    @jax.custom_vjp
    def phi(x: Tree) -> Array:
        return hypergradient(problem, method, x, key=key).objective

    def forwards(x: Tree) -> tuple[Array, Tree]:
        found = hypergradient(problem, method, x, key=key)
        return found.objective, found.gradient

    def backwards(gradient: Tree, cotangent: Array) -> tuple[Tree]:
        # Of the type of x, whatever that of F.
        return (optax.tree.cast_like(optax.tree.scale(cotangent, gradient), gradient),)

    phi.defvjp(forwards, backwards)
    return phi


def _refuse_alone(method: Method) -> None:
    """Raises ValueError for a method whose estimate gets near the gradient by many iterations."""
    estimator = method.hypergradient if isinstance(method, Method) else None
    if estimator is None or not estimator.follows:
        return
    has_system = estimator.needs_stationarity
    if has_system or estimator.steps_of_y(method.num_lower_steps) == 1:
        system = " and the linear system" if has_system else ""
        raise ValueError(
            f"{method.name} goes on from the y{system} of the iteration before: the "
            "estimate of a first iteration is far from the gradient, and may be dF/dx alone; "
            "choose bilevel.methods.hoag(tolerance=1e-10) or rhg, or take the iterations of "
            f"{method.name} by bilevel.minimizer"
        )


def suited_lower_problem(problem: Problem, method: Method) -> LowerProblem:
    """The lower level by this method, whose task holds shapes alone.

    Raises ValueError where the two do not suit each other.
    """
    check.kind("method", method, Method, "bilevel.methods.rhg()")
    check.kind("problem", problem, Problem, "bilevel.problem(f, F, ...)")
    bilevel_problem, source = problem.problem, problem.source
    if method.proximal_weight:
        bilevel_problem = proximal(bilevel_problem, method.proximal_weight)
    if method.lower_start == "warm" and (not source.persistent or bilevel_problem.learned_start):
        raise ValueError(
            "lower_start=warm: y0 is the last y_K, which needs one fixed task and a start that is "
            "not learned; choose lower_start=fixed"
        )
    dynamics = method.dynamics(bilevel_problem)
    lower = LowerProblem(bilevel_problem, dynamics, method.num_lower_steps, source.persistent)
    shapes = shapes_of(bilevel_problem, source, "train")
    refuse_start(method.hypergradient, lower, shapes, method.lower_start)
    refuse(method.hypergradient, lower, shapes)
    refuse_mixed_types(method.hypergradient, lower, shapes)
    return lower._replace(task=shapes.task)
