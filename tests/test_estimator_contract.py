"""What every estimator of conf/hypergradient must satisfy: what its record declares is true.

A new yaml enters by existing. Its gradient is certified in tests/test_hypergradients.py.
"""

import inspect
import pkgutil
import sys
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import hypergradients
from bilevel.aggregation import descent
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.constraints import with_constraints
from bilevel.dynamics import compose
from bilevel.estimator import Part
from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.hypergradients import truncated, unrolled
from bilevel.lower_level import LowerProblem
from bilevel.lower_optimizers import sgd
from bilevel.refusals import Reads, reads_of_x
from bilevel.shapes import shapes_of
from bilevel.step_types import Reason
from bilevel.upper_optimizers import sgd as upper_sgd
from src.certification.cases import CASES, Case, where
from src.certification.certify import (
    default_node,
    estimate,
    exact_node,
    flat,
    make,
    sgd_of,
    unchecked,
    variants,
)
from src.settings.errors import UserError
from src.settings.groups import names_of

K = 4
KEY = jax.random.key(0)
NODES = {name: default_node(name) for name in names_of("hypergradient")}
RECORDS = {name: unchecked(node) for name, node in NODES.items()}
OF_X = [name for name in NODES if RECORDS[name].differentiates & {"context", "direct"}]
# `pessimistic` reaches the steps up to the worst, which depends on the point (test_following.py).
OF_STEPS = [
    name
    for name in NODES
    if {"aggregation", "lower_optimizer"} <= RECORDS[name].differentiates and name != "pessimistic"
]


def module_of(node):
    return sys.modules[node.factory.__module__]


def shapes_in(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


# ---- what is declared exists ----


def test_every_file_has_a_yaml():
    files = {module.name for module in pkgutil.iter_modules(hypergradients.__path__)}
    named = {module_of(node).__name__.rpartition(".")[2] for node in NODES.values()}
    assert files <= named


@pytest.mark.parametrize("name", NODES)
def test_the_file_says_what_an_estimate_costs_and_when_it_is_valid(name):
    module = module_of(NODES[name])
    for word in ("Time:", "Memory:", "valid"):
        said = (module.__doc__ or "").lower()
        assert word.lower() in said, f"{module.__name__} does not say its {word}"


@pytest.mark.parametrize("name", NODES)
def test_the_record_names_what_exists(name):
    node, record = NODES[name], RECORDS[name]
    assert record.name in NODES, "what messages tell people to type"
    assert record.formula
    assert record.target is None or record.target.formula
    assert record.differentiates <= set(get_args(Part))
    assert record.differentiates, "an estimator that gives no gradient of anything"

    def has(option):
        piece, _, inner = option.partition(".")
        return piece in node.options and (not inner or inner in node.options[piece].options)

    work = {record.work} if record.work else set()
    assert all(map(has, {*record.certified_with, *(record.exact_with or {}), *work}))
    assert all(record.certified_with.values()), "an option without a value is never certified"
    exact = exact_node(name)
    assert (exact is None) == (record.exact_with is None)
    assert exact is None or unchecked(exact).target is not None


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("name", NODES)
def test_an_output_has_the_form_of_the_point_and_a_carry_keeps_its_form(name, persistent):
    record, (lower, point) = RECORDS[name], where(CASES["quadratic"](), sgd_of(0.1), K)
    lower = lower._replace(persistent=persistent)

    def one(point, key):
        carry = record.init(lower, point.y0)
        return carry, record.estimate(lower, point, carry, key)

    carry, output = jax.eval_shape(one, point, KEY)
    assert shapes_in(output.gradient) == shapes_in(point)
    assert shapes_in(output.y) == shapes_in(point.y0)
    assert shapes_in(output.carry) == shapes_in(carry)
    reported = [output.value, *output.metrics.values(), *output.diagnostics.values()]
    assert {leaf.shape for leaf in reported} == {()}
    assert set(record.limits) <= set(output.diagnostics), "a limit of what is never reported"


# ---- what is declared is true ----


@pytest.mark.parametrize("name", NODES)
def test_what_it_differentiates_gets_a_gradient_and_nothing_else_does(name):
    """On a problem where f alone reads x['inner'], F alone x['b'], and everything is learned."""
    learned = descent(law="constant", alpha=0.4, s=0.8, t=1.1, learn=("alpha", "s", "t"))
    dynamics = compose(learned, sgd(step_size=0.1, learn="per_weight"))
    estimator = unchecked(variants(name)[-1])
    gradient = estimate(estimator, where(CASES["learned_start"](), dynamics, K), KEY).gradient
    sees = RECORDS[name].differentiates
    of_part = {
        "context": gradient.context["inner"],
        "direct": gradient.context["b"],
        **gradient.dynamics_params,
        "start": gradient.y0,
    }
    assert set(of_part) == set(get_args(Part))
    for part, tree in of_part.items():
        # Whoever looks through the context sees what F reads of it as well.
        declared = part in sees or (part == "direct" and "context" in sees)
        for leaf in jax.tree.leaves(tree):
            assert bool(jnp.any(leaf)) == declared, part


@pytest.mark.parametrize("name", OF_STEPS)
def test_the_dropped_steps_and_no_others_get_no_gradient(name):
    every_step = descent(law="per_step", alpha=0.4, learn=("alpha",))
    dynamics = compose(every_step, sgd(step_size=0.1, learn="per_step"))
    at = where(CASES["learned_start"](), dynamics, K)
    for node in variants(name):
        estimator = unchecked(node)
        gradient, dropped = estimate(estimator, at, KEY).gradient, estimator.dropped_steps(K)
        assert 0 <= dropped <= K
        alpha = gradient.dynamics_params["aggregation"]["alpha"]
        step_size = gradient.dynamics_params["lower_optimizer"]["step_size"]
        for of_steps in (alpha, step_size):
            assert of_steps.shape == (K,)
            assert not np.any(of_steps[:dropped])
            assert np.abs(of_steps[dropped:]).min(initial=1.0) > 1e-6
        if dropped == K:
            assert not np.any(flat(gradient.context["inner"])), "f alone reads it"


def without_derivative(optimizer):
    """The same steps, of which no derivative can be taken."""

    @jax.custom_jvp
    def barred(y):
        return y

    @barred.defjvp
    def _(primals, tangents):
        raise NotImplementedError("the derivative of a lower step")

    def update(*arguments):
        y, opt_state = optimizer.update(*arguments)
        return barred(y), opt_state

    return optimizer._replace(update=update)


@pytest.mark.parametrize("name", NODES)
def test_whether_it_differentiates_through_steps(name):
    record, plain = RECORDS[name], sgd(step_size=0.1)
    law, case = descent(law="constant", alpha=0.4), CASES["learned_start"]()
    at = where(case, compose(law, without_derivative(plain)), K)
    if record.through_steps:
        with pytest.raises(NotImplementedError, match="of a lower step"):
            estimate(record, at, KEY)
        return
    expected = estimate(record, where(case, compose(law, plain), K), KEY)
    np.testing.assert_array_equal(flat(estimate(record, at, KEY).gradient), flat(expected.gradient))


@pytest.mark.parametrize("name", OF_X)
def test_the_lower_steps_are_refused_by_what_is_declared(name):
    record, case, plain = RECORDS[name], CASES["quadratic"](), sgd_of(0.1)
    far = with_constraints(case.problem, lambda x, task, y: y["a"] - 100, None, 1.0)
    case = case._replace(problem=far)  # one estimator is for constrained problems alone
    make(NODES[name], case, plain, K)
    reason = Reason("the steps wander", "lower_optimizer=sgd")
    for field, declared in (
        ("never_rests", record.needs_stationarity),
        ("no_derivative", record.through_steps or record.own_directions),
        ("reads_objective", record.direction_alone or record.own_directions),
    ):
        dynamics = plain._replace(**{field: reason})
        if declared:
            with pytest.raises(UserError, match="the steps wander; choose lower_optimizer=sgd"):
                make(NODES[name], case, dynamics, K)
        else:
            make(NODES[name], case, dynamics, K)
    if record.needs_stationarity:  # as the refusals say of what is learned
        assert not record.differentiates & {"lower_optimizer", "start"}


# ---- K is given once ----


@pytest.mark.parametrize("name", NODES)
def test_an_estimator_is_told_the_number_of_steps_by_the_lower_problem_alone(name):
    kinds = {p.kind for p in inspect.signature(NODES[name].factory).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, "a factory takes options, and no K"
    case, record, seen = CASES["quadratic"](), RECORDS[name], []

    def estimate(lower, *arguments):
        seen.append(lower.num_steps)
        return record.estimate(lower, *arguments)

    for steps in (1, K):
        algorithm = of_steps(case, record._replace(estimate=estimate), steps)
        state = jax.eval_shape(algorithm.init, KEY)
        jax.eval_shape(algorithm.step, state, KEY, tasks_of(case))
    assert seen == [1, K]


def of_steps(case, estimator, num_lower_steps):
    return hypergradient_descent(
        case.problem,
        sgd_of(0.1),
        estimator,
        upper_sgd(step_size=0.1),
        num_lower_steps=num_lower_steps,
        persistent=True,
    )


def tasks_of(case):
    return case.source.sample(case.source.data, KEY, "train", 1)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_one_estimator_serves_algorithms_of_any_number_of_steps(num_steps):
    case, estimator = CASES["quadratic"](), unrolled()
    algorithm, tasks = of_steps(case, estimator, num_steps), tasks_of(case)
    state = algorithm.init(KEY)
    after, metrics = jax.jit(algorithm.step)(state, KEY, tasks)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)

    def phi(x):
        y = case.problem.init_lower(state.start, x)
        for _ in range(num_steps):
            slope = jax.grad(case.problem.lower_objective, argnums=2)(x, task, y)
            y = jax.tree.map(lambda leaf, d: leaf - 0.1 * d, y, slope)
        return case.problem.upper_objective(x, task, y)[0]

    x = state.variables["problem"]
    value, gradient = jax.value_and_grad(phi)(x)
    assert float(metrics["upper_loss"]) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(after.variables["problem"], x - 0.1 * gradient, rtol=1e-12)


def test_more_kept_steps_than_there_are_end_where_the_lower_problem_is_known():
    case = CASES["quadratic"]()
    algorithm = of_steps(case, truncated(keep_last=40), 3)
    with pytest.raises(ValueError, match=r"^keep_last=40 is outside 0\.\.3"):
        algorithm.step(algorithm.init(KEY), KEY, tasks_of(case))


# ---- x that nothing reads ----


def reading(lower_reads, upper_reads):
    """A problem with x['deep'][0] and x['deep'][1], and which of them f and F read."""

    def sums(x, indices):
        return sum(jnp.sum(x["deep"][i]) for i in indices)

    problem = problem_from_objectives(
        lower=lambda x, y, task: 0.5 * jnp.sum((y - sums(x, lower_reads)) ** 2),
        upper=lambda x, y, task: jnp.sum(y**2) + sums(x, upper_reads),
        init_upper=lambda key: {"deep": [jnp.ones(2), jnp.ones(())]},
        init_lower=lambda key: jnp.zeros(2),
    )
    return Case(problem, persistent_source({}), tasks=1)


def reads_in(case):
    lower = LowerProblem(case.problem, sgd_of(0.1), K, persistent=True)
    return reads_of_x(lower, shapes_of(case.problem, case.source, "train"))


def test_what_reads_each_leaf_of_x():
    assert reads_in(reading([0], [1])) == [
        Reads("x['deep'][0]", upper=False, lower=True, start=False),
        Reads("x['deep'][1]", upper=True, lower=False, start=False),
    ]
    started = reading([], [0])
    init = started.problem._replace(
        init_lower=lambda key, x: jnp.full(2, x["deep"][1]), learned_start=True
    )
    assert reads_in(started._replace(problem=init)) == [
        Reads("x['deep'][0]", upper=True, lower=False, start=False),
        Reads("x['deep'][1]", upper=False, lower=False, start=True),
    ]
    with pytest.raises(ValueError, match=r"init_lower reads x.*learned_start=True"):
        reads_in(started._replace(problem=init._replace(learned_start=False)))


@pytest.mark.parametrize("leaf", [0, 1])
def test_x_that_nothing_reads_is_refused_with_the_leaf_named(leaf):
    case = reading([1 - leaf], [1 - leaf])
    message = rf"x\['deep'\]\[{leaf}\] would never be learned: neither F nor f nor the start"
    with pytest.raises(ValueError, match=f"^{message}"):
        reads_in(case)
    far = with_constraints(case.problem, lambda x, task, y: y - 100, None, 1.0)
    case = case._replace(problem=far)  # some estimators are for constrained problems alone
    for node in NODES.values():
        with pytest.raises(UserError, match=message):
            make(node, case, sgd_of(0.1), K)
