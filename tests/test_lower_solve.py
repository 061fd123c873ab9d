"""K lower steps: in segments the same numbers in less memory, and stopping at a residual."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.lower_level import LowerProblem, Point, run_in_segments
from bilevel.lower_optimizers import adam, momentum, nesterov, projected, sgd

NOTHING_LEARNED = {"aggregation": {}, "lower_optimizer": {}}

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
    """The step is another one at every k: momentum, a step size per step, weights of F and f."""
    made = {
        "momentum": momentum(step_size=0.1, learn="per_step"),
        "adam": adam(step_size=0.05, eps=1e-2),
    }
    aggregation = descent(law="harmonic", alpha=0.4, learn=("alpha",))
    dynamics = compose(aggregation, made[optimizer])
    x, y0 = CURVED.init_upper(jax.random.key(0)), CURVED.init_lower(jax.random.key(0), None)
    lower = LowerProblem(CURVED, dynamics, num_steps, persistent=True)

    def scored(run):
        def score(point):
            level = lower.at(point)
            state = run(level, level.init(point.y0))
            return level.upper(state.y)[0], state

        return jax.value_and_grad(score, has_aux=True)

    segments = scored(lambda level, state: run_in_segments(level, state, num_steps))
    plain = scored(lambda level, state: level.run(state, 1, num_steps))
    point = Point(x, dynamics.init_params(num_steps, y0), y0)
    in_segments, at_once = jax.jit(lambda point: (segments(point), plain(point)))(point)
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
    lower = LowerProblem(problem, dynamics, num_steps, persistent=True)

    def memory(run):
        def score(x):
            level = lower.at(Point(x, NOTHING_LEARNED, jnp.zeros(size)))
            return level.upper(run(level, level.init(jnp.zeros(size))).y)[0]

        compiled = jax.jit(jax.grad(score)).lower(jnp.ones(size)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    at_once = memory(lambda level, state: level.run(state, 1, num_steps))
    assert at_once >= num_steps * size * 8
    assert memory(lambda level, state: run_in_segments(level, state, num_steps)) < at_once / 4


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


def lower_and_params(name, num_steps=NUM_STEPS):
    dynamics = compose(lower_only(), OPTIMIZERS[name]())
    params = dynamics.init_params(num_steps, START)
    if name == "per_step":
        params["lower_optimizer"]["step_size"] = jnp.linspace(0.3, 0.05, num_steps)
    return LowerProblem(PROBLEM, dynamics, num_steps, persistent=True), params


def plain_loop(lower, params):
    """(x, tolerance) -> y and the steps done, one step after the other."""

    @jax.jit
    def step(x, state, k):
        return lower.at(Point(x, params, START)).step(state, k)

    @jax.jit
    def residual(x, y):
        direction = jax.grad(PROBLEM.lower_objective, argnums=2)(x, {}, y)
        if lower.dynamics.projection is None:
            return optax.tree.norm(direction)
        onto = lower.dynamics.projection(jax.tree.map(jnp.subtract, y, direction))
        return optax.tree.norm(jax.tree.map(jnp.subtract, y, onto))

    def run(x, tolerance):
        state, done = lower.at(Point(x, params, START)).init(START), 0
        while done < NUM_STEPS and residual(x, state.y) > tolerance:
            done += 1
            state = step(x, state, jnp.int32(done))
        return state.y, done

    return run


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_stop_at_the_first_small_residual(name):
    lower, params = lower_and_params(name)
    by_hand = plain_loop(lower, params)

    @jax.jit
    def found(tolerance):
        return lower.solve_until(Point(X, params, START), tolerance)

    counts = []
    for tolerance in (100.0, 1e-1, 1e-3, 0.0):
        (y, done), (expected, count) = found(tolerance), by_hand(X, tolerance)
        assert int(done) == count
        for a, b in zip(*map(jax.tree.leaves, (y, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
        counts.append(count)
    # No residual is below zero: these are all the steps, as `solve` does them.
    np.testing.assert_allclose(y["a"], lower.solve(Point(X, params, START))["a"], rtol=1e-13)
    assert counts[0] == 0 < counts[1] < counts[2] < counts[3] == NUM_STEPS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_start_that_is_a_solution_takes_no_step(name):
    lower, params = lower_and_params(name)
    level = lower.at(Point(X, params, START))
    solution = level.run(level.init(START), 1, 2000).y
    y, done = lower.solve_until(Point(X, params, solution), 1e-6)
    assert int(done) == 0
    np.testing.assert_array_equal(y["a"], solution["a"])
    # Exactly: a residual of 0 is within a tolerance of 0.
    at_rest = Point(0 * X, params, {"a": jnp.zeros(4)})
    assert int(lower.solve_until(at_rest, 0.0)[1]) == 0


@pytest.mark.parametrize("name", ["momentum", "ball"])
def test_every_task_of_a_batch_stops_by_itself(name):
    lower, params = lower_and_params(name)
    by_hand = plain_loop(lower, params)
    xs = np.stack([X, 0.3 * X[::-1], HESSIAN @ START["a"], 100 * X])
    tolerances = np.array([1e-2, 1e-3, 1e-6, 0.0])

    def one(x, tolerance):
        return lower.solve_until(Point(x, params, START), tolerance)

    ys, done = jax.jit(jax.vmap(one))(xs, tolerances)
    for i, (x, tolerance) in enumerate(zip(xs, tolerances, strict=True)):
        expected, count = by_hand(x, tolerance)
        assert int(done[i]) == count
        np.testing.assert_allclose(ys["a"][i], expected["a"], rtol=1e-13, atol=1e-13)
    assert len(set(done.tolist())) == len(xs)
    assert int(done[2]) == 0
    assert int(done[3]) == NUM_STEPS
