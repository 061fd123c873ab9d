"""Where the steps of each lower optimizer end, and which of them rest there."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import adamw, sgd
from tests.lower_recursions import SETS, STEP, TABLE, made

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


def on_quadratic(dynamics):
    """2000 steps from zero; nothing of them is learned."""
    lower = LowerProblem(QUADRATIC, dynamics, 2000, persistent=True, task={})
    y0 = jnp.zeros(3)
    return lower, Point(jnp.asarray(LINEAR), dynamics.init_params(2000, y0), y0)


@pytest.mark.parametrize("name", TABLE)
def test_steps_end_at_the_solution_and_rest_there(name):
    dynamics = compose(lower_only(), made(name, **SOLVERS[name]))
    (lower, point), solution = on_quadratic(dynamics), solution_of(name)
    bound = 1e-3 if name in ("adam", "adamw") else 1e-6
    np.testing.assert_allclose(lower.solve(point), solution, rtol=0, atol=bound)
    assert dynamics.never_rests is None
    direction = lower.at(point).direction

    def residual(y):
        return lower.residual(direction(y, 1), y)

    np.testing.assert_allclose(residual(jnp.asarray(solution)), 0, atol=1e-10)
    feasible = dynamics.projection(jnp.zeros(3)) if name in SETS else jnp.zeros(3)
    assert float(jnp.linalg.norm(residual(feasible))) > 1e-2
    if name in SETS:
        gradient = direction(jnp.asarray(solution), 1)
        assert float(jnp.linalg.norm(gradient)) > 1e-2, "the constraint is to be active"


def test_adamw_rests_where_the_gradient_is_not_zero():
    dynamics = compose(lower_only(), adamw(step_size=0.01, weight_decay=0.3))
    assert dynamics.never_rests is not None
    assert "weight decay" in dynamics.never_rests.why
    lower, point = on_quadratic(dynamics)
    found = lower.solve(point)
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
        assert rests == (dynamics.never_rests is None)
        assert rests or "aggregation.law=constant" in dynamics.never_rests.remedy
        assert rests or "from step to step" in dynamics.never_rests.why
