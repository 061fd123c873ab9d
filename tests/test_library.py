"""`import bilevel`: what a stranger gets from an installed wheel, and what is refused."""

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

ROWS = {"inputs": np.ones((6, 2)), "targets": np.arange(6.0)}
DATA = {"train": ROWS, "validation": ROWS}
RHG = bilevel.methods.rhg(num_lower_steps=3)


def f(x, y, rows):
    """f(x, y) = mean square + penalty"""
    return jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2) + x * jnp.sum(y**2)


def F(x, y, rows):
    return jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2)


def problem(lower=f, upper=F, **changed):
    options = {"upper_start": 0.5, "lower_start": jnp.zeros(2), **DATA, **changed}
    return bilevel.problem(lower, upper, **options)


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


WRONG = {
    "f returns a tuple": (
        {"lower": lambda x, y, rows: (f(x, y, rows), {})},
        "f returns a tuple of 2.*only F may return metrics",
    ),
    "F returns a triple": (
        {"upper": lambda x, y, rows: (F(x, y, rows), {}, 1.0)},
        r"F returns a tuple of 3; return one scalar, or \(scalar, \{name: scalar\}\)",
    ),
    "F returns (value, array)": (
        {"upper": lambda x, y, rows: (F(x, y, rows), y)},
        "F returns .value, ShapeDtypeStruct., but the second part must be metrics",
    ),
    "f is a vector": ({"lower": lambda x, y, rows: x * y}, r"f has shape \(2,\).*jnp.sum"),
    "F is a vector": ({"upper": lambda x, y, rows: y}, r"F has shape \(2,\).*jnp.sum"),
    "f returns None": ({"lower": lambda x, y, rows: None}, "f returns None; is its `return`"),
    "F returns an integer": (
        {"upper": lambda x, y, rows: jnp.argmax(y)},
        "F returns int.*which has no gradient",
    ),
    "a metric is a vector": (
        {"upper": lambda x, y, rows: (F(x, y, rows), {"each": y})},
        r"F's metric 'each' has shape \(2,\)",
    ),
    "too few arguments": (
        {"lower": lambda x, y: jnp.sum(y)},
        r"f cannot be called as f\(x, y, rows\): too many positional arguments",
    ),
    "text": (
        {"train": {**ROWS, "names": np.array(["a"] * 6)}},
        r"train\['names'\] holds text, but data must be numbers",
    ),
    "objects": ({"train": {"inputs": object()}}, r"train\['inputs'\] holds a object"),
    "no data in a part": ({"train": {}}, "train holds no array"),
    "test without train": (
        {"train": None, "validation": None, "test": ROWS},
        "train is missing beside test: f sees rows of train",
    ),
    "train alone": ({"validation": None}, "validation is missing beside train"),
    "task beside rows": ({"task": {"a": 1.0}}, "task and train are given"),
    "another test": (
        {"test": {"inputs": np.ones((4, 3)), "targets": np.ones(4)}},
        r"test\['inputs'\] has rows of shape \(3,\), but validation\['inputs'\] .*\(2,\)",
    ),
    "rows that differ": (
        {"train": {**ROWS, "inputs": np.ones((5, 2))}, "batch_size": 2},
        r"train\['inputs'\] has 5 rows and train\['targets'\] has 6",
    ),
    "an empty part": ({"test": {**ROWS, "inputs": np.ones((0, 2))}}, r"test\['inputs'\] has shape"),
    "a metric named like F": (
        {"upper": lambda x, y, rows: (F(x, y, rows), {"upper_loss": 1.0 * x})},
        "F's metric 'upper_loss' has the name of F",
    ),
    "no rows": ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    "integers above": ({"upper_start": 1}, "x holds int.*make it floats"),
    "integers below": ({"lower_start": np.zeros(2, int)}, "y holds int.*make it floats"),
    "nothing above": ({"upper_start": {}}, "x is empty"),
    "a projection of another form": (
        {"project": lambda x: {"x": x}},
        r"project\(x\) is PyTreeDef.*but x is",
    ),
    "a start of three": (
        {"lower_start": lambda a, b, c: a},
        "lower_start is a function of 3 arguments",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name):
    changed, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        problem(**changed)
    assert "\n" not in str(refused.value)


RHG_OF = bilevel.methods.rhg
MISTAKES = {
    "a name": (lambda: bilevel.hypergradient(problem(), "rhg", 0.5), "method is 'rhg', but must"),
    "not called": (lambda: bilevel.hypergradient(problem(), RHG_OF, 0.5), "method is a function"),
    "swapped": (lambda: bilevel.hypergradient(RHG, problem(), 0.5), "method is a Problem"),
    "two functions": (lambda: bilevel.hypergradient((f, F), RHG, 0.5), "problem is a tuple"),
    "optimizer": (
        lambda: bilevel.minimize(problem(), RHG, optimizer=optax.adam, num_iterations=1),
        "optimizer is a function that was not called.*optax.adam",
    ),
    "optax below": (lambda: RHG_OF(lower_optimizer=optax.adam(0.1)), "lower_optimizer is a Grad"),
    "estimator": (lambda: bilevel.method("m", "unrolled"), "hypergradient is 'unrolled'"),
    "two step sizes": (
        lambda: RHG_OF(step_size=0.3, lower_optimizer=bilevel.lower_optimizers.sgd(step_size=1.0)),
        "step_size=0.3 is given beside lower_optimizer",
    ),
    "start": (lambda: RHG_OF(lower_start="cold"), "lower_start='cold' is none of fixed"),
    "half a step": (lambda: RHG_OF(num_lower_steps=2.5), "num_lower_steps=2.5 must be a whole"),
    "no step": (lambda: RHG_OF(num_lower_steps=0), "num_lower_steps=0 must be at least 1"),
    "half a kept step": (lambda: bilevel.methods.trhg(keep_last=1.5), "keep_last=1.5 must be"),
    "checkpoints": (lambda: RHG_OF(checkpoints=True), "checkpoints=True is neither"),
    "learn": (lambda: bilevel.methods.bda(learn="alpha"), "learn='alpha' must list"),
    "law": (lambda: bilevel.methods.bda(law="harmonik"), "did you mean harmonic"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_choice_is_said_in_one_line(name):
    call, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_x_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"x has shape \(3,\), but upper_start has shape \(\)"):
        bilevel.hypergradient(problem(), RHG, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"x is PyTreeDef.*but upper_start is"):
        bilevel.hypergradient(problem(), RHG, {"x": 0.0})
    with pytest.raises(TypeError, match="x holds int"):
        bilevel.hypergradient(problem(), RHG, 1)


def test_an_x_that_nothing_reads_is_refused_by_name():
    unread = problem(
        lambda x, y, rows: f(x["used"], y, rows), upper_start={"used": 0.5, "unread": 1.0}
    )
    for call in (
        lambda: bilevel.hypergradient(unread, RHG, {"used": 0.5, "unread": 1.0}),
        lambda: bilevel.minimize(unread, RHG, optimizer=optax.sgd(0.1), num_iterations=1),
    ):
        with pytest.raises(
            ValueError, match=r"x\['unread'\] would never be learned: neither F nor"
        ):
            call()


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
