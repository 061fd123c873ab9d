"""The non-convex toys: known answers against brute force, and where gradient methods end.

`lower_solution` is compared with a grid over y, `upper_solution` with a grid over x, the closed
hypergradients with finite differences; rhg is run from many starts at once.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.hypergradients import unrolled
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import projected, sgd
from src.problems.bvfsm_sine import bvfsm_sine
from src.problems.iaptt_toy import iaptt_toy
from src.problems.pbgd_toy import pbgd_toy

PI = np.pi
# IAPTT: F(x, y*(x)) drops by 2 pi here; the last of these is the solution.
DROPS = PI * np.array([0.75, 1.75, 2.75])
# PBGD: the local minima of h, and the maxima that part them, by bisection on h'.
VALLEYS = np.array([0.38236007, 1.21514548, 2.82964180])
RIDGES = np.array([0.74711762, 2.10932522])


class Toy(NamedTuple):
    """A toy, where to look for its answer, and the answer (y is the same in every entry)."""

    make: Callable
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x: float
    y: float
    upper_loss: float

    def problem(self):
        return self.make()[0]


def sine(target, shift, dimension, u):
    """The sine toy and its answer, u being the minimiser of sin that is nearest to 2 target."""
    x = (target + dimension * (u - target)) / (1 + dimension)
    return Toy(
        lambda: bvfsm_sine(dimension=dimension, target=target, shift=shift),
        (-8.0, 8.0),
        (-20.0, 20.0),
        x,
        shift - x + u,
        dimension * (2 * target - u) ** 2 / (dimension + 1),
    )


TOYS = {
    "iaptt": Toy(iaptt_toy, (1.0, 10.0), (-2.0, 2.0), 11 * PI / 4, -2.0, -11 * PI / 4),
    "sine": Toy(bvfsm_sine, (-8.0, 8.0), (-20.0, 20.0), 2.47493, 4.23746, 0.33833),
    "sine, negative a": sine(-1.5, 0.7, 3, -PI / 2),
    "sine, large a": sine(5.0, -1.0, 1, 7 * PI / 2),
    "pbgd": Toy(pbgd_toy, (0.0, 3.0), (-8.0, 8.0), VALLEYS[1], -VALLEYS[1], 0.199911),
}


def objectives(problem):
    """f(x, y) and F(x, y) of scalars; a vector y has the same number in every entry."""
    like = problem.init_lower(jax.random.key(0), None)

    def fill(y):
        return jnp.broadcast_to(y, like.shape)

    return (
        lambda x, y: problem.lower_objective(x, {}, fill(y)),
        lambda x, y: problem.upper_objective(x, {}, fill(y))[0],
    )


def reduced(problem):
    """x -> F(x, y*(x)), with the closed-form y*, for many x at once."""

    def value(x):
        return problem.upper_objective(x, {}, problem.exact.lower_solution(x, {}))[0]

    return jax.jit(jax.vmap(value))


def some(x_range, count):
    """Points in the interior, off the special points of every toy."""
    low, high = x_range
    return np.linspace(low, high, count + 2)[1:-1] + 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_the_lower_solution_is_the_optimistic_one(name):
    """Nothing on a fine grid has a lower f; of what has the same f, nothing has a lower F."""
    toy = TOYS[name]
    problem = toy.problem()
    f, upper = objectives(problem)
    grid = np.linspace(*toy.y_range, 100_001)

    @jax.jit
    def excess(x):
        """By how much the closed form is worse than the grid, in f, and in F among minimisers."""
        y = problem.exact.lower_solution(x, {}).ravel()
        values = jax.vmap(lambda y: f(x, y))(grid)
        best = f(x, y[0])
        # Where f is within 1e-7 of its minimum, F is within 1e-2 of that at a minimiser.
        scores = jax.vmap(lambda y: upper(x, y))(grid)
        best_score = jnp.where(values <= best + 1e-7, scores, jnp.inf).min()
        return best - values.min(), upper(x, y[0]) - best_score, jnp.ptp(y), y[0]

    lower, upper_loss, spread, y = np.array([excess(x) for x in some(toy.x_range, 60)]).T
    assert lower.max() <= 1e-12
    assert upper_loss.max() <= 1e-2
    assert spread.max() == 0
    assert y.min() >= toy.y_range[0]
    assert y.max() <= toy.y_range[1]


@pytest.mark.parametrize("name", TOYS)
def test_the_upper_solution_is_the_best_point_of_a_grid(name):
    toy = TOYS[name]
    problem = toy.problem()
    value = reduced(problem)
    x = jax.jit(problem.exact.upper_solution)({})
    y = problem.exact.lower_solution(x, {})
    assert float(x) == pytest.approx(toy.x, abs=1e-5)
    np.testing.assert_allclose(y, toy.y, rtol=0, atol=1e-5)
    grid = np.linspace(*toy.x_range, 200_001)
    scores = np.asarray(value(grid))
    assert float(problem.upper_objective(x, {}, y)[0]) <= scores.min() + 1e-12
    assert abs(grid[scores.argmin()] - float(x)) < 1e-4
    metrics = jax.jit(problem.evaluate)(x, x, {}, y)
    assert float(metrics["upper_loss"]) == pytest.approx(toy.upper_loss, abs=1e-5)
    assert float(metrics["upper_variable_error"]) < 1e-12
    assert float(metrics["lower_variable_error"]) < 1e-12


@pytest.mark.parametrize("name", TOYS)
def test_the_closed_hypergradient_is_the_slope_of_the_reduced_objective(name):
    toy = TOYS[name]
    problem = toy.problem()
    value, x, h = reduced(problem), some(toy.x_range, 200), 1e-6
    found = np.asarray(jax.jit(jax.vmap(lambda x: problem.exact.hypergradient(x, {})))(x))
    slope = (np.asarray(value(x + h)) - np.asarray(value(x - h))) / (2 * h)
    smooth = np.abs(slope) < 1e3  # no jump between the two points
    assert smooth.mean() > 0.97
    np.testing.assert_allclose(found[smooth], slope[smooth], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "bounds"), [(iaptt_toy, (1.0, 10.0)), (pbgd_toy, (0.0, 3.0))], ids=["iaptt", "pbgd"]
)
def test_x_is_kept_within_its_bounds(make, bounds):
    low, high = bounds
    found = make()[0].project_upper(jnp.array([low - 5, low, 2.5, high, high + 5]))
    assert found.tolist() == [low, low, 2.5, high, high]


def descend(problem, dynamics, num_lower_steps, x0, y0, step_size, iterations):
    """Unrolled hypergradient descent with a fixed y0, from many starts: x and y_K at the end."""
    estimate = unrolled().estimate
    lower = LowerProblem(problem, dynamics, num_lower_steps, persistent=True, task={})
    params = dynamics.init_params(num_lower_steps, y0[0])

    def one(x0, y0):
        def output(x):
            return estimate(lower, Point(x, params, y0), (), jax.random.key(0))

        def body(x, _):
            x = x - step_size * output(x).gradient.context
            return problem.project_upper(x), None

        x = jax.lax.scan(body, x0, None, length=iterations)[0]
        return x, output(x).y

    return jax.jit(jax.vmap(one))(x0, y0)


def test_pbgd_has_three_valleys_and_no_minimum_at_a_bound():
    grid = np.linspace(0, 3, 3001)
    rising = np.diff(np.asarray(reduced(pbgd_toy()[0])(grid))) > 0
    turns = grid[1:-1][rising[1:] != rising[:-1]]
    np.testing.assert_allclose(turns, np.sort([*VALLEYS, *RIDGES]), rtol=0, atol=1e-3)
    assert not rising[0]
    assert rising[-1]


def test_pbgd_gradient_descent_ends_in_the_valley_it_starts_in():
    """Every one of 400 random starts ends at a local minimum, 166 of them at the global one.

    The middle valley is 45 % of [0, 3]: that is the share to expect, whatever y0.
    """
    problem, _ = pbgd_toy()
    generator = np.random.default_rng(0)
    x0 = generator.uniform(0, 3, 400)
    y0 = generator.uniform(-5, 8.5, 400)
    assert np.abs(x0[:, None] - RIDGES).min() > 1e-4
    dynamics = compose(lower_only(), sgd(step_size=0.1))
    x, y = descend(problem, dynamics, 100, x0, y0, 0.02, 300)
    np.testing.assert_allclose(y, -x, rtol=0, atol=1e-6)
    slope = jax.jit(jax.vmap(lambda x: problem.exact.hypergradient(x, {})))
    np.testing.assert_allclose(slope(x), 0, rtol=0, atol=1e-5)
    valley = np.searchsorted(RIDGES, x0)
    np.testing.assert_allclose(x, VALLEYS[valley], rtol=0, atol=1e-6)
    assert np.sum(np.abs(x - jax.jit(problem.exact.upper_solution)({})) < 1e-6) == 166


@pytest.mark.parametrize("start", [-2.0, 2.0])
def test_iaptt_gradient_descent_ends_where_the_start_of_y_leads(start):
    """From y0 = 2 at x = 1, far from the solution; from y0 = -2 at the nearest drop of F."""
    problem, _ = iaptt_toy()
    dynamics = compose(lower_only(), projected(step_size=0.01, set="box", lower=-2.0, upper=2.0))
    x0 = np.linspace(1.05, 9.95, 16)
    x, y = descend(problem, dynamics, 300, x0, np.full(16, start), 0.02, 500)
    if start == 2.0:
        assert x.tolist() == [1.0] * 16
        np.testing.assert_allclose(y, PI / 2, rtol=0, atol=0.03)  # slow: curvature 1 at x = 1
        return
    nearest = DROPS[np.abs(x0[:, None] - DROPS).argmin(axis=1)]
    # The valley has straight sides: a fixed step goes to and fro over its bottom.
    np.testing.assert_allclose(x, nearest, rtol=0, atol=0.021)
    np.testing.assert_allclose(y, -2, rtol=0, atol=0.02)
    assert np.mean(np.abs(x - 11 * PI / 4) < 0.021) == pytest.approx(5 / 16)


def test_iaptt_lower_steps_that_hardly_move_y_carry_x_past_the_first_two_drops():
    """The authors' numbers reach the solution from y0 = -2 where a solved lower level does not."""
    problem, _ = iaptt_toy()
    dynamics = compose(lower_only(), projected(step_size=5e-4, set="box", lower=-2.0, upper=2.0))
    x0 = np.array([1.0, 1.5, 3.0, 5.0, 8.0])
    x, _ = descend(problem, dynamics, 40, x0, np.full(5, -2.0), 0.1, 500)
    np.testing.assert_allclose(x, 11 * PI / 4, rtol=0, atol=0.1)


# aggregation, then x0, y0 -> x, F at the end.
SINE_ENDS = {
    "rhg": (
        lower_only,
        [
            (0.0, 0.0, -1.71386, 20.68923),  # the authors' start
            (0.0, 2.0, -1.71386, 20.68923),
            (0.0, 4.0, 2.47493, 0.33833),  # the next basin, which is the right one
            (4.0, 4.0, 2.47493, 0.33833),
            (4.0, 0.0, -1.71386, 20.68923),  # starts in the right basin, and leaves it
        ],
    ),
    # The mix is convex in y: the start is forgotten, and F falls below F*.
    "bda": (
        lambda: descent(law="constant", alpha=0.4),
        [(x0, y0, 2.1864, 0.1346) for x0, y0 in ((0.0, 0.0), (0.0, 4.0), (4.0, 0.0))],
    ),
}


@pytest.mark.parametrize("method", SINE_ENDS)
def test_sine_gradient_descent_ends_in_the_basin_of_its_start(method):
    aggregation, table = SINE_ENDS[method]
    x0, y0, x_end, upper_end = np.array(table).T
    problem, _ = bvfsm_sine()
    dynamics = compose(aggregation(), sgd(step_size=0.2))
    x, y = descend(problem, dynamics, 100, x0, np.stack([y0, y0], axis=1), 0.1, 300)
    np.testing.assert_allclose(x, x_end, rtol=0, atol=1e-4)
    upper = jax.vmap(lambda x, y: problem.upper_objective(x, {}, y)[0])
    np.testing.assert_allclose(upper(x, y), upper_end, rtol=0, atol=1e-4)


# (factory, options, what the message must say)
REFUSED = [
    (iaptt_toy, {"upper_start": 0.5}, "upper_start=0.5 is outside [1, 10]"),
    (iaptt_toy, {"upper_start": 10.5}, "upper_start=10.5 is outside [1, 10]"),
    (iaptt_toy, {"lower_start": -2.5}, "lower_start=-2.5 is outside [-2, 2]"),
    (iaptt_toy, {"lower_start": float("nan")}, "lower_start=nan is outside [-2, 2]"),
    (bvfsm_sine, {"dimension": 0}, "dimension=0 must be at least 1"),
    (bvfsm_sine, {"target": float("nan")}, "target=nan is not a finite number"),
    (bvfsm_sine, {"shift": float("inf")}, "shift=inf is not a finite number"),
    (bvfsm_sine, {"upper_start": float("nan")}, "upper_start=nan is not a finite number"),
    (bvfsm_sine, {"lower_start": float("inf")}, "lower_start=inf is not a finite number"),
    (pbgd_toy, {"upper_start": 3.5}, "upper_start=3.5 is outside [0, 3]"),
    (pbgd_toy, {"upper_start": float("nan")}, "upper_start=nan is outside [0, 3]"),
    (pbgd_toy, {"lower_start": float("nan")}, "lower_start=nan is not a finite number"),
]


@pytest.mark.parametrize(("make", "options", "message"), REFUSED, ids=[c[2] for c in REFUSED])
def test_bad_options_are_refused(make, options, message):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*choose .*{name}=") as refusal:
        make(**options)
    # What it says to type is accepted.
    example = re.search(rf"choose .*{name}=(\S+)$", str(refusal.value))
    assert example
    make(**{name: type(options[name])(example.group(1))})
