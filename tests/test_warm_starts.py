"""What goes on from iteration to iteration: where it starts, what it is scored at, its rows."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import hypergradients, lower_optimizers, methods, upper_optimizers
from bilevel.bounded_sgd import bounded_sgd
from bilevel.estimate import suited_lower_problem
from bilevel.variance_reduction import storm
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

SECOND_VARIABLES = {"f2sa": methods.f2sa, "bvfsm": methods.bvfsm, "meha": methods.meha}
SINGLE_LOOPS = {
    "soba": methods.soba(step_size=0.1, step_power=0.5),
    "saba": methods.saba(step_size=0.1),
    "srba": methods.srba(step_size=0.1),
    "mrbo": methods.mrbo(step_size=0.1, step_power=0.5),
}
# Without a past, so that it moves y along the direction of its rows.
PLAIN_MRBO = hypergradients.recursive_momentum(reduction=storm(power=0.0))
MEASURED = {
    "single_loop": hypergradients.single_loop(),
    "recursive_momentum": PLAIN_MRBO,
    "stochastic_implicit": hypergradients.stochastic_implicit(),
}


def line(lower_start: Any = 0.0, **options):
    return bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - x) ** 2),
        lambda x, y: 0.5 * jnp.sum((y - 2) ** 2),
        upper_start=jnp.zeros(2),
        lower_start=lower_start if callable(lower_start) else jnp.full(2, lower_start),
        **options,
    )


def steps_of(problem, method, number, optimizer=None):
    """The states before and after each of the iterations."""
    solver = bilevel.minimizer(problem, method, optimizer or optax.sgd(0.05))
    step, states = jax.jit(solver.step), [solver.init(jax.random.key(3))]
    for n in range(number):
        states.append(step(states[-1], jax.random.key(n))[0])
    return states


@pytest.mark.parametrize("name", SECOND_VARIABLES)
def test_a_second_lower_variable_starts_where_y_does(name):
    """Also where the start is drawn: from two points they would not end at one solution."""
    drawn = line(lambda key: jax.random.normal(key, (2,)))
    first = steps_of(drawn, SECOND_VARIABLES[name](), 0)[0]
    assert np.abs(first.start).min() > 0
    np.testing.assert_array_equal(first.carry.other, first.start)


def test_a_mean_is_scored_at_the_mean_of_y():
    """One lower step from the last y would leave F near F(x, y) of the last x."""
    averaging = upper_optimizers.sgd(step_size=0.05, average=0.999)
    solver = bilevel.minimizer(line(), methods.soba(step_size=0.1), averaging)
    states = steps_of(line(), methods.soba(step_size=0.1), 50, averaging)
    ys = np.mean([state.start.last[0] for state in states[1:]], axis=0)
    xs = np.mean([state.variables["problem"] for state in states[:-1]], axis=0)
    np.testing.assert_allclose(solver.x(states[-1]), xs, rtol=1e-12)
    y = solver.y(states[-1], jax.random.key(0))
    np.testing.assert_allclose(y, ys - 0.1 * (ys - xs), rtol=1e-12)
    last = states[-1].start.last[0]
    assert np.abs(last - ys).min() > 0.1
    plain = steps_of(line(), methods.soba(step_size=0.1), 3)[-1]
    assert plain.start.shape == (1, 2), "no memory without a mean"


def test_a_mean_has_nothing_to_do_with_a_fixed_start():
    averaging = upper_optimizers.sgd(step_size=0.05, average=0.9)
    state = steps_of(line(), methods.rhg(num_lower_steps=3), 2, averaging)[-1]
    assert jnp.issubdtype(state.start.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("name", MEASURED)
def test_a_measured_step_measures_the_rows_of_its_direction(name):
    """With a row of curvature c a step of 1 / c leads to x itself; of another row it does not."""
    curvatures = jnp.array([0.5, 1.0, 2.0, 4.0, 8.0])
    of_rows = bilevel.problem(
        lambda x, y, rows: 0.5 * jnp.mean(rows["c"]) * jnp.sum((y - x) ** 2),
        lambda x, y, rows: 0.5 * jnp.mean(rows["c"]) * jnp.sum((y - 2) ** 2),
        upper_start=jnp.zeros(1),
        lower_start=jnp.full(1, -1.0),
        train={"c": curvatures},
        validation={"c": curvatures},
        batch_size=1,
    )
    step = bounded_sgd(step_size=100.0, power_steps=1)
    choices = {"lower_optimizer": step, "num_lower_steps": 1, "lower_start": "warm"}
    states = steps_of(of_rows, bilevel.method(name, MEASURED[name], **choices), 6)
    for before, after in itertools.pairwise(states):
        np.testing.assert_allclose(after.start[0], before.variables["problem"], atol=1e-12)


@pytest.mark.parametrize(
    "method", [methods.pbgd_gradient(step_size=0.1), methods.bome(step_size=0.1)]
)
def test_what_a_bound_holds_in_balance_is_no_slope(method):
    """y1 = 0 is a solution where grad_y1 f = 2 - x, which no x < 2 takes away: x* = 1/2."""
    bounded = bilevel.problem(
        lambda x, y: 0.5 * (y[0] - x + 2) ** 2 + 0.5 * (y[1] - x) ** 2,
        lambda x, y: 0.5 * (y[1] - 0.5) ** 2 + 0.01 * y[0] ** 2,
        upper_start=0.1,
        lower_start=jnp.full(2, 0.5),
        project_lower=lambda y: jnp.maximum(y, 0),
    )
    found = bilevel.minimize(bounded, method, optimizer=optax.adam(0.01), num_iterations=1500)
    np.testing.assert_allclose(found.x, 0.5, atol=1e-3)
    np.testing.assert_allclose(found.y, [0.0, 0.5], atol=1e-3)


def test_the_weight_of_bome_grows_where_a_bound_is_active():
    """F keeps y2 off the lower solution x; grad f of y1, in balance, must not count against it."""
    bounded = bilevel.problem(
        lambda x, y: 0.5 * (y[0] - x + 2) ** 2 + 0.5 * (y[1] - x) ** 2,
        lambda x, y: 0.5 * (y[1] - 1) ** 2 + 0.5 * x**2,
        upper_start=0.1,
        lower_start=jnp.full(2, 0.5),
        project_lower=lambda y: jnp.maximum(y, 0),
    )
    method = methods.bome(step_size=0.1, num_lower_steps=10)
    found = bilevel.minimize(bounded, method, optimizer=optax.adam(0.01), num_iterations=500)
    assert found.history["penalty_weight"][-1] > 100


@pytest.mark.parametrize("name", SINGLE_LOOPS)
def test_single_precision_stays_so_where_double_is_switched_on(name):
    own = bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - x) ** 2),
        lambda x, y: 0.5 * jnp.sum((y - 2) ** 2),
        upper_start=jnp.zeros(2, jnp.float32),
        lower_start=jnp.zeros(2, jnp.float32),
    )
    state = steps_of(own, SINGLE_LOOPS[name], 2)[-1]
    assert state.start.dtype == state.variables["problem"].dtype == jnp.float32


@pytest.mark.parametrize("kind", ["ball", "simplex"])
def test_projections_keep_single_precision(kind):
    onto = lower_optimizers.projected(step_size=0.1, set=kind, radius=1.0).projection
    assert onto is not None
    assert onto(jnp.ones(3, jnp.float32)).dtype == jnp.float32


REMEMBERS = "remembers its directions (momentum, or averages of Adam), but starts anew"


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam"])
@pytest.mark.parametrize(
    "method", [methods.soba, methods.meha, methods.pbgd, methods.bome, methods.mrbo]
)
def test_a_memory_that_one_step_would_not_have_is_refused(method, name):
    step = getattr(lower_optimizers, name)(step_size=0.1)
    with pytest.raises(ValueError, match=re.escape(REMEMBERS)):
        suited_lower_problem(line(), method(lower_optimizer=step, num_lower_steps=1))


def test_a_memory_of_several_steps_is_taken():
    step = lower_optimizers.momentum(step_size=0.1)
    suited_lower_problem(line(), methods.f2sa(lower_optimizer=step, num_lower_steps=2))
    # Not from where the last iteration ended: one step of a lower level of its own.
    suited_lower_problem(line(), methods.rhg(lower_optimizer=step, num_lower_steps=1))


def test_on_the_command_line_too():
    with pytest.raises(UserError, match=re.escape(REMEMBERS)):
        build(config_of("problem=ridge", "method=soba", "lower_optimizer=adam", *QUIET))
