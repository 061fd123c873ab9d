"""Every hypergradient file is certified against its own TARGET and against closed forms.

A new file under src/bilevel/hypergradients enters by existing.
"""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import hypergradients
from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.hypergradients.finite_difference import finite_difference
from bilevel.hypergradients.first_order import first_order
from bilevel.hypergradients.forward import forward
from bilevel.hypergradients.truncated import truncated
from bilevel.hypergradients.unrolled import unrolled
from bilevel.lower_optimizers import momentum, sgd
from src.certification.cases import CASES, lower_dynamics, point_of
from src.certification.certify import (
    CERTIFIED,
    admitted,
    bias,
    default_node,
    errors_against_target,
    estimate,
    flat,
    make,
    module_of,
    sgd_of,
    unchecked,
    variants,
)
from src.certification.combinations import hypergradient_node, names_of
from tests.conftest import ROOT

K = 4
KEY = jax.random.key(0)
FILES = [module.name for module in pkgutil.iter_modules(hypergradients.__path__)]
NAMES = names_of("hypergradient")
# The others are no derivatives: tests/test_initialisations.py holds them to their formulas.
WITH_TARGET = [name for name in NAMES if module_of(default_node(name)).TARGET]
IMPLICIT = [name for name in NAMES if name.startswith("implicit")]
PARTS = {"context", "direct", "aggregation", "lower_optimizer", "start"}
# Estimators that, at a lower solution, give the true hypergradient.
EXACT = ["unrolled", "forward", "implicit_cg", "implicit_normal_cg", "implicit_gmres"]


def outputs_agree(one, other, tolerance=1e-12):
    for part in ("upper_loss", "context_gradient", "params_gradient", "start_gradient", "y"):
        pair = map(flat, (getattr(one, part), getattr(other, part)))
        np.testing.assert_allclose(*pair, rtol=tolerance, atol=tolerance, err_msg=part)


@pytest.mark.parametrize("file", FILES)
def test_every_file_declares_itself_and_has_a_yaml(file):
    module = importlib.import_module(f"{hypergradients.__name__}.{file}")
    assert set(module.DIFFERENTIATES) <= PARTS
    assert hasattr(module, "TARGET"), f"{file}.py must declare a TARGET (None if it has none)"
    assert inspect.isfunction(getattr(module, file)), f"{file}.py must define {file}()"
    assert file in NAMES
    for word in ("Time:", "Memory:", "alid"):
        assert word.lower() in (module.__doc__ or "").lower(), f"{file}.py does not say its {word}"


@pytest.mark.parametrize("case_name", CERTIFIED)
@pytest.mark.parametrize("name", WITH_TARGET)
def test_gradient_is_that_of_the_target(name, case_name):
    errors = errors_against_target(name, case_name)
    # Every estimator suits every case, but for a learned start without a proximal term, and for
    # sample weights, which F does not contain, without second derivatives.
    refused = (name in IMPLICIT and case_name == "maml") or (
        (name, case_name) == ("first_order", "cleaning")
    )
    if not refused:
        assert errors
    assert all(error < 1e-8 for error in errors)


def test_the_readme_shows_what_certify_finds():
    """All but the errors, which the test above bounds, and the timings."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if " (of " in line]
    assert [row[0].removeprefix("| ") for row in rows] == WITH_TARGET
    for name, row in zip(WITH_TARGET, rows, strict=True):
        number = sum(len(admitted(name, case_name)) for case_name in CERTIFIED)
        assert row[2].endswith(f"(of {number})"), name
        assert float(row[3]) == pytest.approx(bias(default_node(name), 100), rel=0.1), name


@pytest.mark.parametrize("case_name", ["ridge", "quadratic"])
@pytest.mark.parametrize("name", EXACT)
def test_at_a_lower_solution_the_closed_form_is_reached(name, case_name):
    case, dynamics, steps = CASES[case_name](), sgd_of(0.3), 1000
    point = point_of(case, dynamics, steps)
    node = next(n for n in variants(name) if not n.options.get("damping"))
    output = estimate(make(node, case, dynamics, steps), point, KEY)
    exact = case.problem.exact
    np.testing.assert_allclose(
        output.context_gradient, exact.hypergradient(point.context, point.task), rtol=0, atol=1e-8
    )
    solution = exact.lower_solution(point.context, point.task)
    np.testing.assert_allclose(flat(output.y), flat(solution), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["sgd, learned", "bda, harmonic", "momentum, learned", "adam"])
def test_forward_is_reverse_and_checkpoints_change_nothing(name):
    case, dynamics = CASES["learned_start"](), lower_dynamics()[name]
    point = point_of(case, dynamics, K)
    expected = estimate(unrolled(case.problem, dynamics, K), point, KEY)
    outputs_agree(estimate(forward(case.problem, dynamics, K), point, KEY), expected)
    kept = unrolled(case.problem, dynamics, K, checkpoints="sqrt")
    outputs_agree(estimate(kept, point, KEY), expected, 1e-14)
    outputs_agree(estimate(truncated(case.problem, dynamics, K, keep_last=K), point, KEY), expected)


@pytest.mark.parametrize("case_name", ["learned_start", "few_shot"])
def test_finite_difference_tends_to_one_unrolled_step(case_name):
    """K = 1: DARTS -> unrolled as the radius shrinks, with an error of order radius^2."""
    case, dynamics = CASES[case_name](), lower_dynamics()["bda, harmonic"]
    point = point_of(case, dynamics, 1)
    full = estimate(unrolled(case.problem, dynamics, 1), point, KEY)

    def error(radius):
        found = estimate(finite_difference(case.problem, dynamics, 1, radius=radius), point, KEY)
        parts = ("context_gradient", "params_gradient", "start_gradient")
        return max(
            float(jnp.abs(flat(getattr(found, p)) - flat(getattr(full, p))).max()) for p in parts
        )

    assert error(1e-1) < 0.05
    assert error(1e-2) == pytest.approx(1e-2 * error(1e-1), rel=0.1)
    assert error(None) < 1e-8


def test_finite_difference_perturbs_the_start_of_the_last_step():
    """K > 1: the gradient is that of the last step from y_{K-1}, whatever came before."""
    case, dynamics = CASES["ridge"](), sgd_of(0.1)
    point = point_of(case, dynamics, K)
    found = estimate(finite_difference(case.problem, dynamics, K), point, KEY)
    before = estimate(unrolled(case.problem, dynamics, K - 1), point, KEY).y
    one_step = estimate(unrolled(case.problem, dynamics, 1), point._replace(y0=before), KEY)
    np.testing.assert_allclose(found.context_gradient, one_step.context_gradient, atol=1e-9)


def test_finite_difference_survives_float32_and_a_zero_gradient():
    with jax.enable_x64(False):
        case, dynamics = CASES["few_shot"](), sgd_of(0.1)
        point = point_of(case, dynamics, 1)
        found = estimate(finite_difference(case.problem, dynamics, 1), point, KEY)
        full = estimate(unrolled(case.problem, dynamics, 1), point, KEY)
        np.testing.assert_allclose(
            flat(found.context_gradient), flat(full.context_gradient), atol=2e-4
        )
    case = CASES["quadratic"]()
    flat_upper = case.problem._replace(upper_objective=lambda *_: (jnp.zeros(()), {}))
    point = point_of(case, dynamics, 1)
    found = estimate(finite_difference(flat_upper, dynamics, 1), point, KEY)
    assert not np.any(flat(found.context_gradient))


@pytest.mark.parametrize("make_optimizer", [sgd, momentum])
def test_first_order_is_first_order_maml(make_optimizer):
    """The start gets grad F(y_K) itself; a learned step size -sum_k <direction_k, grad F(y_K)>."""
    case = CASES["maml"]()
    dynamics = compose(lower_only(), make_optimizer(step_size=0.1, learn="scalar"))
    point = point_of(case, dynamics, K)
    output = estimate(first_order(case.problem, dynamics, K), point, KEY)
    kept = truncated(case.problem, dynamics, K, keep_last=0)
    upper = jax.grad(lambda y: case.problem.upper_objective(point.context, point.task, y, None)[0])(
        output.y
    )
    np.testing.assert_allclose(flat(output.start_gradient), flat(upper), atol=1e-14)
    np.testing.assert_allclose(
        flat(estimate(kept, point, KEY).start_gradient), flat(upper), atol=1e-14
    )
    moved = flat(point.y0) - flat(output.y)
    expected = -moved @ flat(upper) / 0.1
    assert float(flat(output.params_gradient)[0]) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_tends_to_unrolled_as_steps_grow(name):
    case, errors = CASES["ridge"](), []
    node = default_node(name)
    exact = {"max_solver_steps": 500, "tolerance": 1e-13, "num_terms": 4000, "rank": 10}
    options = {k: v for k, v in exact.items() if k in node.options}
    damping = 1e-7 if name == "implicit_nystrom" else 0.0
    node = node._replace(
        options={
            **node.options,
            **options,
            "damping": damping,
        }
    )
    for steps in (5, 20, 80, 500):
        dynamics = sgd_of(0.3)
        point = point_of(case, dynamics, steps)
        found = estimate(make(node, case, dynamics, steps), point, KEY).context_gradient
        full = estimate(unrolled(case.problem, dynamics, steps), point, KEY).context_gradient
        errors.append(float(jnp.linalg.norm(found - full) / jnp.linalg.norm(full)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_truncation_bias_shrinks_with_kept_steps():
    case, dynamics = CASES["ridge"](), sgd_of(0.3)
    point = point_of(case, dynamics, 60)
    full = estimate(unrolled(case.problem, dynamics, 60), point, KEY).context_gradient
    bias = [
        float(
            jnp.linalg.norm(
                estimate(
                    truncated(case.problem, dynamics, 60, keep_last=n), point, KEY
                ).context_gradient
                - full
            )
        )
        for n in (0, 5, 20, 40)
    ]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 1e-2 * bias[0]


def test_aggregation_with_alpha_zero_is_lower_only():
    case = CASES["ridge"]()
    plain = sgd_of(0.1)
    mixed = compose(descent(law="constant", alpha=0.0), sgd(step_size=0.1))
    for name in NAMES:
        if name in ("first_order", "reptile"):  # which ridge regression refuses
            continue
        node = hypergradient_node(name)
        outputs = [
            estimate(make(node, case, dynamics, K), point_of(case, dynamics, K), KEY)
            for dynamics in (plain, mixed)
        ]
        outputs_agree(*outputs)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_together_are_the_tasks_one_by_one(name):
    """vmap == loop, jit == eager, one trace for any point; all in one program of two tasks."""
    case, dynamics = CASES["few_shot"](), lower_dynamics()["bda, constant"]
    node = hypergradient_node(name)
    # Solved to the end: where an iteration stops depends on rounding.
    exact = {"tolerance": 1e-14} if "tolerance" in node.options else {}
    estimator = unchecked(node._replace(options={**node.options, **exact}), case, dynamics, K)
    point = point_of(case, dynamics, K)
    tasks = case.source.sample(case.source.data, KEY, "train", 2)
    x = case.problem.init_upper(KEY)
    context = jax.vmap(case.problem.prepare, (None, 0))(x, tasks)
    carry = jax.vmap(lambda _: estimator.init(point.y0))(jnp.arange(2))
    keys = jax.random.split(KEY, 2)
    traces = []

    def one(carry, context, task, key):
        traces.append(None)
        return estimator.estimate(carry, context, task, point.params, point.y0, key)

    together = jax.jit(jax.vmap(one))
    both = together(carry, context, tasks, keys)
    together(both.carry, context, tasks, keys)
    assert len(traces) == 1
    for i in range(2):
        alone = one(*jax.tree.map(lambda leaf, i=i: leaf[i], (carry, context, tasks, keys)))
        outputs_agree(jax.tree.map(lambda leaf, i=i: leaf[i], both), alone, 1e-9)
        for name in alone.diagnostics:
            assert float(both.diagnostics[name][i]) == pytest.approx(
                float(alone.diagnostics[name]), rel=1e-3, abs=1e-12
            )


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64(name):
    case, dynamics, found = CASES["quadratic"](), sgd_of(0.1), []
    wide = point_of(case, dynamics, K)
    for x64, dtype in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            point = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), wide)
            case = CASES["quadratic"]()
            estimator = unchecked(hypergradient_node(name), case, dynamics, K)
            output = estimate(estimator, point, KEY)
            assert output.context_gradient.dtype == dtype
            found.append(np.asarray(output.context_gradient, np.float64))
    np.testing.assert_allclose(found[1], found[0], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("keep_last", [-1, K + 1])
def test_truncated_refuses_steps_that_do_not_exist(keep_last):
    case = CASES["ridge"]()
    with pytest.raises(ValueError, match=f"keep_last={keep_last} is outside 0..{K}"):
        truncated(case.problem, sgd_of(0.1), K, keep_last=keep_last)
