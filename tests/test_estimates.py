"""What `hypergradient` and `value_function` return: of which function, of which type, or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import hypergradients
from bilevel import methods as of
from bilevel.bounded_sgd import bounded_sgd
from bilevel.lower_optimizers import projected

A = np.array([[2.0, 0.3], [0.3, 1.0]])


def quadratic(upper=lambda x, y: jnp.sum((y - 3) ** 2) + 0.1 * jnp.sum(x**2), dtype=float):
    a = A.astype(dtype)
    return bilevel.problem(
        lambda x, y: 0.5 * y @ a @ y - x @ y,
        upper,
        upper_start=jnp.ones(2, dtype),
        lower_start=jnp.zeros(2, dtype),
    )


def by(estimator, num_lower_steps=6, step_size=0.1):
    return bilevel.method("mine", estimator, num_lower_steps=num_lower_steps, step_size=step_size)


@pytest.mark.parametrize("name", ["multi_step", "pessimistic"])
def test_a_value_function_is_the_one_whose_gradient_it_has(name):
    method = by(getattr(hypergradients, name)())
    x = jnp.array([1.0, 0.5])
    phi = bilevel.value_function(quadratic(), method)
    found = bilevel.hypergradient(quadratic(), method, x)
    assert phi(x) == found.objective != found.value
    for i, e in enumerate(1e-5 * np.eye(2)):
        slope = float(phi(x + e) - phi(x - e)) / 2e-5
        assert float(jax.grad(phi)(x)[i]) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("name", ["rhg", "bda", "hoag", "darts", "f2sa"])
def test_of_most_methods_it_is_the_last_F(name):
    found = bilevel.hypergradient(quadratic(), getattr(of, name)(num_lower_steps=4), jnp.ones(2))
    assert found.objective == found.value


@pytest.mark.parametrize("name", ["pbgd", "bome", "meha", "lv_hba", "soba", "amigo"])
def test_a_method_whose_first_estimate_is_far_off_is_refused(name):
    for ask in (
        lambda method: bilevel.hypergradient(quadratic(), method, jnp.ones(2)),
        lambda method: bilevel.value_function(quadratic(), method),
    ):
        with pytest.raises(ValueError, match=rf"^{name} goes on from the y.*choose .*hoag"):
            ask(getattr(of, name)())


def test_a_gradient_has_the_type_of_x():
    problem = quadratic(lambda x, y: jnp.sum((y - np.arange(2.0)) ** 2), dtype="float32")
    x = jnp.ones(2, "float32")
    phi = bilevel.value_function(problem, of.rhg(num_lower_steps=3))
    assert phi(x).dtype == jnp.float64  # the constant of F is
    assert jax.grad(phi)(x).dtype == jnp.float32


# An F that is no number, or has no slope, at y of first steps alone.
EDGES = {
    "no slope": (lambda x, y: jnp.sqrt(jnp.maximum(y, 0.0)), -2.0),
    "infinite": (lambda x, y: jnp.exp(y), 5000.0),
}


@pytest.mark.parametrize("edge", EDGES)
def test_the_last_step_alone_does_not_see_the_others(edge):
    upper, start = EDGES[edge]
    problem = bilevel.problem(
        lambda x, y: 0.5 * (y - x) ** 2, upper, upper_start=1.0, lower_start=start
    )
    found = [
        bilevel.hypergradient(problem, by(estimator, 60, 0.2), 1.0).gradient
        for estimator in (
            hypergradients.unrolled(),
            hypergradients.multi_step(last_weight=1.0),
        )
    ]
    assert np.isfinite(found[0])
    assert float(found[1]) == pytest.approx(float(found[0]), rel=1e-12)


def test_the_worst_step_does_not_see_the_others():
    upper, start = EDGES["no slope"]
    problem = bilevel.problem(
        lambda x, y: 0.5 * (y - x) ** 2, upper, upper_start=1.0, lower_start=start
    )
    pair = (hypergradients.pessimistic(), hypergradients.unrolled())  # the last one is the worst
    worst, last = (bilevel.hypergradient(problem, by(one, 30, 0.2), 1.0).gradient for one in pair)
    assert float(worst) == pytest.approx(float(last), rel=1e-12)


@pytest.mark.parametrize("name", ["multi_step", "pessimistic"])
def test_what_F_computes_on_its_way_is_kept_of_no_step(name):
    rows, steps = 123, 7
    problem = bilevel.problem(
        lambda x, y, data: jnp.sum(jnp.cosh(data @ y)) + jnp.exp(x) * jnp.sum(y**2),
        lambda x, y, data: jnp.mean(jnp.tanh(data @ y)),
        upper_start=0.0,
        lower_start=jnp.zeros(2),
        train=jnp.ones((5, 2)),
        validation=jnp.ones((rows, 2)),
    )
    method = by(getattr(hypergradients, name)(), steps, 0.01)
    text = str(jax.make_jaxpr(lambda x: bilevel.hypergradient(problem, method, x).gradient)(0.0))
    assert f"[{rows}]" in text
    assert f"[{steps},{rows}" not in text
    assert f"[{steps},2]" in text  # the iterates


@pytest.mark.parametrize("sampling", ["rows", "blocks", "epochs"])
def test_a_bounded_step_is_measured_on_the_rows_of_its_direction(sampling):
    """One step of 1 / lambda along a row of r y^2 / 2 ends at 0, whichever row it is."""
    scales = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    problem = bilevel.problem(
        lambda x, y, r: 0.5 * jnp.mean(r * y**2) + 0 * x * y,
        lambda x, y, r: jnp.mean(r) * 0 + x**2 + 0 * y,
        upper_start=1.0,
        lower_start=1.0,
        train=scales,
        validation=scales,
        batch_size=2,
        sampling=sampling,
    )
    method = of.saba(lower_optimizer=bounded_sgd(step_size=100.0))
    for seed in range(4):
        end = bilevel.minimize(
            problem, method, optimizer=optax.sgd(0.0), num_iterations=1, seed=seed
        )
        np.testing.assert_allclose(jax.tree.leaves(end.state.start)[0], 0.0, atol=1e-12)


def test_a_mean_over_many_steps_does_not_stop_growing_in_few_bits():
    x = np.array([1.0, 0.5])
    small, wide = (
        bilevel.hypergradient(
            quadratic(lambda x, y: jnp.sum((y - 3) ** 2), dtype),
            by(hypergradients.warp_grad(), 400, 0.2),
            jnp.asarray(x, dtype),
        ).gradient
        for dtype in ("bfloat16", "float64")
    )
    assert small.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(small, float), wide, rtol=0.05)


# float32 where 64 bits are switched on: nothing may widen what a loop carries.
NARROW = {
    "a step size of numpy": lambda: of.rhg(step_size=np.float64(0.1), num_lower_steps=3),
    "a tolerance of numpy": lambda: of.hoag(tolerance=np.float64(0.1), num_lower_steps=3),
    "amigo, falling steps": lambda: of.amigo(step_power=0.3),
    "a simplex": lambda: of.rhg(
        lower_optimizer=projected(step_size=0.1, set="simplex", radius=1.0), num_lower_steps=3
    ),
}


@pytest.mark.parametrize("name", NARROW)
def test_32_bits_stay_32_bits(name):
    end = bilevel.minimize(
        quadratic(dtype="float32"), NARROW[name](), optimizer=optax.sgd(0.01), num_iterations=2
    )
    assert end.x.dtype == jnp.float32
    assert np.isfinite(end.x).all()


# Types of the two leaves of x, and of y.
TYPES = {
    "x of two types": ("float32", "float64", "float64"),
    "y of fewer bits": ("float64", "float64", "float32"),
    "x of fewer bits": ("float32", "float32", "float64"),
}
TAKEN = ("rhg", "hoag", "darts", "sama", "pzobo", "f2sa", "pbgd", "bome", "bvfsm", "meha", "amigo")


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("types", TYPES)
def test_x_and_y_of_other_types(types, name):
    first, second, below = TYPES[types]
    x = {"a": jnp.ones((), first), "b": jnp.ones(2, second)}
    problem = bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - x["b"]) ** 2) + x["a"] * y[0],
        lambda x, y: jnp.sum((y - 3) ** 2) + x["a"] ** 2 + jnp.sum(x["b"] ** 2),
        upper_start=x,
        lower_start=jnp.zeros(2, below),
    )
    method = getattr(of, name)(num_lower_steps=2)
    end = bilevel.minimize(problem, method, optimizer=optax.sgd(0.01), num_iterations=2)
    assert jax.tree.map(lambda leaf: str(leaf.dtype), end.x) == {"a": first, "b": second}
