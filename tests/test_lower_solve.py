"""K lower steps: in segments the same numbers in less memory, and stopping at a residual."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bilevel.lower_solve import run_steps, run_steps_in_segments, run_until

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.lower_optimizers import adam, momentum, nesterov, projected, sgd

# ---- segments ----

CURVED = problem_from_objectives(
    lower=lambda x, y, task: jnp.sum((y["a"] - x) ** 4 + y["a"] ** 2),
    upper=lambda x, y, task: jnp.sum(y["a"] ** 3),
    init_upper=lambda key: jnp.array([0.1, -0.4]),
    init_lower=lambda key: {"a": jnp.array([0.5, -0.3])},
)


@pytest.mark.parametrize(
    ("optimizer", "num_steps"),
    [("momentum", k) for k in (1, 2, 3, 4, 10, 16, 17)] + [("adam", 10)],
)
def test_segments_are_the_same_steps_with_the_same_gradient(optimizer, num_steps):
    """The step is another one at every k: slots, a step size per step, weights of F and f."""
    made = {
        "momentum": momentum(step_size=0.1, learn="per_step"),
        "adam": adam(step_size=0.05, eps=1e-2),
    }
    aggregation = descent(law="harmonic", alpha=0.4, learn=("alpha",))
    dynamics = compose(aggregation, made[optimizer])
    x, y0 = CURVED.init_upper(jax.random.key(0)), CURVED.init_lower(jax.random.key(0), None)
    params = dynamics.init_params(num_steps, y0)

    def scored(run):
        def score(x, params, y0):
            state = run(CURVED, dynamics, params, x, {}, dynamics.init(params, y0))
            return CURVED.upper_objective(x, {}, state.y, None)[0], state

        return jax.value_and_grad(score, argnums=(0, 1, 2), has_aux=True)

    segments = scored(lambda *a: run_steps_in_segments(*a, num_steps))
    plain = scored(lambda *a: run_steps(*a, 1, num_steps))
    in_segments, at_once = jax.jit(lambda *a: (segments(*a), plain(*a)))(x, params, y0)
    for a, b in zip(*map(jax.tree.leaves, (in_segments, at_once)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


def test_segments_need_a_fraction_of_the_memory():
    size, num_steps = 2000, 400
    problem = problem_from_objectives(
        lower=lambda x, y, task: jnp.sum(jnp.cosh(y - x)),
        upper=lambda x, y, task: jnp.sum(jnp.sin(y)),
        init_upper=lambda key: jnp.ones(size),
        init_lower=lambda key: jnp.zeros(size),
    )
    dynamics = compose(lower_only(), momentum(step_size=0.01))
    params = {"aggregation": {}, "lower_optimizer": {}}

    def memory(run):
        def score(x):
            state = dynamics.init(params, jnp.zeros(size))
            return jnp.sum(jnp.sin(run(problem, dynamics, params, x, {}, state).y))

        compiled = jax.jit(jax.grad(score)).lower(jnp.ones(size)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    at_once = memory(lambda *a: run_steps(*a, 1, num_steps))
    assert at_once >= num_steps * size * 8
    assert memory(lambda *a: run_steps_in_segments(*a, num_steps)) < at_once / 4


# ---- until the residual is small ----

_root = np.random.default_rng(3).standard_normal((4, 4))
HESSIAN = _root @ _root.T / 4 + np.eye(4)
PROBLEM = problem_from_objectives(
    lower=lambda x, y, task: 0.5 * y["a"] @ HESSIAN @ y["a"] - x @ y["a"],
    upper=lambda x, y, task: jnp.sum(y["a"] ** 2),
    init_upper=lambda key: jnp.ones(4),
    init_lower=lambda key: {"a": jnp.zeros(4)},
)
X, START = np.array([1.0, -2.0, 0.5, 3.0]), {"a": np.array([0.2, 0.1, -0.4, 0.3])}
OPTIMIZERS = {
    "sgd": lambda: sgd(step_size=0.2),
    "per_step": lambda: sgd(step_size=0.2, learn="per_step"),
    "momentum": lambda: momentum(step_size=0.1, momentum=0.6),
    "nesterov": lambda: nesterov(step_size=0.1, momentum=0.6),
    "ball": lambda: projected(step_size=0.2, set="ball", radius=0.7),
    "box": lambda: projected(step_size=0.2, set="box", lower=-0.5, upper=0.8),
}
NUM_STEPS = 60


def dynamics_and_params(name):
    dynamics = compose(lower_only(), OPTIMIZERS[name]())
    params = dynamics.init_params(NUM_STEPS, START)
    if name == "per_step":
        params["lower_optimizer"]["step_size"] = jnp.linspace(0.3, 0.05, NUM_STEPS)
    return dynamics, params


def plain_loop(dynamics, params):
    """(x, tolerance) -> the state and the steps done, one step after the other."""

    @jax.jit
    def step(x, state, k):
        return dynamics.step(PROBLEM, params, x, {}, state, k)

    @jax.jit
    def residual(x, y):
        return optax.tree.norm(dynamics.stationarity(PROBLEM, params, x, {}, y))

    def run(x, tolerance):
        state, done = dynamics.init(params, START), 0
        while done < NUM_STEPS and residual(x, state.y) > tolerance:
            done += 1
            state = step(x, state, jnp.int32(done))
        return state, done

    return run


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_stop_at_the_first_small_residual(name):
    dynamics, params = dynamics_and_params(name)
    by_hand = plain_loop(dynamics, params)

    @jax.jit
    def found(tolerance):
        state = dynamics.init(params, START)
        return run_until(PROBLEM, dynamics, params, X, {}, state, NUM_STEPS, tolerance)

    counts = []
    for tolerance in (100.0, 1e-1, 1e-3, 0.0):
        (state, done), (expected, count) = found(tolerance), by_hand(X, tolerance)
        assert int(done) == count
        for a, b in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
        counts.append(count)
    assert counts[0] == 0 < counts[1] < counts[2] < counts[3] == NUM_STEPS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_start_that_is_a_solution_takes_no_step(name):
    dynamics, params = dynamics_and_params(name)
    state = dynamics.init(params, START)
    solution = run_steps(PROBLEM, dynamics, params, X, {}, state, 1, 2000).y
    state, done = run_until(
        PROBLEM, dynamics, params, X, {}, dynamics.init(params, solution), NUM_STEPS, 1e-6
    )
    assert int(done) == 0
    np.testing.assert_array_equal(state.y["a"], solution["a"])
    # Exactly: a residual of 0 is within a tolerance of 0.
    state = dynamics.init(params, {"a": jnp.zeros(4)})
    assert int(run_until(PROBLEM, dynamics, params, 0 * X, {}, state, NUM_STEPS, 0.0)[1]) == 0


@pytest.mark.parametrize("name", ["momentum", "ball"])
def test_every_task_of_a_batch_stops_by_itself(name):
    dynamics, params = dynamics_and_params(name)
    by_hand = plain_loop(dynamics, params)
    xs = np.stack([X, 0.3 * X[::-1], HESSIAN @ START["a"], 100 * X])
    tolerances = np.array([1e-2, 1e-3, 1e-6, 0.0])

    def one(x, tolerance):
        state = dynamics.init(params, START)
        return run_until(PROBLEM, dynamics, params, x, {}, state, NUM_STEPS, tolerance)

    states, done = jax.jit(jax.vmap(one))(xs, tolerances)
    for i, (x, tolerance) in enumerate(zip(xs, tolerances, strict=True)):
        expected, count = by_hand(x, tolerance)
        assert int(done[i]) == count
        np.testing.assert_allclose(states.y["a"][i], expected.y["a"], rtol=1e-13, atol=1e-13)
    assert len(set(done.tolist())) == len(xs)
    assert int(done[2]) == 0
    assert int(done[3]) == NUM_STEPS
