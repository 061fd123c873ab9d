"""Lower optimizers against recursions in numpy, and what they do at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import adam, adamw, projected
from tests.lower_recursions import FACTORIES, SETS, STEP, TABLE, made

K = 6
# In numpy: jax would make it float32 here, outside the fixture that switches float64 on.
Y0 = {"inner": {"a": np.array([0.3, -0.2, 0.9])}, "b": np.array([[0.5, -1.1]])}
FLAT = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(Y0)])
DIRECTIONS = np.random.default_rng(0).standard_normal((K, FLAT.size))
# Values of the step size that the upper level could have moved it to.
LEARNED = {
    "none": np.array(STEP),
    "scalar": np.array(0.17),
    "per_step": np.linspace(0.3, 0.05, K),
    "per_weight": np.linspace(0.02, 0.4, FLAT.size),
}


def by_hand(row, directions, sizes):
    y, m, v = FLAT, np.zeros_like(FLAT), np.zeros_like(FLAT)
    for k, (d, eta) in enumerate(zip(directions, sizes, strict=True), start=1):
        moved, m, v = row.rule(d, y, m, v, k)
        y = row.onto(y - eta * moved)
        yield y


def test_every_factory_is_in_the_table():
    assert {row.factory for row in TABLE.values()} == set(FACTORIES)


@pytest.mark.parametrize("learn", LEARNED)
@pytest.mark.parametrize("name", TABLE)
def test_steps_follow_the_recursion(name, learn):
    optimizer, value = made(name, learn=learn), LEARNED[learn]
    unravel = ravel_pytree(Y0)[1]
    params = optimizer.init_params(K, Y0)
    if learn == "none":
        assert params == {}
    else:
        moved = {"step_size": unravel(value) if learn == "per_weight" else jnp.asarray(value)}
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, moved)
        assert all((leaf == STEP).all() for leaf in jax.tree.leaves(params))
        params = moved
    sizes = np.broadcast_to(value[:, None] if learn == "per_step" else value, (K, FLAT.size))

    def never_searched(y):
        raise AssertionError("only a line search evaluates the objective")

    y, opt_state = Y0, optimizer.init(params, Y0, never_searched)
    for k, expected in enumerate(by_hand(TABLE[name], DIRECTIONS, sizes), start=1):
        direction = unravel(jnp.asarray(DIRECTIONS[k - 1]))
        y, opt_state = optimizer.update(
            params, direction, opt_state, y, jnp.int32(k), never_searched
        )
        np.testing.assert_allclose(ravel_pytree(y)[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", TABLE)
def test_a_learned_step_size_is_kept_from_climbing(name):
    project = made(name, learn="per_step").project
    found = project({"step_size": jnp.array([-0.5, 0.0, 0.3])})
    assert found["step_size"].tolist() == [0.0, 0.0, 0.3]


# ---- projections ----


@pytest.mark.parametrize("name", SETS)
def test_projections_of_points_inside_and_outside(name):
    projection, unravel = made(name).projection, ravel_pytree(Y0)[1]
    points = np.random.default_rng(1).standard_normal((40, FLAT.size))
    points *= np.logspace(-2, 2, 40)[:, None]
    points = np.concatenate([points, np.zeros((1, FLAT.size)), np.full((1, FLAT.size), 3.0)])
    found = jax.vmap(lambda point: ravel_pytree(projection(unravel(point)))[0])(points)
    expected = [TABLE[name].onto(point) for point in points]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SETS)
def test_projections_have_the_derivative_of_their_piece(name):
    """In reverse and in forward mode, inside, outside, and where |y| has none: at y = 0."""
    identity = np.eye(3)

    def expected(y):
        onto = TABLE[name].onto(y)
        if name == "box":
            return np.diag((onto == y).astype(float))
        if name == "ball":
            norm = np.linalg.norm(y)
            if norm < 1.2:
                return identity
            return 1.2 / norm * (identity - np.outer(y, y) / norm**2)
        kept = (onto > 0).astype(float)
        return np.diag(kept) - np.outer(kept, kept) / kept.sum()

    points = np.array([[0.1, -0.2, 0.3], [2.0, 0.1, -3.0], [0.0, 0.0, 0.0]])
    for jacobian in (jax.jacrev, jax.jacfwd):
        found = jax.jit(jax.vmap(jacobian(made(name).projection)))(points)
        np.testing.assert_allclose(found, [expected(y) for y in points], atol=1e-14)


def test_one_side_of_a_box_may_be_open():
    projection = projected(step_size=STEP, set="box", lower=0.0, upper=float("inf")).projection
    assert projection(jnp.array([-1.0, 7.0])).tolist() == [0.0, 7.0]


# ---- where Adam's root has no derivative: at d = 0 ----


@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize("factory", [adam, adamw])
def test_adam_has_finite_hypergradients_at_a_zero_direction(factory, x64):
    """At d = 0 the steps are linear in (y0, p), with slope 1 / eps: the derivative is known."""
    steps, eta, eps, decay = 3, 0.01, 1e-8, 0.01
    problem = problem_from_objectives(
        lower=lambda p, y, task: 0.5 * jnp.sum((y - p) ** 2),
        upper=lambda p, y, task: jnp.sum(y),
        init_upper=lambda key: jnp.zeros(2),
        init_lower=lambda key: jnp.zeros(2),
    )

    def slope(of_start, of_p):
        y, m = of_start, 0.0
        for k in range(1, steps + 1):
            m = 0.9 * m + 0.1 * (y - of_p)
            y = y - eta * (m / (1 - 0.9**k) / eps + (decay * y if factory is adamw else 0.0))
        return y

    with jax.enable_x64(x64):
        dynamics = compose(lower_only(), factory(step_size=eta, eps=eps, learn="scalar"))
        lower = LowerProblem(problem, dynamics, steps, persistent=True)
        zero = jnp.zeros(2)
        point = Point(zero, dynamics.init_params(steps, zero), zero)
        of_p, of_params, of_start = jax.jit(jax.grad(lambda point: lower.solve(point).sum()))(point)
        tolerance = 1e-10 if x64 else 1e-4
        np.testing.assert_allclose(of_p, slope(0.0, 1.0), rtol=tolerance)
        np.testing.assert_allclose(of_start, slope(1.0, 0.0), rtol=tolerance)
        assert float(of_params["lower_optimizer"]["step_size"]) == 0.0
        assert of_p.dtype == (jnp.float64 if x64 else jnp.float32)


# ---- refusals ----


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", TABLE)
def test_step_sizes_that_do_not_descend_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^step_size={value}"):
        made(name, step_size=value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("momentum", {"momentum": 1.0}, "^momentum=1.0"),
        ("momentum", {"momentum": -0.1}, "^momentum=-0.1"),
        ("nesterov", {"momentum": float("nan")}, "^momentum=nan"),
        ("adam", {"b1": 1.0}, "^b1=1.0"),
        ("adam", {"b2": -0.5}, "^b2=-0.5"),
        ("adam", {"eps": 0.0}, "^eps=0.0"),
        ("adamw", {"b1": 2.0}, "^b1=2.0"),
        ("adamw", {"eps": -1e-8}, "^eps=-1e-08"),
        ("adamw", {"weight_decay": -0.1}, "^weight_decay=-0.1"),
        ("box", {"lower": None}, "^lower=None .*set=box"),
        ("box", {"upper": None}, "^upper=None .*set=box"),
        ("box", {"radius": 1.0}, "^radius=1.0 .*set=box"),
        ("box", {"lower": 2.0}, "^lower=2.0 .*upper=0.6"),
        ("box", {"lower": float("nan")}, "^lower=nan"),
        ("ball", {"lower": 0.0}, "^lower=0.0 .*set=ball"),
        ("ball", {"radius": None}, "^radius=None .*set=ball"),
        ("ball", {"radius": -1.0}, "^radius=-1.0"),
        ("simplex", {"upper": 1.0}, "^upper=1.0 .*set=simplex"),
        ("simplex", {"radius": 0.0}, "^radius=0.0"),
    ],
)
def test_bad_options_are_refused_by_name(name, options, message):
    with pytest.raises(ValueError, match=message):
        made(name, **options)
