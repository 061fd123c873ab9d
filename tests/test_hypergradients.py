"""Every hypergradient of conf/ is certified against its own target and against closed forms.

A new yaml under conf/hypergradient enters by existing, with what the record of its factory
declares; tests/test_estimator_contract.py holds the record itself to the truth.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.hypergradients import (
    finite_difference,
    first_order,
    forward,
    implicit,
    truncated,
    unrolled,
)
from bilevel.linear_solvers import identity
from bilevel.lower_level import LowerProblem
from bilevel.lower_optimizers import momentum, sgd
from bilevel.refusals import reads_of_x
from bilevel.shapes import point_shapes, shapes_of
from src.certification.cases import CASES, Where, lower_dynamics, place_of, where
from src.certification.certify import (
    CERTIFIED,
    default_node,
    errors_against_target,
    estimate,
    exact_node,
    flat,
    make,
    ridge_case,
    sgd_of,
    unchecked,
    variants,
    with_options,
)
from src.settings.errors import UserError
from src.settings.groups import names_of

K = 4
KEY = jax.random.key(0)
NAMES = names_of("hypergradient")
RECORDS = {name: unchecked(default_node(name)) for name in NAMES}
# The others are no derivatives: tests/test_initialisations.py holds them to their formulas.
WITH_TARGET = [name for name in NAMES if RECORDS[name].target is not None]
# Estimators that tend to the true hypergradient as the lower level is solved.
EXACT = [name for name in NAMES if RECORDS[name].exact_with is not None]
IMPLICIT = [name for name in EXACT if RECORDS[name].needs_stationarity]


def outputs_agree(one, other, tolerance=1e-12):
    for part in ("value", "gradient", "y"):
        pair = jax.tree.leaves(getattr(one, part)), jax.tree.leaves(getattr(other, part))
        for a, b in zip(*pair, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=part)


def suits(name, case, dynamics):
    """Whether the estimator gives every entry of x a gradient, and says nothing against the case.

    Of those here only a learned start without a proximal term, and what F does not contain, is out
    of reach of some of them.
    """
    record, lower = RECORDS[name], LowerProblem(case.problem, dynamics, K, case.source.persistent)
    shapes, sees = shapes_of(case.problem, case.source, "train"), RECORDS[name].differentiates
    try:
        record.check(lower, point_shapes(lower, shapes))
    except ValueError:
        return False
    return all(
        (leaf.upper and sees & {"context", "direct"})
        or (leaf.lower and "context" in sees)
        or (leaf.start and "start" in sees)
        for leaf in reads_of_x(lower, shapes)
    )


@pytest.mark.parametrize("case_name", CERTIFIED)
@pytest.mark.parametrize("name", WITH_TARGET)
def test_gradient_is_that_of_the_target(name, case_name):
    errors = errors_against_target(name, case_name)
    assert bool(errors) == suits(name, CASES[case_name](), sgd_of(0.1))
    assert all(error < 1e-8 for error in errors)


@pytest.mark.parametrize("case_name", ["ridge", "quadratic"])
@pytest.mark.parametrize("name", EXACT)
def test_at_a_lower_solution_the_closed_form_is_reached(name, case_name):
    case, dynamics, steps = CASES[case_name](), sgd_of(0.3), 1000
    at = where(case, dynamics, steps)
    x, task, exact = at.point.context, at.lower.task, case.problem.exact
    output = estimate(make(exact_node(name), case, dynamics, steps), at, KEY)
    np.testing.assert_allclose(
        output.gradient.context, exact.hypergradient(x, task), rtol=0, atol=1e-8
    )
    solution = exact.lower_solution(x, task)
    np.testing.assert_allclose(flat(output.y), flat(solution), rtol=0, atol=1e-8)


def settled(record, at):
    """The estimate; where it goes on from iteration to iteration, after 300 at the same x."""
    if not record.follows:
        return estimate(record, at, KEY)
    lower, point = at
    step = jax.jit(lambda point, carry: record.estimate(lower, point, carry, KEY))
    output = step(point, record.init(lower, point.y0))
    for _ in range(300):
        output = step(point._replace(y0=output.y), output.carry)
    return output


@pytest.mark.parametrize("name", [n for n in NAMES if "context" in RECORDS[n].differentiates])
def test_the_estimate_points_where_the_true_hypergradient_does(name):
    """A target of one's own does not show a wrong sign: it may have the same mistake."""
    # A smaller step for the square of the lower gradient (gradient_penalty), which is steeper.
    step_size = 0.05 if RECORDS[name].follows else 0.3
    at = where(ridge_case(), sgd_of(step_size), 100)
    found = flat(settled(RECORDS[name], at).gradient.context)
    true = flat(at.lower.problem.exact.hypergradient(at.point.context, at.lower.task))
    cosine = found @ true / (jnp.linalg.norm(found) * jnp.linalg.norm(true))
    assert cosine > 0.1, name


@pytest.mark.parametrize("name", ["sgd, learned", "bda, harmonic", "momentum, learned", "adam"])
def test_forward_is_reverse_and_checkpoints_change_nothing(name):
    at = where(CASES["learned_start"](), lower_dynamics()[name], K)
    expected = estimate(unrolled(), at, KEY)
    outputs_agree(estimate(forward(), at, KEY), expected)
    for checkpoints in ("steps", "sqrt"):
        outputs_agree(estimate(unrolled(checkpoints=checkpoints), at, KEY), expected, 1e-14)
    outputs_agree(estimate(truncated(keep_last=K), at, KEY), expected)


@pytest.mark.parametrize("case_name", ["learned_start", "few_shot"])
def test_finite_difference_tends_to_one_unrolled_step(case_name):
    """K = 1: DARTS -> unrolled as the radius shrinks, with an error of order radius^2."""
    at = where(CASES[case_name](), lower_dynamics()["bda, harmonic"], 1)
    full = estimate(unrolled(), at, KEY)

    def error(radius):
        found = estimate(finite_difference(radius=radius), at, KEY)
        return float(jnp.abs(flat(found.gradient) - flat(full.gradient)).max())

    assert error(1e-1) < 0.05
    assert error(1e-2) == pytest.approx(1e-2 * error(1e-1), rel=0.1)
    assert error(None) < 1e-8


def test_finite_difference_perturbs_the_start_of_the_last_step():
    """K > 1: the gradient is that of the last step from y_{K-1}, whatever came before."""
    case, dynamics = CASES["ridge"](), sgd_of(0.1)
    found = estimate(finite_difference(), where(case, dynamics, K), KEY)
    before = estimate(unrolled(), where(case, dynamics, K - 1), KEY).y
    of_one = estimate(unrolled(), where(case, dynamics, 1, place_of(case)._replace(y0=before)), KEY)
    np.testing.assert_allclose(found.gradient.context, of_one.gradient.context, atol=1e-9)


def test_finite_difference_survives_float32_and_a_zero_gradient():
    with jax.enable_x64(False):
        at = where(CASES["few_shot"](), sgd_of(0.1), 1)
        found, full = (estimate(each, at, KEY) for each in (finite_difference(), unrolled()))
        np.testing.assert_allclose(
            flat(found.gradient.context), flat(full.gradient.context), atol=2e-4
        )
    case = CASES["quadratic"]()
    flat_upper = case.problem._replace(upper_objective=lambda *_: (jnp.zeros(()), {}))
    at = where(case._replace(problem=flat_upper), sgd_of(0.1), 1)
    found = estimate(finite_difference(), at, KEY)
    assert not np.any(flat(found.gradient.context))


@pytest.mark.parametrize("make_optimizer", [sgd, momentum])
def test_first_order_is_first_order_maml(make_optimizer):
    """The start gets grad F(y_K) itself; a learned step size -sum_k <direction_k, grad F(y_K)>."""
    case = CASES["maml"]()
    dynamics = compose(lower_only(), make_optimizer(step_size=0.1, learn="scalar"))
    at = where(case, dynamics, K)
    output = estimate(first_order(), at, KEY)
    upper = jax.grad(lambda y: case.problem.upper_objective(at.point.context, at.lower.task, y)[0])(
        output.y
    )
    np.testing.assert_allclose(flat(output.gradient.y0), flat(upper), atol=1e-14)
    kept = estimate(truncated(keep_last=0), at, KEY)
    np.testing.assert_allclose(flat(kept.gradient.y0), flat(upper), atol=1e-14)
    moved = flat(at.point.y0) - flat(output.y)
    expected = -moved @ flat(upper) / 0.1
    found = float(flat(output.gradient.dynamics_params)[0])
    assert found == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_tends_to_unrolled_as_steps_grow(name):
    case, dynamics, errors = CASES["ridge"](), sgd_of(0.3), []
    for steps in (5, 20, 80, 500):
        at = where(case, dynamics, steps)
        estimator = make(exact_node(name), case, dynamics, steps)
        found = estimate(estimator, at, KEY).gradient.context
        full = estimate(unrolled(), at, KEY).gradient.context
        errors.append(float(jnp.linalg.norm(found - full) / jnp.linalg.norm(full)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_truncation_bias_shrinks_with_kept_steps():
    at = where(CASES["ridge"](), sgd_of(0.3), 60)
    full = estimate(unrolled(), at, KEY).gradient.context
    bias = [
        float(jnp.linalg.norm(estimate(truncated(keep_last=n), at, KEY).gradient.context - full))
        for n in (0, 5, 20, 40)
    ]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 1e-2 * bias[0]


def test_aggregation_with_alpha_zero_is_lower_only():
    case = CASES["ridge"]()
    plain = sgd_of(0.1)
    mixed = compose(descent(law="constant", alpha=0.0), sgd(step_size=0.1))
    suited = [name for name in NAMES if suits(name, case, plain)]
    # What moves y along directions of its own takes no mix, even one with a weight of 0.
    for name in (name for name in suited if not RECORDS[name].own_directions):
        outputs = [
            estimate(make(default_node(name), case, dynamics, K), where(case, dynamics, K), KEY)
            for dynamics in (plain, mixed)
        ]
        outputs_agree(*outputs)
    # F of ridge regression does not contain x: what looks at F alone, or at the start, is refused.
    # It has no constraints either.
    looks_below = {name for name in NAMES if "context" in RECORDS[name].differentiates}
    assert looks_below - {"implicit_kkt", "lv_hba"} == set(suited)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_together_are_the_tasks_one_by_one(name):
    """vmap == loop, jit == eager, one trace for any point; all in one program of two tasks."""
    case = CASES["few_shot"]()
    lower, point = where(case, lower_dynamics()["bda, constant"], K)
    # As certified, hence solved to the end: where an iteration stops depends on rounding.
    estimator = unchecked(variants(name)[-1])
    tasks = case.source.sample(case.source.data, KEY, "train", 2)
    x = case.problem.init_upper(KEY)
    context = jax.vmap(case.problem.prepare, (None, 0))(x, tasks)
    carry = jax.vmap(lambda _: estimator.init(lower, point.y0))(jnp.arange(2))
    keys = jax.random.split(KEY, 2)
    traces = []
    # Differences over a short radius multiply the rounding of y_K.
    tolerance = 1e-7 if name == "zeroth_order" else 1e-9

    def one(carry, context, task, key):
        traces.append(None)
        moved = point._replace(context=context)
        return estimator.estimate(lower._replace(task=task), moved, carry, key)

    together = jax.jit(jax.vmap(one))
    both = together(carry, context, tasks, keys)
    together(both.carry, context, tasks, keys)
    assert len(traces) == 1
    for i in range(2):
        alone = one(*jax.tree.map(lambda leaf, i=i: leaf[i], (carry, context, tasks, keys)))
        outputs_agree(jax.tree.map(lambda leaf, i=i: leaf[i], both), alone, tolerance)
        for name in alone.diagnostics:
            assert float(both.diagnostics[name][i]) == pytest.approx(
                float(alone.diagnostics[name]), rel=1e-3, abs=1e-12
            )


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_close_to_float64(name):
    wide, found = where(CASES["quadratic"](), sgd_of(0.1), K).point, []
    for x64, dtype in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            point = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), wide)
            at = where(CASES["quadratic"](), sgd_of(0.1), K)._replace(point=point)
            gradient = estimate(unchecked(default_node(name)), at, KEY).gradient.context
            assert gradient.dtype == dtype
            found.append(np.asarray(gradient, np.float64))
    np.testing.assert_allclose(found[1], found[0], rtol=5e-3, atol=5e-3)


def test_truncated_refuses_steps_that_do_not_exist():
    with pytest.raises(ValueError, match=r"^keep_last=-1 must not be negative"):
        truncated(keep_last=-1)
    case, message = CASES["ridge"](), f"keep_last={K + 1} is outside 0..{K}"
    node = with_options(default_node("truncated"), {"keep_last": K + 1})
    with pytest.raises(UserError, match=message):
        make(node, case, sgd_of(0.1), K)
    # Also where nobody asked: the lower problem alone says how many steps there are.
    with pytest.raises(ValueError, match=message):
        estimate(truncated(keep_last=K + 1), where(case, sgd_of(0.1), K), KEY)


@pytest.mark.parametrize("damping", [None, 0.2])
@pytest.mark.parametrize("case_name", ["quadratic", "learned_start", "few_shot"])
def test_the_identity_in_place_of_the_inverse_is_its_formula(case_name, damping):
    """T1-T2: dF/dx - (d grad_y f / dx)^T grad_y F at y_K, whatever the damping."""
    lower, point = where(CASES[case_name](), sgd_of(0.1), K)
    problem, task = lower.problem, lower.task
    found = estimate(
        implicit(solver=identity(), damping=damping, max_residual=None), Where(lower, point), KEY
    )

    @jax.jit
    def by_hand(context, y):
        for _ in range(K):
            slope = jax.grad(problem.lower_objective, argnums=2)(context, task, y)
            y = jax.tree.map(lambda leaf, d: leaf - 0.1 * d, y, slope)
        (value, _), (direct, v) = jax.value_and_grad(
            lambda context, y: problem.upper_objective(context, task, y),
            argnums=(0, 1),
            has_aux=True,
        )(context, y)

        def along_v(context):
            """<grad_y f(x, y), v>, whose derivative in x is (d grad_y f / dx)^T v."""
            slope = jax.grad(problem.lower_objective, argnums=2)(context, task, y)
            return flat(slope) @ flat(v)

        return value, jax.tree.map(jnp.subtract, direct, jax.grad(along_v)(context)), y

    value, gradient, y = by_hand(point.context, point.y0)
    assert float(found.value) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(flat(found.y), flat(y), rtol=0, atol=1e-13)
    np.testing.assert_allclose(flat(found.gradient.context), flat(gradient), rtol=0, atol=1e-13)
    assert float(jnp.abs(flat(gradient)).max()) > 1e-3
