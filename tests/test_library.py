"""`import bilevel`: what a stranger gets from an installed wheel."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel.methods import Method
from tests.conftest import ROOT, config_of, python
from tests.small_problem import f, problem


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The script's results, with the package of a wheel and from a folder of its own."""
    folder = tmp_path_factory.mktemp("stranger")
    # A copy, so that building leaves nothing behind in the checkout.
    shutil.copytree(ROOT / "src/bilevel", folder / "checkout/src/bilevel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "checkout")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(folder / "checkout")], check=True, capture_output=True)
    (wheel,) = folder.glob("bilevel-*.whl")
    install = ["install", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    script = folder / "script.py"
    script.write_text((ROOT / "tests/library_script.py").read_text("utf-8"), "utf-8")
    done = python(str(script), cwd=folder, PYTHONPATH=str(folder / "site"))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["file"].startswith(str(folder / "site"))
    return results


def test_the_import_brings_no_configuration(stranger):
    assert stranger["imported"] == []


def test_the_counter_example_is_solved_by_bda_alone(stranger):
    assert stranger["rhg"] == pytest.approx([0.5, 0.25], abs=1e-6)
    assert stranger["bda"] == pytest.approx([1.0, 0.0], abs=1e-5)
    # No data: nothing is called a test.
    assert stranger["rhg scores"] == ["validation/lower_loss", "validation/upper_loss"]


def test_rows_are_learned_from_and_held_out(stranger):
    first, last = stranger["ridge history"]
    assert last < first
    assert {"validation/upper_loss", "test/upper_loss", "test/largest"} < set(stranger["ridge"])
    assert stranger["ridge"]["test/upper_loss"] != stranger["ridge"]["validation/upper_loss"]


def test_one_estimate_is_the_same_by_vmap_and_grad_and_is_the_slope(stranger):
    assert stranger["vmap"] == pytest.approx(stranger["estimates"], rel=1e-3)
    assert stranger["grad"] == pytest.approx(stranger["estimates"], rel=1e-3)
    assert stranger["difference"] == pytest.approx(stranger["estimates"], rel=1e-2)


def test_everything_may_be_made_inside_jit(stranger):
    assert abs(stranger["bda at the solution"]) < 1e-5


def test_a_loop_of_ones_own(stranger):
    assert np.isfinite(stranger["own loop"]).all()


def test_a_library_run_is_the_run_of_the_command_line(tmp_path):
    """The same method, problem and seed give the same numbers; there is no private door."""
    from src.problems.ridge import ridge
    from src.running.run import run
    from src.settings.config import call, check_node

    config = config_of(
        "problem=ridge",
        "method=rhg",
        "dtype=float64",
        "num_iterations=7",
        "num_lower_steps=9",
        "logger=[jsonl]",
        "compilation_cache=false",
    )
    by_command = run(config, tmp_path)
    own = bilevel.Problem(*ridge(call(check_node("data", config["data"])), penalty="per_feature"))
    method = bilevel.methods.rhg(
        num_lower_steps=9, step_size=config["lower_optimizer"]["step_size"]
    )
    optimizer = call(check_node("upper_optimizer", config["upper_optimizer"]))
    found = bilevel.minimize(own, method, optimizer=optimizer, num_iterations=7)
    np.testing.assert_allclose(found.x, by_command["upper_variable"], rtol=1e-12)
    assert found.upper_loss == pytest.approx(by_command["validation/upper_loss"], rel=1e-12)


def test_a_library_run_on_a_stream_of_tasks_is_that_of_the_command_line(tmp_path):
    """BDA descends the query labels in training, and never in scores."""
    from src.models.mlp import mlp
    from src.problems.adapting_network import Roles
    from src.problems.sine import sine
    from src.running.run import run

    config = config_of(
        "problem=sine",
        "method=maml_bda",
        "dtype=float64",
        "model.hidden_sizes=[4]",
        "num_iterations=3",
        "num_lower_steps=2",
        "meta_batch_size=2",
        "num_validation_tasks=5",
        "num_test_tasks=5",
        "logger=[jsonl]",
        "compilation_cache=false",
    )
    by_command = run(config, tmp_path)
    model = mlp(hidden_sizes=(4,), normalise=False)
    options = {k: config["problem"][k] for k in ("shots", "queries", "head_init")}
    own = bilevel.Problem(*sine(model, Roles("all", True), **options))
    choices = config["aggregation"]
    method = bilevel.methods.bda(
        law=choices["law"],
        alpha=choices["alpha"],
        num_lower_steps=2,
        step_size=config["lower_optimizer"]["step_size"],
    )
    from src.settings.config import call, check_node

    optimizer = call(check_node("upper_optimizer", config["upper_optimizer"]))
    found = bilevel.minimize(
        own,
        method,
        optimizer=optimizer,
        num_iterations=3,
        meta_batch_size=2,
        num_scored_tasks=5,
    )
    for name in ("validation/upper_loss", "test/upper_loss", "test/lower_loss"):
        assert found.scores[name] == pytest.approx(by_command[name], rel=1e-10), name


def test_every_method_moves_x_or_is_refused():
    learned = bilevel.problem(
        lambda x, y, task: jnp.sum((y - task) ** 2),
        lambda x, y, task: jnp.sum((y + task) ** 2) + 0.1 * jnp.sum(x**2),
        upper_start=jnp.ones(2),
        lower_start=lambda key, x: 2 * x,
        task=lambda key: jax.random.normal(key, (2,)),
    )
    fixed = problem()
    for name in ("rhg", "trhg", "bda", "hoag", "neumann", "darts", "fomaml", "reptile", "imaml"):
        method: Method = getattr(bilevel.methods, name)(num_lower_steps=4, step_size=0.05)
        moved, refused = [], []
        for each in (learned, fixed):
            try:
                found = bilevel.minimize(each, method, optimizer=optax.sgd(0.1), num_iterations=2)
            except ValueError as error:
                refused.append(str(error))
                continue
            start = each.problem.init_upper(jax.random.key(0))
            moved.append(bool(jnp.any(found.x != start)))
        assert moved, refused
        assert all(moved), name
        assert all("would never be learned" in reason for reason in refused), refused


def test_learned_parameters_of_the_lower_step_get_a_gradient():
    method = bilevel.methods.bda(alpha=0.3, learn=("alpha",), num_lower_steps=4)
    found = bilevel.hypergradient(problem(), method, 0.5)
    assert float(found.dynamics_gradient["aggregation"]["alpha"]) != 0
    learned = bilevel.minimize(
        problem(), method, optimizer=optax.sgd(0.1), num_iterations=3
    ).learned
    assert float(learned["aggregation"]["alpha"]) != 0.3


def test_a_start_may_be_given_and_is_then_no_function_of_x():
    method = bilevel.methods.rhg(num_lower_steps=2, step_size=0.01)
    near, far = (
        bilevel.hypergradient(problem(), method, 0.5, y0=jnp.full(2, value)) for value in (0.0, 3.0)
    )
    assert float(near.value) != float(far.value)
    with pytest.raises(ValueError, match=r"y0 has shape \(3,\), but lower_start has shape \(2,\)"):
        bilevel.hypergradient(problem(), method, 0.5, y0=jnp.zeros(3))


def test_a_zero_hypergradient_is_warned_of():
    """At y = 0 the penalty x |y|^2 has no slope in y, so one lower step hides x from F."""
    with pytest.warns(UserWarning, match="exactly zero in the first iteration"):
        bilevel.minimize(
            problem(),
            bilevel.methods.rhg(num_lower_steps=1),
            optimizer=optax.sgd(0.1),
            num_iterations=1,
        )


def test_numbers_that_leave_the_finite_stop_with_their_iteration():
    wild = bilevel.methods.rhg(num_lower_steps=400, step_size=1e6)
    with pytest.raises(FloatingPointError, match=r"lower_loss became .* at iteration 1: smaller"):
        bilevel.minimize(problem(), wild, optimizer=optax.sgd(0.1), num_iterations=2)
    poor = bilevel.methods.hoag(max_steps=1, tolerance=1e-9, step_size=1e-3)
    skewed = problem(lambda x, y, rows: f(x, y * jnp.array([1.0, 100.0]), rows), upper_start=1e-3)
    limited = poor._replace(
        hypergradient=poor.hypergradient._replace(
            limits={
                name: limit._replace(bound=1e-12)
                for name, limit in poor.hypergradient.limits.items()
            }
        )
    )
    with pytest.raises(FloatingPointError, match=r"linear_residual .* the linear solve left"):
        bilevel.minimize(skewed, limited, optimizer=optax.sgd(1e-9), num_iterations=1)


def test_a_singular_hessian_is_named_and_not_the_steps():
    """y["b"] does not occur in f."""
    singular = bilevel.problem(
        lambda x, y: 0.5 * y["a"] ** 2 - x * y["a"],
        lambda x, y: 0.5 * (x - y["b"]) ** 2 + 0.5 * (y["a"] - 1) ** 2,
        upper_start=0.0,
        lower_start={"a": 0.0, "b": 0.0},
    )
    hoag = bilevel.methods.hoag(step_size=0.5, num_lower_steps=10)
    with pytest.raises(FloatingPointError, match=r"linear_residual became nan .* damping"):
        bilevel.minimize(singular, hoag, optimizer=optax.sgd(0.5), num_iterations=50)


@pytest.mark.parametrize(
    ("name", "words"), [("maml", "maml is rhg on a problem with"), ("mml", "no attribute 'mml'$")]
)
def test_a_method_with_a_learned_start_is_the_problems(name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(bilevel.methods, name)


def test_a_penalty_that_f_escapes_stops_with_its_weight():
    """F = -y^4 falls faster than 10 (y - x)^2 rises."""
    unbounded = bilevel.problem(
        lambda x, y: (y - x) ** 2, lambda x, y: -(y**4), upper_start=1.0, lower_start=0.5
    )
    pbgd = bilevel.methods.pbgd(num_lower_steps=2, weight=10.0)
    with pytest.raises(FloatingPointError, match=r"has the weight 10: .* hypergradient\.weight"):
        bilevel.minimize(unbounded, pbgd, optimizer=optax.sgd(0.1), num_iterations=200)


@pytest.mark.parametrize("name", ["upper_start", "lower_start"])
def test_a_start_outside_the_bounds_is_projected_and_said(name):
    starts = {"upper_start": 0.5, "lower_start": 0.5, name: 3.0}

    def make():
        return bilevel.problem(
            lambda x, y: (y - x) ** 2,
            lambda x, y: y**2,
            project=lambda x: jnp.clip(x, 0, 1),
            project_lower=lambda y: jnp.clip(y, 0, 1),
            **starts,
        )

    with pytest.warns(UserWarning, match=f"{name} lies outside the bounds, by 2 in an entry"):
        made = make().problem
    x = made.init_upper(jax.random.key(0))
    start = x if name == "upper_start" else made.init_lower(jax.random.key(0), x)
    assert float(start) == 1.0
    starts[name] = 1.0
    make()  # on the edge: no warning, which would be an error here
    assert jax.jit(lambda value: bilevel.problem(
        lambda x, y: (y - x) ** 2, lambda x, y: y**2, upper_start=value, lower_start=0.0,
        project=lambda x: jnp.clip(x, 0, 1),
    ).problem.init_upper(jax.random.key(0)))(3.0) == 1.0  # fmt: skip


def test_a_warm_start_needs_one_task():
    stream = bilevel.problem(
        lambda x, y, task: jnp.sum((y - x - task) ** 2),
        lambda x, y, task: jnp.sum(y**2),
        upper_start=0.0,
        lower_start=0.0,
        task=lambda key: jax.random.normal(key, ()),
    )
    warm = bilevel.methods.rhg(lower_start="warm")
    with pytest.raises(ValueError, match="lower_start=warm"):
        bilevel.minimize(stream, warm, optimizer=optax.sgd(0.1), num_iterations=1)


def test_a_start_that_is_drawn_outside_its_bounds_is_projected():
    problem = bilevel.problem(
        lambda x, y: (y - x) ** 2,
        lambda x, y: (y - 3) ** 2,
        upper_start=lambda key: 5.0 + jax.random.uniform(key),
        lower_start=0.0,
        project=lambda x: jnp.clip(x, 0, 1),
    )
    assert problem.problem.init_upper(jax.random.key(0)) == 1.0
