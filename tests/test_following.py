"""Estimators that follow the lower level: beside plain numpy, theory, refusals.

f = y'Ay/2 - y'Bx + sum(y^4)/4,     F = |y - c|^2/2 + r|x|^2/2 + x'Dy
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import descent
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import (
    dynamic_barrier,
    gradient_penalty,
    moreau_envelope,
    pessimistic,
    sequential_penalty,
    single_loop,
    unrolled,
    value_penalty,
)
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from src.certification.cases import where
from src.certification.certify import flat, ridge_case, sgd_of

RNG = np.random.default_rng(3)
B, D = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 3))
A = np.diag([0.7, 1.0, 1.6]) + 0.2
C = 3 * RNG.normal(size=3)
R, ETA, K = 0.3, 0.02, 2
X, Y = RNG.normal(size=2), RNG.normal(size=3)
KEY = jax.random.key(0)


def fx(x, y):
    return -B.T @ y


def fy(x, y):
    return A @ y - B @ x + y**3


def f(x, y):
    return y @ A @ y / 2 - y @ B @ x + (y**4).sum() / 4


def hessian(y):
    return A + np.diag(3 * y**2)


def Fx(x, y):
    return R * x + D @ y


def Fy(x, y):
    return y - C + D.T @ x


PROBLEM = problem_from_objectives(
    lambda x, y, task: y @ A @ y / 2 - y @ B @ x + (y**4).sum() / 4,
    lambda x, y, task: ((y - C) ** 2).sum() / 2 + R * (x**2).sum() / 2 + x @ D @ y,
    init_upper=lambda key: jnp.asarray(X),
    init_lower=lambda key: jnp.asarray(Y),
)


# One iteration in numpy: (x, y, other lower variable, n) -> (g, y, other).


def by_value_penalty(x, y, z, n, weight=4.0, power=0.5, num_steps=3):
    scale = weight * (n + 1) ** power
    for _ in range(K):
        z = z - ETA * fy(x, z)
    for _ in range(num_steps):
        y = y - ETA * (fy(x, y) + Fy(x, y) / scale)
    return Fx(x, y) + scale * (fx(x, y) - fx(x, z)), y, z


def by_gradient_penalty(x, y, _, n, weight=4.0, power=0.5):
    scale = weight * (n + 1) ** power
    for _ in range(K):
        y = y - ETA * (2 * hessian(y) @ fy(x, y) + Fy(x, y) / scale)
    return Fx(x, y) + scale * 2 * (-B.T @ fy(x, y)), y, None


def by_dynamic_barrier(x, y, _, n, share=0.7):
    z = y
    for _ in range(K):
        z = z - ETA * fy(x, z)
    qx, qy = fx(x, y) - fx(x, z), fy(x, y)
    size = qx @ qx + qy @ qy
    weight = max(share * size - (Fx(x, y) @ qx + Fy(x, y) @ qy), 0) / size
    return Fx(x, y) + weight * qx, y - ETA * (Fy(x, y) + weight * qy), None


def by_sequential_penalty(x, y, z, n, weight=4.0, power=0.5, mu=0.1, theta=0.2):
    scale = weight * (n + 1) ** power
    for _ in range(K):
        z = z - ETA * (fy(x, z) + mu * z)
    least = f(x, z) + mu / 2 * z @ z
    for _ in range(K):
        s = max(f(x, y) - least, 0)
        y = y - ETA * (Fy(x, y) + theta * y + scale * s * fy(x, y)) / (1 + scale * s)
    s = max(f(x, y) - least, 0)
    return Fx(x, y) + scale * s * (fx(x, y) - fx(x, z)), y, z


def by_moreau_envelope(x, y, z, n, weight=4.0, power=0.5, gamma=0.5):
    scale = weight * (n + 1) ** power
    for _ in range(K):
        z = z - ETA * (fy(x, z) + (z - y) / gamma)
        y = y - ETA * (fy(x, y) - (y - z) / gamma + Fy(x, y) / scale)
    return Fx(x, y) + scale * (fx(x, y) - fx(x, z)), y, z


def by_single_loop(x, y, q, n, step_size=0.2, damping=0.3):
    q = np.zeros_like(y) if n == 0 else q
    for _ in range(K):
        g = Fx(x, y) + B.T @ q  # d (grad_y f) / dx = -B
        moved = q - step_size * (hessian(y) @ q + damping * q - Fy(x, y))
        y, q = y - ETA * fy(x, y), moved
    return g, y, q


RULES = {
    "value_penalty": (value_penalty(weight=4.0, power=0.5, num_steps=3), by_value_penalty),
    "gradient_penalty": (gradient_penalty(weight=4.0, power=0.5), by_gradient_penalty),
    "dynamic_barrier": (dynamic_barrier(share=0.7), by_dynamic_barrier),
    "sequential_penalty": (
        sequential_penalty(weight=4.0, power=0.5, mu=0.1, theta=0.2),
        by_sequential_penalty,
    ),
    "moreau_envelope": (moreau_envelope(weight=4.0, power=0.5, gamma=0.5), by_moreau_envelope),
    "single_loop": (single_loop(step_size=0.2, damping=0.3), by_single_loop),
}


def lower_of(dynamics, steps=K, problem=PROBLEM):
    return LowerProblem(problem, dynamics, steps, persistent=True)


def point_at(lower, x, y):
    params = lower.dynamics.init_params(lower.num_steps, y)
    return Point(jnp.asarray(x), params, jnp.asarray(y))


@pytest.mark.parametrize("name", RULES)
def test_three_iterations_are_those_of_plain_numpy(name):
    estimator, rule = RULES[name]
    lower = lower_of(sgd_of(ETA))
    # y starts elsewhere than z, so that f(x, y) lies above f(x, z).
    x, y, other = X, Y + 0.5, Y
    carry = estimator.init(lower, jnp.asarray(Y))
    step = jax.jit(lambda point, carry: estimator.estimate(lower, point, carry, KEY))
    at = jnp.asarray(y)
    gaps = []
    for n in range(3):
        output = step(point_at(lower, x, at), carry)
        g, y, other = rule(x, y, other, n)
        np.testing.assert_allclose(output.gradient.context, g, rtol=1e-10, err_msg=f"g, n = {n}")
        np.testing.assert_allclose(output.y, y, rtol=1e-10, err_msg=f"y, n = {n}")
        assert float(output.value) == pytest.approx(float(PROBLEM.upper_objective(x, (), y)[0]))
        at, carry, x = output.y, output.carry, x - 0.01 * g
        gaps.append(float(output.diagnostics.get("value_gap", 1.0)))
    assert name != "sequential_penalty" or max(gaps) > 0, "or no penalty was seen"


@pytest.mark.parametrize("name", ["value_penalty", "sequential_penalty", "moreau_envelope"])
def test_tasks_that_change_begin_anew(name):
    estimator = RULES[name][0]
    lower = lower_of(sgd_of(ETA))._replace(persistent=False)
    point = point_at(lower, X, Y)
    carry = estimator.init(lower, point.y0)
    once = estimator.estimate(lower, point, carry, KEY)
    assert jax.tree.leaves(once.carry.other) == []
    # The same point again, with the weight of the first iteration: nothing is left of it.
    again = estimator.estimate(lower, point, once.carry._replace(iteration=carry.iteration), KEY)
    np.testing.assert_array_equal(once.gradient.context, again.gradient.context)


def bias_of(estimator, iterations=1, steps=4000):
    """|g - g*| / |g*| on ridge regression at a fixed x, after this many iterations."""
    at = where(ridge_case(), sgd_of(0.05), steps)
    exact = at.lower.problem.exact.hypergradient(at.point.context, at.lower.task)
    point, carry = at.point, estimator.init(at.lower, at.point.y0)
    step = jax.jit(lambda point, carry: estimator.estimate(at.lower, point, carry, KEY))
    for _ in range(iterations):
        output = step(point, carry)
        point, carry = point._replace(y0=output.y), output.carry
    error = jnp.linalg.norm(output.gradient.context - exact)
    return float(error / jnp.linalg.norm(exact))


def test_the_bias_of_a_penalty_shrinks_like_its_inverse_weight():
    biases = [bias_of(value_penalty(weight=weight)) for weight in (1e2, 1e3, 1e4)]
    assert biases[0] < 0.2
    np.testing.assert_allclose(np.array(biases[:2]) / biases[1:], 10, rtol=0.15)


def test_a_single_loop_rests_at_the_hypergradient():
    estimator = single_loop(step_size=0.3, damping=0.0)
    assert bias_of(estimator, iterations=3000, steps=1) < 1e-8


def test_a_barrier_lets_f_fall():
    """<grad F + lambda grad q, grad q> >= phi, with equality where lambda > 0 (Alg. 1)."""
    lower = lower_of(sgd_of(ETA))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        x, y = generator.normal(size=2), generator.normal(size=3)
        output = dynamic_barrier(share=0.5).estimate(lower, point_at(lower, x, y), (), KEY)
        z = y
        for _ in range(K):
            z = z - ETA * fy(x, z)
        q = np.concatenate([fx(x, y) - fx(x, z), fy(x, y)])
        moved = np.concatenate([output.gradient.context, (y - output.y) / ETA])
        weight = float(output.diagnostics["penalty_weight"])
        assert weight >= 0
        assert moved @ q >= 0.5 * q @ q - 1e-9
        if weight > 0:
            assert moved @ q == pytest.approx(0.5 * q @ q)


def test_nothing_is_held_down_where_f_has_no_slope():
    still = problem_from_objectives(
        lambda x, y, task: 0.0 * jnp.sum(x) * jnp.sum(y),
        lambda x, y, task: jnp.sum((x - y) ** 2),
        init_upper=lambda key: jnp.ones(2),
        init_lower=lambda key: jnp.zeros(2),
    )
    lower = lower_of(sgd_of(ETA), problem=still)
    output = dynamic_barrier().estimate(lower, point_at(lower, np.ones(2), np.zeros(2)), (), KEY)
    np.testing.assert_array_equal(output.gradient.context, [2.0, 2.0])


def test_the_worst_step_is_the_one_that_is_differentiated():
    """F of y_k by numpy; the derivative is that of as many steps unrolled."""
    lower = lower_of(sgd_of(0.3), steps=6)
    values, y = [], Y
    for _ in range(6):
        y = y - 0.3 * fy(X, y)
        values.append(float(PROBLEM.upper_objective(X, (), y)[0]))
    worst = int(np.argmax(values)) + 1
    output = pessimistic().estimate(lower, point_at(lower, X, Y), (), KEY)
    assert output.diagnostics["worst_step"] == worst
    assert output.value == pytest.approx(values[-1])
    shorter = lower._replace(num_steps=worst)
    until = unrolled().estimate(shorter, point_at(shorter, X, Y), (), KEY)
    np.testing.assert_allclose(flat(output.gradient), flat(until.gradient), rtol=1e-12)


def test_mini_batches_give_unbiased_directions():
    """The mean over all pairs of rows is the direction on all rows, at one (x, y, q)."""
    rows = {
        "train": jnp.asarray(RNG.normal(size=(3, 3))),
        "validation": jnp.asarray(RNG.normal(size=(2, 3))),
    }
    problem = problem_from_objectives(
        lambda x, y, task: jnp.mean(jnp.cosh(task["train"] @ y - x[0])) + jnp.exp(x[1]) * y @ y,
        lambda x, y, task: jnp.mean((task["validation"] @ y - x[1]) ** 2),
        init_upper=lambda key: jnp.asarray(X),
        init_lower=lambda key: jnp.asarray(Y),
    )

    def one_pair(context, task, k):
        i, j = task["pair"]
        return context, {
            **task,
            "train": task["train"][i][None],
            "validation": task["validation"][j][None],
        }

    q = jnp.asarray(C)
    estimator = single_loop(step_size=0.2)

    def directions(mini_batch, pair):
        lower = lower_of(sgd_of(ETA), 1, problem._replace(mini_batch=mini_batch))
        lower = lower._replace(task={**rows, "pair": pair})
        carry = estimator.init(lower, jnp.asarray(Y))._replace(q=q)
        output = estimator.estimate(lower, point_at(lower, X, Y), carry, KEY)
        return flat((output.gradient.context, output.y, output.carry.q))

    pairs = [(i, j) for i in range(3) for j in range(2)]
    each = jnp.stack([directions(one_pair, pair) for pair in pairs])
    whole = directions(None, (0, 0))
    np.testing.assert_allclose(each.mean(0), whole, rtol=1e-12)
    assert float(jnp.abs(each - whole[None]).max()) > 0.01


def test_a_loop_on_a_mix_of_f_and_f_is_that_of_the_mix():
    """Weights of an aggregation belong to psi, of which H and d are taken (BAMM)."""
    mixed = compose(descent(law="constant", alpha=0.4), sgd(step_size=ETA))
    lower = lower_of(mixed, 1)
    q = RNG.normal(size=3)
    estimator = single_loop(step_size=0.2)
    carry = estimator.init(lower, jnp.asarray(Y))._replace(q=jnp.asarray(q))
    output = estimator.estimate(lower, point_at(lower, X, Y), carry, KEY)
    curvature = 0.6 * hessian(Y) + 0.4 * np.eye(3)
    np.testing.assert_allclose(output.carry.q, q - 0.2 * (curvature @ q - Fy(X, Y)), rtol=1e-12)
    cross = 0.6 * -B + 0.4 * D.T
    np.testing.assert_allclose(output.gradient.context, Fx(X, Y) - cross.T @ q, rtol=1e-12)
