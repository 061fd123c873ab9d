"""BOLIB's problems: formulas in text, boxes from constraints, bounds of y, known answers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel.dynamics import confined
from bilevel.lower_optimizers import projected, sgd
from bilevel.methods import rhg
from src.data.bolib import as_text, entries, instance, with_boxes_alone
from src.data.expressions import formula, names_of
from src.problems.bolib import bolib
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

X, Y = np.array([0.3, -1.2]), np.array([0.7, 2.0, -0.4])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*x1 - 3*y2", 2 * 0.3 - 3 * 2.0),
        ("-x2**2 / (1 + y1)", -(1.2**2) / 1.7),
        (
            "exp(x1) + sin(y3)*cos(x2) - log(y2)",
            np.exp(0.3) + np.sin(-0.4) * np.cos(-1.2) - np.log(2),
        ),
        ("sqrt(y3**2) + +1.5e-1", 0.55),
        ("7", 7.0),
    ],
)
def test_a_formula_is_what_it_says(text, value):
    assert float(formula(text)(X, Y)) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["x1 +", "z1", "x0", "x", "__import__('os')", "x1.real", "[x1]", "x1 if y1 else 2", "tan(x1)"],
)
def test_nothing_else_is_a_formula(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        formula(text)


def test_every_formula_of_the_file_can_be_read():
    assert len(entries()) == 81
    for entry in entries().values():
        for text in (entry["F"], entry["f"], *entry["G"], *entry["g"]):
            sizes = {"x": len(entry["x0"]), "y": len(entry["y0"])}
            assert all(int(name[1:]) <= sizes[name[0]] for name in names_of(text))


def test_boxes_are_those_of_the_constraints():
    assert len(with_boxes_alone()) == 14
    for name in with_boxes_alone():
        found, entry = instance(name), entries()[name]
        for constraints, box, letter in (
            (entry["G"], found.x_box, "x"),
            (entry["g"], found.y_box, "y"),
        ):
            rng = np.random.default_rng(0)
            for _ in range(50):
                point = rng.normal(scale=2.0, size=len(box.lower))
                inside = np.all((box.lower <= point) & (point <= box.upper))
                values = [
                    float(formula(text)(jnp.asarray(point), jnp.asarray(point)))
                    for text in constraints
                ]
                assert inside == (max(values, default=-1.0) <= 0), (name, letter)


@pytest.mark.parametrize("name", entries())
def test_the_starts_are_inside(name):
    problem, _ = bolib(instance=name)
    x = problem.init_upper(jax.random.key(0))
    y = problem.init_lower(jax.random.key(0), x)
    np.testing.assert_array_equal(problem.project_upper(x), x)
    if problem.project_lower is not None:
        np.testing.assert_array_equal(problem.project_lower(y), y)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Lampariello", "instance=Lampariello is no problem of BOLIB; the nearest are Lampariello"),
        ("?", "instance=? is no problem of BOLIB; the nearest are "),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bolib(instance=name)


def test_constraints_that_are_no_boxes_are_penalties():
    """Of its constraints those with x and y in them; -x1 <= 0 and -y1 <= 0 are bounds."""
    found = instance("Bard1984b")
    assert len(found.g) == 4
    assert not found.G
    assert set(found.g) <= set(entries()["Bard1984b"]["g"])
    problem, _ = bolib(instance="Bard1984b", constraint_weight=7.0)
    x, y = jnp.asarray([20.0]), jnp.asarray([30.0])
    values = np.array([float(formula(text)(x, y)) for text in found.g])
    squares = 3.5 * np.sum(np.maximum(values, 0) ** 2)
    assert squares > 0
    lower = problem.lower_objective(x, {}, y) - formula(found.f)(x, y)
    upper = problem.upper_objective(x, {}, y)[0] - formula(found.F)(x, y)
    np.testing.assert_allclose([lower, upper], [squares, squares])
    scores = problem.evaluate(x, x, {}, y)
    assert float(scores["lower_violation"]) == values.max()
    # By F alone the best state would be one that is not feasible.
    np.testing.assert_allclose(scores["penalised_upper_loss"], squares + formula(found.F)(x, y))


def test_without_constraints_nothing_is_penalised():
    problem, _ = bolib(instance="HatzEtal2013")
    x, y = jnp.asarray([0.3]), jnp.asarray([0.1, 0.2])
    value = problem.upper_objective(x, {}, y)[0]
    np.testing.assert_allclose(problem.evaluate(x, x, {}, y)["penalised_upper_loss"], value)


def test_bounds_of_y_may_be_penalties_too():
    found = instance("HatzEtal2013")
    texts = as_text(found.y_box)
    point = jnp.asarray([-0.5, 2.0])
    assert [float(formula(text)(point, point)) for text in texts] == [0.5, -2.0]
    problem, _ = bolib(instance="HatzEtal2013", lower_bounds="penalty", constraint_weight=10.0)
    assert problem.project_lower is None
    assert float(problem.lower_objective(jnp.zeros(1), {}, point)) == pytest.approx(
        float(formula(found.f)(jnp.zeros(1), point)) + 5 * 0.25
    )


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match=f"^constraint_weight={weight} must be positive"):
        bolib(instance="Bard1984b", constraint_weight=weight)


def test_a_run_ends_at_the_known_answer(tmp_path):
    """min x^2 + y^2 with y = 1 - x: x = y = 1/2, F = 1/2."""
    result = run(config_of("problem=bolib", "method=rhg", *QUIET), tmp_path / "run")
    assert result["validation/upper_gap"] == pytest.approx(0.0, abs=1e-4)


def test_y_stays_inside_and_is_differentiated_there(tmp_path):
    """y minimises (x - y1)^2 + y2^2 over y >= 0, F = -x + 2 y1 + y2 = x for x >= 0: x* = 0."""
    options = ["problem=bolib", "problem.instance=HatzEtal2013", *QUIET]
    for method in ("rhg", "hoag", "f2sa"):
        result = run(config_of(*options, f"method={method}"), tmp_path / method)
        # F falls with x below 0, where y1 = 0: x moves around its kink by a step of size 0.05.
        assert abs(result["validation/upper_gap"]) < 0.06, method


def test_bounds_of_y_are_the_projection_of_the_lower_steps():
    onto = lambda y: jnp.clip(y, 0, 1)  # noqa: E731
    optimizer = confined(sgd(step_size=0.5), onto)
    y, _ = optimizer.update(
        {}, jnp.asarray([4.0, -4.0]), optimizer.init({}, Y, None), jnp.ones(2) / 2, 1, None
    )
    np.testing.assert_array_equal(y, [0.0, 1.0])
    assert optimizer.projection is onto
    assert confined(sgd(step_size=0.5), None).projection is None
    with pytest.raises(ValueError, match="choose lower_optimizer=sgd"):
        confined(projected(step_size=0.1, set="ball", radius=1.0), onto)


def test_bounds_of_y_in_python():
    """y*(x) = min(x, 1), F = (y - 2)^2 + (x - 3)^2 / 10: the slope through y is 0 beyond x = 1."""
    problem = bilevel.problem(
        lambda x, y: jnp.sum((y - x) ** 2) / 2,
        lambda x, y: jnp.sum((y - 2) ** 2 + (x - 3) ** 2 / 10),
        upper_start=jnp.asarray([0.5, 2.0]),
        lower_start=jnp.zeros(2),
        project_lower=lambda y: jnp.clip(y, -1, 1),
    )
    found = bilevel.hypergradient(
        problem, rhg(num_lower_steps=200, step_size=0.5), jnp.asarray([0.5, 2.0])
    )
    np.testing.assert_allclose(found.y, [0.5, 1.0], atol=1e-12)
    np.testing.assert_allclose(found.gradient, [2 * (0.5 - 2) - 0.5, -0.2], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"project_lower": 3},
            TypeError,
            "project_lower=3 must be a function of y, such as lambda y:",
        ),
        ({"project_lower": lambda y: y[:1]}, ValueError, "project_lower(y)"),
        ({"project": 3}, TypeError, "project=3 must be a function of x, such as lambda x:"),
    ],
)
def test_projections_of_another_kind_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        bilevel.problem(
            lambda x, y: jnp.sum((y - x) ** 2),
            lambda x, y: jnp.sum(y**2),
            upper_start=jnp.zeros(2),
            lower_start=jnp.zeros(2),
            **options,
        )


def test_a_set_beside_the_bounds_of_the_problem_is_refused():
    options = ["problem=bolib", "problem.instance=HatzEtal2013", "method=rhg", *QUIET]
    with pytest.raises(
        UserError, match=r"keeps y inside its bounds itself.*choose lower_optimizer=sgd"
    ):
        build(config_of(*options, "lower_optimizer=lbfgs"))
