"""Lower optimizers against recursions in numpy, and what they do at the edges."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq

from src.bilevel import lower_optimizers
from src.bilevel.aggregation import descent, lower_only
from src.bilevel.dynamics import compose
from src.bilevel.lower_optimizers import adam, adamw, projected, sgd
from src.bilevel.lower_solve import run_steps
from src.problems.from_objectives import problem_from_objectives

K, STEP = 6, 0.1
FACTORIES = {
    name: value
    for name, value in vars(lower_optimizers).items()
    if inspect.isfunction(value)
    and value.__module__ == lower_optimizers.__name__
    and not name.startswith("_")
}
# In numpy: jax would make it float32 here, outside the fixture that switches float64 on.
Y0 = {"inner": {"a": np.array([0.3, -0.2, 0.9])}, "b": np.array([[0.5, -1.1]])}
FLAT = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(Y0)])
DIRECTIONS = np.random.default_rng(0).standard_normal((K, FLAT.size))


# ---- the recursions, in numpy: (d, y, m, v, k) -> (what is subtracted, times eta; m; v) ----


def plain(d, y, m, v, k):
    return d, m, v


def heavy_ball(d, y, m, v, k):
    m = 0.7 * m + d
    return m, m, v


def sutskever(d, y, m, v, k):
    m = 0.7 * m + d
    return d + 0.7 * m, m, v


def kingma(d, y, m, v, k):
    m, v = 0.8 * m + 0.2 * d, 0.9 * v + 0.1 * d**2
    return m / (1 - 0.8**k) / np.sqrt(v / (1 - 0.9**k) + 1e-3**2), m, v


def loshchilov(d, y, m, v, k):
    moved, m, v = kingma(d, y, m, v, k)
    return moved + 0.05 * y, m, v


def onto_box(y, lower, upper):
    return np.minimum(np.maximum(y, lower), upper)


def onto_ball(y, radius):
    return y * min(1.0, radius / max(np.linalg.norm(y), 1e-300))


def onto_simplex(y, radius):
    """Held, Wolfe, Crowder, 1974: shift by the theta at which what stays positive sums up."""
    descending = np.sort(y)[::-1]
    thetas = (np.cumsum(descending) - radius) / np.arange(1, y.size + 1)
    return np.maximum(y - thetas[descending > thetas][-1], 0)


class Row(NamedTuple):
    factory: str
    options: dict[str, Any]
    rule: Callable
    onto: Callable = lambda y: y


TABLE = {
    "sgd": Row("sgd", {}, plain),
    "momentum": Row("momentum", {"momentum": 0.7}, heavy_ball),
    "nesterov": Row("nesterov", {"momentum": 0.7}, sutskever),
    "adam": Row("adam", {"b1": 0.8, "b2": 0.9, "eps": 1e-3}, kingma),
    "adamw": Row("adamw", {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.05}, loshchilov),
    "box": Row(
        "projected",
        {"set": "box", "lower": -0.4, "upper": 0.6},
        plain,
        lambda y: onto_box(y, -0.4, 0.6),
    ),
    "ball": Row("projected", {"set": "ball", "radius": 1.2}, plain, lambda y: onto_ball(y, 1.2)),
    "simplex": Row(
        "projected", {"set": "simplex", "radius": 2.0}, plain, lambda y: onto_simplex(y, 2.0)
    ),
}
SETS = ("box", "ball", "simplex")
# Values of the step size that the upper level could have moved it to.
LEARNED = {
    "none": np.array(STEP),
    "scalar": np.array(0.17),
    "per_step": np.linspace(0.3, 0.05, K),
    "per_weight": np.linspace(0.02, 0.4, FLAT.size),
}


def made(name, **options):
    row = TABLE[name]
    return FACTORIES[row.factory](**{"step_size": STEP, **row.options, **options})


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

    y, slots = Y0, optimizer.init(params, Y0)
    for k, expected in enumerate(by_hand(TABLE[name], DIRECTIONS, sizes), start=1):
        direction = unravel(jnp.asarray(DIRECTIONS[k - 1]))
        y, slots = optimizer.update(params, direction, slots, y, jnp.int32(k))
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
        zero = jnp.zeros(2)

        def upper(p, params, y0):
            state = dynamics.init(params, y0)
            return run_steps(problem, dynamics, params, p, {}, state, 1, steps).y.sum()

        params = dynamics.init_params(steps, zero)
        of_p, of_params, of_start = jax.jit(jax.grad(upper, argnums=(0, 1, 2)))(zero, params, zero)
        tolerance = 1e-10 if x64 else 1e-4
        np.testing.assert_allclose(of_p, slope(0.0, 1.0), rtol=tolerance)
        np.testing.assert_allclose(of_start, slope(1.0, 0.0), rtol=tolerance)
        assert float(of_params["lower_optimizer"]["step_size"]) == 0.0
        assert of_p.dtype == (jnp.float64 if x64 else jnp.float32)


# ---- solutions ----

_root = np.random.default_rng(2).standard_normal((3, 3))
HESSIAN, LINEAR = _root @ _root.T + np.eye(3), np.array([2.0, -1.0, 1.5])
QUADRATIC = problem_from_objectives(
    lower=lambda x, y, task: 0.5 * y @ HESSIAN @ y - x @ y,
    upper=lambda x, y, task: jnp.sum(y**2),
    init_upper=lambda key: jnp.asarray(LINEAR),
    init_lower=lambda key: jnp.zeros(3),
)


def solution_of(name):
    """argmin of 1/2 y'Hy - b'y over the set: the best of all candidate active sets."""
    if name == "ball":

        def at(multiplier):
            return np.linalg.solve(HESSIAN + multiplier * np.eye(3), LINEAR)

        return at(brentq(lambda t: np.linalg.norm(at(t)) - 0.5, 0, 100, xtol=1e-15))
    if name not in SETS:
        return np.linalg.solve(HESSIAN, LINEAR)
    best = None
    for fixed in itertools.product((None, -0.3, 0.4) if name == "box" else (None, 0.0), repeat=3):
        free = np.array([value is None for value in fixed])
        y = np.array([value or 0.0 for value in fixed])
        if name == "box" and free.any():
            right = LINEAR - HESSIAN @ y
            y[free] = np.linalg.solve(HESSIAN[np.ix_(free, free)], right[free])
        if name == "simplex":
            if not free.any():
                continue
            bordered = np.block(
                [[HESSIAN[np.ix_(free, free)], np.ones((free.sum(), 1))], [np.ones(free.sum()), 0]]
            )
            y[free] = np.linalg.solve(bordered, [*LINEAR[free], 1.0])[:-1]
        inside = ((y >= -0.3) & (y <= 0.4)).all() if name == "box" else (y >= 0).all()
        value = 0.5 * y @ HESSIAN @ y - LINEAR @ y
        if inside and (best is None or value < best[0]):
            best = (value, y)
    return best[1]


SOLVERS = {
    "sgd": {},
    "momentum": {},
    "nesterov": {},
    "adam": {"step_size": 0.003},
    "adamw": {"step_size": 0.003, "weight_decay": 0.0},
    "box": {"lower": -0.3, "upper": 0.4},
    "ball": {"radius": 0.5},
    "simplex": {"radius": 1.0},
}


@pytest.mark.parametrize("name", TABLE)
def test_steps_end_at_the_solution_and_rest_there(name):
    dynamics = compose(lower_only(), made(name, **SOLVERS[name]))
    x, solution = jnp.asarray(LINEAR), solution_of(name)
    state = dynamics.init({"aggregation": {}, "lower_optimizer": {}}, jnp.zeros(3))
    params = dynamics.init_params(2000, state.y)
    found = run_steps(QUADRATIC, dynamics, params, x, {}, state, 1, 2000).y
    bound = 1e-3 if name in ("adam", "adamw") else 1e-6
    np.testing.assert_allclose(found, solution, rtol=0, atol=bound)
    assert dynamics.moving == ""
    rest = dynamics.stationarity(QUADRATIC, params, x, {}, jnp.asarray(solution))
    np.testing.assert_allclose(rest, 0, atol=1e-10)
    feasible = dynamics.projection(jnp.zeros(3)) if name in SETS else jnp.zeros(3)
    elsewhere = dynamics.stationarity(QUADRATIC, params, x, {}, feasible)
    assert float(jnp.linalg.norm(elsewhere)) > 1e-2
    if name in SETS:
        gradient = dynamics.direction(QUADRATIC, params, x, {}, jnp.asarray(solution), 1)
        assert float(jnp.linalg.norm(gradient)) > 1e-2, "the constraint is to be active"


def test_adamw_rests_where_the_gradient_is_not_zero():
    dynamics = compose(lower_only(), adamw(step_size=0.01, weight_decay=0.3))
    assert dynamics.stationarity is None
    assert "weight decay" in dynamics.moving
    x, params = jnp.asarray(LINEAR), {"aggregation": {}, "lower_optimizer": {}}
    state = dynamics.init(params, jnp.zeros(3))
    found = run_steps(QUADRATIC, dynamics, params, x, {}, state, 1, 2000).y
    assert np.linalg.norm(HESSIAN @ found - LINEAR) > 1e-2


@pytest.mark.parametrize(
    ("options", "rests"),
    [
        ({"law": "constant"}, True),
        ({"law": "constant", "learn": ("alpha", "s", "t")}, True),
        ({"law": "per_step"}, True),
        ({"law": "per_step", "learn": ("alpha",)}, False),
        ({"law": "harmonic"}, False),
        ({"law": "geometric"}, False),
        ({"law": "upper_geometric"}, False),
        ({"law": "tpami"}, False),
    ],
)
def test_weights_that_change_with_k_have_no_resting_point(options, rests):
    for optimizer in (sgd(step_size=STEP), made("ball")):
        dynamics = compose(descent(alpha=0.4, **options), optimizer)
        assert (dynamics.stationarity is not None) == rests
        assert rests == (dynamics.moving == "")
        assert rests or "aggregation.law=constant" in dynamics.moving


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
