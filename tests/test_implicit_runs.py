"""Runs with implicit estimators: where they end, what they report, and when they stop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from src.running.run import run
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, linear_few_shot, read_metrics

COUNTEREXAMPLE = ["problem=counterexample", *QUIET, "num_iterations=200"]
RIDGE = ["problem=ridge", *QUIET, "num_iterations=60", "eval_every=60", "dtype=float64"]


def test_damping_gives_a_finite_answer_and_reports_what_it_changed(tmp_path):
    """Counter-example: y2 is free below, so no damping makes the implicit gradient right."""
    run(config_of(*COUNTEREXAMPLE, "method=hoag", "hypergradient.damping=0.1"), tmp_path)
    rows = read_metrics(tmp_path)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert max(row["train/linear_residual"] for row in rows) < 0.2
    # The part of grad_y F along y2 is out of reach of the undamped system.
    assert rows[0]["train/undamped_residual"] > 0.1


def test_imaml_is_the_unrolled_gradient_where_the_lower_level_is_solved(omniglot_folder, tmp_path):
    """The proximal term makes the Hessian regular, so no damping is left to bias the gradient."""
    overrides = [
        *linear_few_shot(omniglot_folder),
        "method.lower_variable=all",
        "method.learn_start=true",
        "proximal_weight=5.0",  # enough to make a bilinear f convex near its centre
        "num_lower_steps=400",
        "num_iterations=1",
        "log_every=1",
        "dtype=float64",
    ]
    norms = []
    for method in ("method=rhg", "method=hoag"):
        solver = ["hypergradient.solver.tolerance=1e-10"] if method == "method=hoag" else []
        run(config_of(*overrides, method, *solver), tmp_path / method)
        norms.append(read_metrics(tmp_path / method)[0]["train/hypergradient_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)


def test_a_constant_law_makes_the_singular_problem_regular(tmp_path):
    """With F in the lower step its Hessian is positive: BDA's fixed point, without unrolling."""
    config = config_of(*COUNTEREXAMPLE, "method=bda", "hypergradient=implicit_cg")
    result = run(config, tmp_path)
    assert result["upper_variable"][0] == pytest.approx(1.0, abs=1e-5)
    assert result["validation/upper_loss"] < 1e-9


@pytest.mark.parametrize("lower_start", ["fixed", "warm"])
def test_hoag_follows_the_true_gradient_with_few_warm_steps(lower_start, tmp_path):
    """Tolerances shrink with the iteration and the solve starts from the last q."""
    steps = {"fixed": 200, "warm": 20}[lower_start]
    overrides = [f"lower_start={lower_start}", f"num_lower_steps={steps}"]
    run(config_of(*RIDGE, "method=hoag", *overrides), tmp_path)
    rows = read_metrics(tmp_path)
    residuals = [row["train/linear_residual"] for row in rows]
    assert residuals[-1] < 0.1 * residuals[0]
    assert rows[-1]["train/hypergradient_error"] < 0.05


def test_lower_steps_stop_early_at_their_tolerance(tmp_path):
    options = ["method=hoag", "hypergradient.lower_tolerance=0.01", "num_lower_steps=500"]
    run(config_of(*RIDGE, *options, "hypergradient.tolerance_decay=1.0"), tmp_path)
    for row in read_metrics(tmp_path):
        assert 1 < row["train/lower_steps"] < 499
        assert row["train/stationarity_norm"] <= 0.01


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["method=neumann", "hypergradient.solver.step_size=5.0"], "linear_residual"),
        # The lower level itself diverges: that is named first.
        (["method=hoag", "lower_optimizer.step_size=9.0", "num_lower_steps=4000"], "lower_loss"),
    ],
)
def test_a_solve_that_fails_stops_the_run_with_the_remedy(options, name, tmp_path):
    with pytest.raises(UserError, match=rf"train/{name} .* at iteration 1") as stop:
        run(config_of(*RIDGE, *options), tmp_path)
    if name == "linear_residual":
        assert "max_residual=1" in str(stop.value)
        assert "damping" in str(stop.value)
        assert "hypergradient=unrolled" in str(stop.value)


def test_a_resumed_run_keeps_the_carry_of_its_linear_solves(tmp_path):
    base = [*RIDGE, "method=hoag", "checkpoint_every=10"]
    whole = run(config_of(*base, "num_iterations=40"), tmp_path / "whole")
    run(config_of(*base, "num_iterations=20"), tmp_path / "parts")
    parts = run(config_of(*base, "num_iterations=40"), tmp_path / "parts")
    assert parts["upper_variable"] == whole["upper_variable"]


def test_rounding_outside_of_a_face_does_not_break_conjugate_gradients():
    """Near a solution grad F is nearly normal to the face, and what float32 leaves there counts."""
    wanted = np.array([0.5, 0.3, 0.2, 0.0, 0.0], np.float32)
    with jax.enable_x64(False):
        costs = bilevel.problem(
            lambda x, y: x @ y + 0.25 * jnp.sum(y**2),
            lambda x, y: 0.5 * jnp.sum((y - wanted) ** 2),
            upper_start=jnp.linspace(0.0, 0.4, 5)[::-1],
            lower_start=jnp.full(5, 0.2),
            project_lower=optax.projections.projection_simplex,
        )
        hoag = bilevel.methods.hoag(
            tolerance=1e-6, tolerance_decay=1.0, step_size=0.5, num_lower_steps=50
        )
        found = bilevel.minimize(costs, hoag, optimizer=optax.adam(0.05), num_iterations=400)
    assert found.history["linear_residual"].max() < 1e-3
    # The best y of this face: no derivative leads from it to another one.
    np.testing.assert_allclose(found.y, [0, 0, 0.4667, 0.2667, 0.2667], atol=1e-2)


def test_a_warm_start_hands_on_no_rounding_outside_of_a_ball():
    """y is on the sphere, where the radius is singular: what lay there doubled from solve to solve.

    The best y is wanted / |wanted| / 2.
    """
    wanted = np.array([1.0, 2.0, 0.0, 0.0, 1.0])

    def inside(y):
        return optax.projections.projection_l2_ball(y, 0.5)

    costs = bilevel.problem(
        lambda x, y: x @ y + 0.25 * jnp.sum(y**2),
        lambda x, y: 0.5 * jnp.sum((y - wanted) ** 2),
        upper_start=jnp.linspace(0.0, 0.4, 5)[::-1],
        lower_start=inside(jnp.full(5, 0.2)),
        project_lower=inside,
    )
    hoag = bilevel.methods.hoag(
        tolerance=1e-6,
        tolerance_decay=1.0,
        step_size=0.5,
        num_lower_steps=50,
        lower_start="warm",
    )
    found = bilevel.minimize(costs, hoag, optimizer=optax.adam(0.05), num_iterations=600)
    assert found.history["linear_residual"].max() < 1e-5
    np.testing.assert_allclose(found.y, wanted / np.linalg.norm(wanted) / 2, atol=1e-8)
