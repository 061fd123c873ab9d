"""Lower steps by optimizers of optax: beside those of `bilevel`, and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel.hypergradients import implicit, unrolled
from bilevel.linear_solvers import cg
from bilevel.lower_optimizers import adam, adamw, from_optax, momentum, nesterov, sgd

# In numpy: jax would make it float32 here, outside the fixture that switches float64 on.
X = np.array([0.3, -0.7])
# What is the same, step by step. Ours has its eps inside the root.
SAME = {
    "sgd": (optax.sgd(0.1), sgd(step_size=0.1)),
    "momentum": (optax.sgd(0.1, momentum=0.6), momentum(step_size=0.1, momentum=0.6)),
    "nesterov": (
        optax.sgd(0.1, momentum=0.6, nesterov=True),
        nesterov(step_size=0.1, momentum=0.6),
    ),
    "adam": (optax.adam(0.1, eps=0.0, eps_root=1e-6), adam(step_size=0.1, eps=1e-3)),
    "adamw": (
        optax.adamw(0.1, eps=0.0, eps_root=1e-6, weight_decay=0.05),
        adamw(step_size=0.1, eps=1e-3, weight_decay=0.05),
    ),
}
OTHERS = {
    "rmsprop": optax.rmsprop(0.05, eps=1e-3),
    "adagrad": optax.adagrad(0.3),
    "a schedule": optax.sgd(optax.exponential_decay(0.2, 3, 0.5)),
    "a chain": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2)),
    "two parts": optax.multi_transform(
        {"slow": optax.sgd(0.05), "fast": optax.adam(0.1)}, {"a": "slow", "b": "fast"}
    ),
}


def problem(project_lower=None):
    def f(x, y):
        return jnp.sum(jnp.cosh(y["a"] - x)) + (y["b"] - x[0]) ** 2 + 0.3 * y["b"] * y["a"][1]

    def upper(x, y):
        return jnp.sum((y["a"] - 1) ** 2) + y["b"] ** 2 + 0.1 * jnp.sum(x**2)

    start = {"a": jnp.array([0.2, -0.1]), "b": jnp.array(0.4)}
    return bilevel.problem(f, upper, upper_start=X, lower_start=start, project_lower=project_lower)


def found(lower_optimizer, hypergradient=None, num_lower_steps=8):
    method = bilevel.method(
        "mine",
        hypergradient or unrolled(),
        lower_optimizer=lower_optimizer,
        num_lower_steps=num_lower_steps,
    )
    return bilevel.hypergradient(problem(), method, X)


@pytest.mark.parametrize("name", SAME)
def test_the_same_steps_and_the_same_gradient_as_ours(name):
    theirs, ours = map(found, SAME[name])
    for a, b in zip(jax.tree.leaves(theirs.y), jax.tree.leaves(ours.y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(theirs.gradient, ours.gradient, rtol=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_the_gradient_is_that_of_finite_differences(name):
    method = bilevel.methods.rhg(lower_optimizer=OTHERS[name], num_lower_steps=8)
    value = jax.jit(bilevel.value_function(problem(), method))
    gradient = bilevel.hypergradient(problem(), method, X).gradient
    for i, e in enumerate(1e-5 * np.eye(2)):
        assert gradient[i] == pytest.approx(float(value(X + e) - value(X - e)) / 2e-5, rel=1e-7)


def test_an_implicit_estimator_wants_to_know_whether_it_rests():
    by_cg = implicit(solver=cg(tolerance=1e-12, max_steps=50))
    with pytest.raises(ValueError, match=r"not known whether it rests.*rests=True"):
        found(optax.adam(0.1), by_cg)
    resting = from_optax(optax.adagrad(0.5), rests=True)
    theirs = found(resting, by_cg, num_lower_steps=500)
    ours = found(sgd(step_size=0.1), by_cg, num_lower_steps=500)
    np.testing.assert_allclose(theirs.gradient, ours.gradient, rtol=1e-8)


def test_in_bounds_of_y_it_may_rest_elsewhere():
    inside = problem(lambda y: jax.tree.map(lambda leaf: jnp.clip(leaf, -0.5, 0.5), y))
    method = bilevel.methods.hoag(lower_optimizer=from_optax(optax.adam(0.1), rests=True))
    with pytest.raises(ValueError, match="come to rest in the bounds of y"):
        bilevel.hypergradient(inside, method, X)


def test_a_method_finds_the_solution_with_it():
    method = bilevel.methods.rhg(lower_optimizer=optax.adagrad(0.5), num_lower_steps=150)
    theirs, ours = (
        bilevel.minimize(problem(), one, optimizer=optax.adam(0.05), num_iterations=150).x
        for one in (method, bilevel.methods.rhg(num_lower_steps=150, step_size=0.1))
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (optax.polyak_sgd(), "needs more than gradients: .*'value'.*choose one"),
        (optax.lbfgs(), r"needs more than gradients.*bilevel.lower_solvers.lbfgs\(\)"),
        (optax.adam, r"transformation is a function that was not called"),
        ("adam", "transformation is 'adam', but must be a GradientTransformation"),
    ],
)
def test_what_is_no_optimizer_of_gradients(what, message):
    with pytest.raises(TypeError, match=message):
        from_optax(what)


def test_a_step_size_beside_it():
    with pytest.raises(ValueError, match=r"step_size=0.1 is given beside lower_optimizer"):
        bilevel.methods.rhg(lower_optimizer=optax.adam(0.1), step_size=0.1)


def test_a_huge_derivative_is_said_to_be_one():
    solved = bilevel.problem(
        lambda x, y: (y - x) ** 2, lambda x, y: (y - 1) ** 2, upper_start=0.0, lower_start=0.0
    )
    method = bilevel.methods.rhg(lower_optimizer=optax.rmsprop(0.05), num_lower_steps=300)
    with pytest.raises(FloatingPointError, match=r"hypergradient_norm became .*eps=0.1"):
        bilevel.minimize(solved, method, optimizer=optax.sgd(0.05), num_iterations=2)
