"""What `python -m src.certify` measures of each estimator: error, bias, time and memory.

Every file of conf/hypergradient is measured, with the option values that its estimator declares.
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.estimator import Hypergradient, HypergradientOutput
from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.lower_level import LowerDynamics, LowerProblem
from bilevel.lower_optimizers import sgd
from bilevel.shapes import shapes_of
from bilevel.types import Array
from src.certification.cases import CASES, Case, Place, Where, lower_dynamics, place_of, where
from src.certification.finite_differences import directional_error
from src.data.synthetic_regression import synthetic_regression
from src.problems.ridge import ridge
from src.settings.build import make_hypergradient
from src.settings.config import Node, call
from src.settings.errors import UserError
from src.settings.groups import node_of

NUM_LOWER_STEPS = 4
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


def make(node: Node, case: Case, dynamics: LowerDynamics, num_lower_steps: int) -> Hypergradient:
    """The estimator for a case, made as for a run. Raises UserError where it refuses."""
    problem, source = case.problem, case.source
    lower = LowerProblem(problem, dynamics, num_lower_steps, source.persistent)
    return make_hypergradient(node, lower, shapes_of(problem, source, "train"))


def unchecked(node: Node) -> Hypergradient:
    """As `make`, for measuring what a run would refuse: first_order where F does not contain x."""
    return call(node)


def default_node(name: str) -> Node:
    """The estimator with the options that its file has for ridge regression."""
    return node_of("hypergradient", f"hypergradient={name}")


def with_options(node: Node, options: Mapping[str, Any]) -> Node:
    """The node with these options; "solver.rank" is the option `rank` of its option `solver`."""
    changed = dict(node.options)
    for name, value in options.items():
        piece, _, inner = name.partition(".")
        changed[piece] = with_options(changed[piece], {inner: value}) if inner else value
    return node._replace(options=changed)


def variants(name: str) -> list[Node]:
    """The estimator at every combination of the options with which it is certified."""
    node = default_node(name)
    certified = unchecked(node).certified_with
    return [
        with_options(node, dict(zip(certified, values, strict=True)))
        for values in itertools.product(*certified.values())
    ]


def exact_node(name: str) -> Node | None:
    """The estimator with options that make it tend to the truth as K grows; None if none do."""
    node = default_node(name)
    options = unchecked(node).exact_with
    return None if options is None else with_options(node, options)


def tried(name: str, case_name: str) -> Iterator[tuple[Node, LowerDynamics]]:
    """What an estimator is certified with on a case; some of it will be refused."""
    dynamics, nodes = lower_dynamics(), variants(name)
    for node in nodes if case_name in VARIED else nodes[-1:]:
        for chosen in TWO_DYNAMICS:
            yield node, dynamics[chosen]
    if case_name == EVERY_DYNAMICS:
        for chosen, each in dynamics.items():
            if chosen not in TWO_DYNAMICS:
                yield nodes[-1], each


def estimate(estimator: Hypergradient, at: Where, key: Array) -> HypergradientOutput:
    """The estimate at a point, compiled."""
    return jax.jit(partial(_estimate, estimator, at.lower._replace(task=())))(
        at.lower.task, at.point, key
    )


def _estimate(
    estimator: Hypergradient, lower: LowerProblem, task: Any, point: Any, key: Array
) -> HypergradientOutput:
    """From a first carry."""
    lower = lower._replace(task=task)
    return estimator.estimate(lower, point, estimator.init(lower, point.y0), key)


def error_against_target(node: Node, case: Case, dynamics: LowerDynamics, place: Place) -> float:
    """Relative distance of the estimate from finite differences of its target.

    Or that of its F from F(x, y_K), if it is larger. The start counts where the problem learns it:
    nothing else reads that gradient.
    """
    estimator = make(node, case, dynamics, NUM_LOWER_STEPS)
    target, learned_start = estimator.target, case.problem.learned_start
    assert target is not None
    lower, point = where(case, dynamics, NUM_LOWER_STEPS, place)

    def error(task: Any, point: Any, key: Array) -> Array:
        of_task = lower._replace(task=task)
        output = _estimate(estimator, lower, task, point, key)
        phi = target.at(of_task, point, key)

        def kept(gradient: Any) -> Any:
            return gradient if learned_start else gradient._replace(y0=())

        distance = directional_error(
            lambda moved: phi(moved if learned_start else moved._replace(y0=point.y0)),
            kept(point),
            kept(output.gradient),
        )
        reached = of_task.at(point).upper(of_task.solve(point))[0]
        return jnp.maximum(distance, jnp.abs(output.value - reached))

    return float(jax.jit(error)(lower.task, point, jax.random.key(0)))


def admitted(name: str, case_name: str) -> list[tuple[Node, LowerDynamics]]:
    """What of `tried` is not refused; nothing where the estimator has no target."""
    if unchecked(default_node(name)).target is None:
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
    return bias_at(node, where(ridge_case(), sgd_of(0.3), num_lower_steps))


def bias_at(node: Node, at: Where) -> float:
    """|g - g*| / |g*| at a point of a problem that knows g*."""
    output = estimate(unchecked(node), at, jax.random.key(0))
    exact = at.lower.problem.exact.hypergradient
    assert exact is not None
    truth = exact(at.point.context, at.lower.task)
    error = jnp.linalg.norm(output.gradient.context - truth)
    return float(error / jnp.linalg.norm(truth))


def sgd_of(step_size: float) -> LowerDynamics:
    """Plain gradient steps on f."""
    return compose(lower_only(), sgd(step_size=step_size))


def costs(nodes: Mapping[str, Node], num_lower_steps: int, repeats: int = 7) -> dict[str, Timing]:
    """Time and memory of one estimate on ridge regression (300 features), float32.

    "lower solve" is the K steps alone. Rounds are interleaved, so that noise meets all alike.
    """
    with jax.enable_x64(False):
        lower, point = where(ridge_case(400, 300), sgd_of(0.3), num_lower_steps)

        def lower_solve(lower: LowerProblem, task: Any, point: Any, key: Array) -> Any:
            return lower._replace(task=task).solve(point)

        programs: dict[str, Any] = {
            name: partial(_estimate, unchecked(node)) for name, node in nodes.items()
        }
        programs["lower solve"] = lower_solve
        arguments = (lower.task, point, jax.random.key(0))
        compiled = {
            name: jax.jit(partial(program, lower._replace(task=()))).lower(*arguments).compile()
            for name, program in programs.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in compiled}
        for _ in range(repeats + 1):
            for name, program in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                seconds[name].append(time.perf_counter() - began)
        return {
            name: Timing(statistics.median(seconds[name][1:]), temporary_bytes(program))
            for name, program in compiled.items()
        }


def temporary_bytes(compiled: Any) -> int:
    """What the compiled program allocates beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def unrolled_bytes(estimator: Hypergradient, num_lower_steps: int, size: int) -> int:
    """Temporary memory of an estimate on a lower variable of `size` float32 numbers."""
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
        lower, point = where(case, sgd_of(0.1), num_lower_steps)
        program = jax.jit(partial(_estimate, estimator, lower._replace(task=())))
        return temporary_bytes(program.lower(lower.task, point, jax.random.key(0)).compile())


def flat(tree: Any) -> Array:
    """All numbers of a tree as one vector."""
    return ravel_pytree(tree)[0]
