"""Steps that the measured curvature keeps short: against eigenvalues that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import descent, lower_only
from bilevel.bounded_sgd import bounded_sgd
from bilevel.dynamics import compose
from bilevel.hypergradients import implicit
from bilevel.linear_solvers import cg
from bilevel.lower_optimizers import sgd
from src.certification.cases import CASES, place_of, where
from src.certification.certify import (
    default_node,
    error_against_target,
    estimate,
    flat,
    make,
    unchecked,
)
from src.settings.errors import UserError
from src.settings.groups import names_of

EIGENVALUES = np.array([30.0, 10.0, 1.0])


def quadratic(y):
    return 0.5 * jnp.sum(EIGENVALUES * y["w"] ** 2)


def run(optimizer, objective, steps):
    y = {"w": jnp.ones(3)}
    params = optimizer.init_params(steps, y)

    def step(y_and_state, k):
        y, state = y_and_state
        return optimizer.update(params, jax.grad(objective)(y), state, y, k, objective), None

    first = (y, optimizer.init(params, y, objective))
    return jax.lax.scan(step, first, jnp.arange(1, steps + 1))[0][0]["w"]


@pytest.mark.parametrize(
    ("step_size", "bound", "taken"), [(0.5, 1.0, 1 / 30), (0.5, 1.5, 0.05), (0.01, 1.0, 0.01)]
)
def test_a_step_is_the_shorter_of_the_two(step_size, bound, taken):
    found = run(bounded_sgd(step_size=step_size, bound=bound, power_steps=60), quadratic, 1)
    np.testing.assert_allclose(found, 1 - taken * EIGENVALUES, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learn", ["none", "scalar", "per_step", "per_weight"])
def test_where_the_bound_is_out_of_reach_it_is_sgd(learn):
    found = run(bounded_sgd(step_size=0.02, bound=1.5, learn=learn), quadratic, 4)
    plain = run(sgd(step_size=0.02, learn=learn), quadratic, 4)
    np.testing.assert_array_equal(found, plain)


def test_it_stays_where_steps_of_sgd_run_away():
    assert np.abs(run(sgd(step_size=0.1), quadratic, 40)).max() > 1e6
    found = run(bounded_sgd(step_size=0.1, power_steps=2), quadratic, 40)
    np.testing.assert_allclose(found, [0, 0, 0.26], atol=0.02)  # (1 - 1 / 30)^40 of the flattest


def test_the_vector_goes_on_from_step_to_step():
    """One product at each step finds the eigenvalue, too, a few steps later."""
    once = bounded_sgd(step_size=1.0, power_steps=1)

    def last_step(steps):
        one, other = (run(once, quadratic, k)[2] for k in (steps - 1, steps))
        return 1 - other / one  # the eigenvalue of the last axis is 1

    assert last_step(1) > 1.05 / 30
    np.testing.assert_allclose(last_step(40), 1 / 30, rtol=1e-9)


def test_nothing_curved_is_no_bound_and_has_a_derivative():
    optimizer = bounded_sgd(step_size=0.1)

    def end(slope):
        return run(optimizer, lambda y: slope * jnp.sum(y["w"]), 3).sum()

    value, derivative = jax.value_and_grad(end)(2.0)
    np.testing.assert_allclose((value, derivative), (3 - 3 * 3 * 0.1 * 2, -3 * 3 * 0.1))


@pytest.mark.parametrize("learn", ["per_step", "per_weight"])
def test_each_of_several_learned_steps_is_bounded(learn):
    optimizer = bounded_sgd(step_size=0.5, power_steps=60, learn=learn)
    found = run(optimizer, quadratic, 2)
    np.testing.assert_allclose(found, (1 - EIGENVALUES / 30) ** 2, rtol=1e-12, atol=1e-12)


def test_it_is_the_size_of_the_curvature_that_counts():
    """Where f is curved downwards as well: along a saddle."""
    found = run(
        bounded_sgd(step_size=9.0, power_steps=60),
        lambda y: 0.5 * jnp.sum(jnp.array([2.0, 1.0, -8.0]) * y["w"] ** 2),
        1,
    )
    np.testing.assert_allclose(found, 1 - np.array([2.0, 1.0, -8.0]) / 8, rtol=1e-12)


BOUND = {"step_size": 0.3, "learn": "scalar"}
NAMES = [
    name
    for name in names_of("hypergradient")
    if unchecked(default_node(name)).target and name != "implicit_kkt"  # for constraints alone
]


def reached(case, place, aggregation):
    """Steps whose bound is reached, and by how much that moves y."""
    bounded, free = (
        compose(aggregation, bounded_sgd(**BOUND, bound=bound)) for bound in (0.1, 1e6)
    )
    ends = [
        flat(at.lower.solve(at.point))
        for at in (where(case, dynamics, 3, place) for dynamics in (bounded, free))
    ]
    return bounded, np.abs(np.subtract(*ends)).max()


@pytest.mark.parametrize("name", NAMES)
def test_an_estimator_is_right_with_it_or_refuses_it(name):
    case = CASES["ridge"]()
    place = place_of(case)
    bounded, moved = reached(case, place, lower_only())
    assert moved > 1e-3
    record = unchecked(default_node(name))
    if record.direction_alone or record.own_directions:
        with pytest.raises(UserError, match=r"depend on the curvature.*lower_optimizer=sgd"):
            make(default_node(name), case, bounded, 3)
        return
    if "lower_optimizer" not in record.differentiates:
        bounded = compose(lower_only(), bounded_sgd(step_size=0.3, bound=0.1))
    assert error_against_target(default_node(name), case, bounded, place) < 1e-8


@pytest.mark.parametrize(
    ("case_name", "aggregation"),
    [("few_shot", lower_only()), ("ridge", descent(law="constant", alpha=0.4, learn=("alpha",)))],
    ids=["few_shot", "bda"],
)
def test_the_gradient_is_differentiated_through_the_measurement(case_name, aggregation):
    case = CASES[case_name]()
    place = place_of(case)
    bounded, moved = reached(case, place, aggregation)
    assert moved > 1e-3
    assert error_against_target(default_node("unrolled"), case, bounded, place) < 1e-8


def test_it_rests_at_the_solution():
    case = CASES["ridge"]()
    at = where(case, compose(lower_only(), bounded_sgd(step_size=10.0)), 2000)
    x, task, exact = at.point.context, at.lower.task, case.problem.exact
    found = estimate(implicit(solver=cg(tolerance=1e-12)), at, jax.random.key(0))
    np.testing.assert_allclose(
        found.gradient.context, exact.hypergradient(x, task), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bound": 0.0}, "^bound=0.0 must be positive"),
        ({"bound": float("nan")}, "^bound=nan must be positive"),
        ({"power_steps": 0}, "^power_steps=0 leaves the curvature unmeasured.*lower_optimizer=sgd"),
        ({"step_size": -1.0}, "^step_size=-1.0 must be positive"),
    ],
)
def test_bounds_that_bound_nothing_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        bounded_sgd(**{"step_size": 0.1, **options})
