"""Lower solvers among the other choices: what is refused beside them, and runs with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.from_objectives import persistent_source
from bilevel.hypergradients import (
    finite_difference,
    first_order,
    forward,
    implicit,
    one_step,
    reptile,
    truncated,
    unrolled,
    warp_grad,
)
from bilevel.lower_solvers import gradient_descent, lbfgs, projected_gradient
from bilevel.refusals import refuse
from bilevel.shapes import shapes_of
from src.certification.cases import CASES
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, linear_few_shot, python, read_metrics
from tests.test_lower_solvers import (
    CONSTRAINED,
    HESSIAN,
    KEY,
    SOLVERS,
    X,
    assert_close,
    lower_of,
    point_at,
)


@pytest.mark.parametrize(
    "estimator",
    [
        unrolled(),
        unrolled(checkpoints="sqrt"),
        truncated(keep_last=1),
        one_step(),
        forward(max_scalars=10),
        first_order(),
        finite_difference(),
        warp_grad(),
    ],
    ids=lambda estimator: estimator.name,
)
@pytest.mark.parametrize("name", ["lbfgs", "gradient_descent", "projected"])
def test_what_differentiates_through_steps_is_refused(estimator, name):
    case = CASES["ridge"]()
    lower = lower_of(case.problem, (), SOLVERS[name])
    with pytest.raises(ValueError, match="line search has no derivative; choose") as refusal:
        refuse(estimator, lower, shapes_of(case.problem, case.source, "train"))
    message = str(refusal.value)
    assert message.startswith(f"{estimator.name} differentiates through the lower steps, but ")
    assert "lower_optimizer=" in message
    assert "hypergradient=implicit_cg" in message
    assert "lower_optimizer=sgd" in message


def test_reptile_is_right_with_any_way_to_the_solution():
    """Its gradient is y_0 - y_K."""
    problem = CONSTRAINED._replace(
        init_upper=lambda key: jnp.zeros(4), init_lower=lambda key, x: x, learned_start=True
    )
    problem = problem._replace(prepare=lambda x, task: jnp.asarray(X))
    lower = lower_of(problem, {"hessian": HESSIAN}, SOLVERS["gradient_descent"])
    source = persistent_source({"hessian": jnp.asarray(HESSIAN)})
    refuse(reptile(), lower, shapes_of(problem, source, "train"))
    point = point_at(lower, jnp.asarray(X), jnp.full(4, 0.1))
    output = jax.jit(lambda point: reptile().estimate(lower, point, (), KEY))(point)
    assert_close(output.gradient.y0, 0.1 - np.linalg.solve(HESSIAN, X), 1e-8)


def test_mini_batches_are_refused():
    case = CASES["cleaning"]()
    lower = lower_of(case.problem, (), SOLVERS["lbfgs"])
    with pytest.raises(ValueError, match=r"mini-batches never come to rest; .*batch_size=null"):
        refuse(implicit(), lower, shapes_of(case.problem, case.source, "train"))


def test_a_tolerance_below_that_of_the_solver_is_refused():
    case = CASES["ridge"]()
    lower = lower_of(case.problem, (), lbfgs(tolerance=1e-4))
    shapes = shapes_of(case.problem, case.source, "train")
    refuse(implicit(lower_tolerance=1e-4), lower, shapes)
    with pytest.raises(ValueError, match=r"lower_tolerance=1e-06.*lower_optimizer.tolerance=1e-06"):
        refuse(implicit(lower_tolerance=1e-6), lower, shapes)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (lbfgs, {"tolerance": 0.0}, "^tolerance=0.0"),
        (lbfgs, {"tolerance": float("nan")}, "^tolerance=nan"),
        (lbfgs, {"history": 0}, "^history=0"),
        (gradient_descent, {"tolerance": float("inf")}, "^tolerance=inf"),
        (projected_gradient, {"set": "ball", "radius": 1.0, "tolerance": -1.0}, "^tolerance=-1.0"),
        (projected_gradient, {"set": "ball"}, "^radius=None .*set=ball"),
        (projected_gradient, {"set": "box", "lower": 1.0, "upper": 0.0}, "^lower=1.0"),
    ],
)
def test_bad_options_are_refused_by_name(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**options)


# ---- runs ----


@pytest.mark.slow
def test_hoag_on_regularisation_as_the_paper_does_it(tmp_path):
    """The minimum of h on a grid is 0.06202."""
    run(config_of("experiment=hoag_regularisation", *QUIET), tmp_path)
    rows = read_metrics(tmp_path)
    last = rows[-1]
    assert last["validation/value_function"] == pytest.approx(0.062023, abs=1e-6)
    assert last["validation/value_function_gradient_norm"] < 1e-7
    for row in rows:
        # Means over the iterations since the last row; the tolerance of its first bounds them.
        tolerance = 0.1 * 0.9 ** (row["step"] - 10)
        assert row["train/lower_residual"] <= max(tolerance, 1e-8)
        assert row["train/linear_residual"] <= max(tolerance, 1e-8)
        assert row["train/lower_steps"] < 20


def test_a_run_reports_how_far_its_lower_level_got(tmp_path):
    chosen = ["method=hoag", "lower_optimizer=gradient_descent", "dtype=float64"]
    base = ["problem=ridge", *QUIET, "num_iterations=20", "hypergradient.tolerance_decay=1.0"]
    run(config_of(*base, *chosen, "lower_start=warm"), tmp_path)
    rows = [row for row in read_metrics(tmp_path) if not row.get("end_of_run")]
    assert [row["step"] for row in rows] == [10, 20]
    assert max(row["train/lower_residual"] for row in rows) <= 1e-6
    assert rows[-1]["train/lower_steps"] < rows[0]["train/lower_steps"] < 100


def test_configurations_that_go_with_a_solver():
    base = ["problem=regularisation", *QUIET, "lower_optimizer=lbfgs"]
    implicit = ["method=bda", "hypergradient=implicit_cg"]
    build(config_of(*base, "method=hoag", "lower_start=warm"))
    build(config_of(*base, *implicit, "aggregation.law=constant"))
    with pytest.raises(UserError, match="lower_optimizer=lbfgs runs a solver to a tolerance"):
        build(config_of(*base, "method=rhg"))
    with pytest.raises(UserError, match="weights of F and f change from step to step"):
        build(config_of(*base, *implicit))


def test_imaml_may_solve_its_lower_level(omniglot_folder):
    base = [*linear_few_shot(omniglot_folder), "method=imaml"]
    experiment = build(config_of(*base, "lower_optimizer=lbfgs"))
    assert experiment.test_dynamics.tolerance == 1e-6


def test_the_library_imports_without_jaxopt_and_without_a_warning():
    program = "import sys, bilevel; print('jaxopt' in sys.modules)"
    done = python("-W", "error::DeprecationWarning", "-c", program, PYTHONPATH="src")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
