"""Each estimator against its own target, against the truth, and against the price of a lower solve.

Estimators are found under conf/hypergradient: a new one is certified by existing.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from src.bilevel.dynamics import LowerDynamics
from src.bilevel.lower_solve import run_steps
from src.bilevel.types import Array, Hypergradient, HypergradientOutput
from src.certification.cases import (
    CASES,
    Case,
    Point,
    lower_dynamics,
    place_of,
    point_of,
    with_params,
)
from src.certification.finite_differences import directional_error
from src.data.synthetic_regression import synthetic_regression
from src.experiment.build import make_hypergradient
from src.experiment.combinations import node_of
from src.experiment.config import Node, call
from src.experiment.errors import UserError
from src.experiment.shapes import shapes_of
from src.problems.ridge import ridge

NUM_LOWER_STEPS = 4
# Options that are certified at several values, and those that an exact solve needs.
VARIANTS: Mapping[str, tuple[Any, ...]] = {
    "keep_last": (0, 1, 3, NUM_LOWER_STEPS),
    "checkpoints": ("none", "sqrt"),
    "damping": (0.0, 0.2),
    "step_size": (0.05, None),
}
EXACT: Mapping[str, Any] = {
    "tolerance": 1e-14,
    "max_solver_steps": 4000,
    "restart": 200,
    "max_scalars": 10**6,
    "num_terms": 7,
    "rank": 3,
}
# All option values on two cases, all lower dynamics on one, two dynamics on all: the rest of the
# product would repeat itself.
CERTIFIED = ("quadratic", "few_shot", "cleaning", "maml", "learned_start")
VARIED = ("quadratic", "learned_start")
EVERY_DYNAMICS = "learned_start"
TWO_DYNAMICS = ("sgd", "bda, constant")


class Timing(NamedTuple):
    """Seconds and bytes of temporary memory of one compiled program."""

    seconds: float
    bytes: int


def module_of(node: Node) -> ModuleType:
    """The estimator's file."""
    return sys.modules[node.factory.__module__]


def make(node: Node, case: Case, dynamics: LowerDynamics, num_lower_steps: int) -> Hypergradient:
    """The estimator for a case, made as for a run. Raises UserError where it refuses."""
    problem, source = case.problem, case.source
    shapes = shapes_of(problem, source, "train")
    return make_hypergradient(node, problem, dynamics, num_lower_steps, source.persistent, shapes)[
        0
    ]


def unchecked(
    node: Node, case: Case, dynamics: LowerDynamics, num_lower_steps: int
) -> Hypergradient:
    """As `make`, for measuring what a run would refuse: first_order where F does not contain x."""
    return call(
        node,
        problem=case.problem,
        dynamics=dynamics,
        num_lower_steps=num_lower_steps,
        persistent=case.source.persistent,
    )


def default_node(name: str) -> Node:
    """The estimator with the options that its file has for ridge regression."""
    return node_of("hypergradient", f"hypergradient={name}")


def variants(name: str) -> list[Node]:
    """The estimator at every combination of the options worth certifying.

    A file that is but a preset of another one's options is taken as it is.
    """
    node = default_node(name)
    if node.factory.__name__ != name:
        return [node]
    exact = {key: value for key, value in EXACT.items() if key in node.options}
    varied = [key for key in VARIANTS if key in node.options]
    return [
        node._replace(options={**node.options, **exact, **dict(zip(varied, values, strict=True))})
        for values in itertools.product(*(VARIANTS[key] for key in varied))
    ]


def tried(name: str, case_name: str) -> Iterator[tuple[Node, LowerDynamics]]:
    """What an estimator is certified with on a case; some of it will be refused."""
    dynamics, nodes = lower_dynamics(), variants(name)
    for node in nodes if case_name in VARIED else nodes[-1:]:
        for chosen in TWO_DYNAMICS:
            yield node, dynamics[chosen]
    if case_name == EVERY_DYNAMICS:
        for chosen, made in dynamics.items():
            if chosen not in TWO_DYNAMICS:
                yield nodes[-1], made


def estimate(estimator: Hypergradient, point: Point, key: Array) -> HypergradientOutput:
    """The estimate at a point, compiled."""
    context, task, params, y0 = point
    return jax.jit(estimator.estimate)(estimator.init(y0), context, task, params, y0, key)


def error_against_target(node: Node, case: Case, dynamics: LowerDynamics, place: Point) -> float:
    """Relative distance of the estimate from finite differences of its target.

    Or that of its F from F(x, y_K), if it is larger. The start counts where the problem learns it:
    nothing else reads that gradient.
    """
    estimator = make(node, case, dynamics, NUM_LOWER_STEPS)
    target = module_of(node).TARGET(case.problem, dynamics, NUM_LOWER_STEPS, **node.options)

    def error(point: Point, key: Array) -> Array:
        context, task, params, y0 = point
        output = estimator.estimate(estimator.init(y0), context, task, params, y0, key)
        phi = target(context, task, params, y0, key)
        start = (y0,) if case.problem.learned_start else ()
        gradient = (output.context_gradient, output.params_gradient, output.start_gradient)
        distance = directional_error(
            lambda moved: phi(*moved, *(() if start else (y0,))),
            (context, params, *start),
            gradient[: 2 + len(start)],
        )
        state = dynamics.init(params, y0)
        y = run_steps(case.problem, dynamics, params, context, task, state, 1, NUM_LOWER_STEPS).y
        reached = case.problem.upper_objective(context, task, y, None)[0]
        return jnp.maximum(distance, jnp.abs(output.upper_loss - reached))

    point = with_params(place, dynamics, NUM_LOWER_STEPS)
    return float(jax.jit(error)(point, jax.random.key(0)))


def admitted(name: str, case_name: str) -> list[tuple[Node, LowerDynamics]]:
    """What of `tried` is not refused; nothing where the estimator has no TARGET."""
    if module_of(default_node(name)).TARGET is None:
        return []
    case, kept = CASES[case_name](), []
    for node, dynamics in tried(name, case_name):
        with suppress(UserError):  # refusals are tested elsewhere
            make(node, case, dynamics, NUM_LOWER_STEPS)
            kept.append((node, dynamics))
    return kept


def errors_against_target(name: str, case_name: str) -> list[float]:
    """`error_against_target` of all that is admitted on a case."""
    case = CASES[case_name]()
    place = place_of(case)
    return [
        error_against_target(node, case, dynamics, place)
        for node, dynamics in admitted(name, case_name)
    ]


def ridge_case(num_rows: int = 60, num_features: int = 20) -> Case:
    """Ridge regression on which bias, time and memory are measured."""
    data = synthetic_regression(
        num_rows=(num_rows, num_rows, 10),
        num_features=num_features,
        num_relevant=num_features // 4,
        data_seed=0,
    )
    return Case(*ridge(data), tasks=1)


def bias(node: Node, num_lower_steps: int) -> float:
    """|g - g*| / |g*| on ridge regression with the options of the node; g* in closed form."""
    case = ridge_case()
    return bias_at(node, (case, point_of(case, sgd_of(0.3), num_lower_steps)), num_lower_steps)


def bias_at(node: Node, where: tuple[Case, Point], num_lower_steps: int) -> float:
    """|g - g*| / |g*| at a point of a problem that knows g*."""
    case, point = where
    estimator = unchecked(node, case, sgd_of(0.3), num_lower_steps)
    output = estimate(estimator, point, jax.random.key(0))
    exact = case.problem.exact.hypergradient
    assert exact is not None
    truth = exact(point.context, point.task)
    return float(jnp.linalg.norm(output.context_gradient - truth) / jnp.linalg.norm(truth))


def sgd_of(step_size: float) -> LowerDynamics:
    """Plain gradient steps on f."""
    from src.bilevel.aggregation import lower_only
    from src.bilevel.dynamics import compose
    from src.bilevel.lower_optimizers import sgd

    return compose(lower_only(), sgd(step_size=step_size))


def costs(nodes: Mapping[str, Node], num_lower_steps: int, repeats: int = 7) -> dict[str, Timing]:
    """Time and memory of one estimate on ridge regression (300 features), float32.

    "lower solve" is the K steps alone. Rounds are interleaved, so that noise meets all alike.
    """
    with jax.enable_x64(False):
        case, dynamics = ridge_case(400, 300), sgd_of(0.3)
        point = point_of(case, dynamics, num_lower_steps)
        key = jax.random.key(0)

        def lower_solve(carry, context, task, params, y0, key):
            state = dynamics.init(params, y0)
            return run_steps(
                case.problem, dynamics, params, context, task, state, 1, num_lower_steps
            ).y

        programs, arguments = {}, {}
        for name, node in nodes.items():
            estimator = unchecked(node, case, dynamics, num_lower_steps)
            programs[name] = estimator.estimate
            arguments[name] = (estimator.init(point.y0), *point, key)
        programs["lower solve"] = lower_solve
        arguments["lower solve"] = ((), *point, key)
        compiled = {
            name: jax.jit(program).lower(*arguments[name]).compile()
            for name, program in programs.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in compiled}
        for _ in range(repeats + 1):
            for name, program in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(program(*arguments[name]))
                seconds[name].append(time.perf_counter() - began)
        return {
            name: Timing(statistics.median(seconds[name][1:]), temporary_bytes(program))
            for name, program in compiled.items()
        }


def temporary_bytes(compiled: Any) -> int:
    """What the compiled program allocates beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def unrolled_bytes(checkpoints: str, num_lower_steps: int, size: int) -> int:
    """Temporary memory of an unrolled estimate on a lower variable of `size` float32 numbers."""
    from src.bilevel.hypergradients.unrolled import unrolled
    from src.problems.from_objectives import persistent_source, problem_from_objectives

    with jax.enable_x64(False):
        problem = problem_from_objectives(
            # tanh: a step whose derivative needs the iterate.
            lambda x, y, task: jnp.sum(jnp.log(jnp.cosh(y - x * task["target"]))),
            lambda x, y, task: 0.5 * jnp.mean((y - task["target"]) ** 2),
            init_upper=lambda key: jnp.asarray(0.5),
            init_lower=lambda key: jnp.zeros(size),
        )
        target = np.linspace(-1, 1, size, dtype=np.float32)
        case = Case(problem, persistent_source({"target": target}), tasks=1)
        dynamics = sgd_of(0.1)
        estimator = unrolled(problem, dynamics, num_lower_steps, checkpoints=checkpoints)  # pyright: ignore
        point = point_of(case, dynamics, num_lower_steps)
        program = jax.jit(estimator.estimate).lower((), *point, jax.random.key(0))
        return temporary_bytes(program.compile())


def flat(tree: Any) -> Array:
    """All numbers of a tree as one vector."""
    return ravel_pytree(tree)[0]
