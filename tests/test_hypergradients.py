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

from src.bilevel import hypergradients
from src.bilevel.aggregation import descent, lower_only
from src.bilevel.dynamics import compose
from src.bilevel.hypergradients.truncated import truncated
from src.bilevel.hypergradients.unrolled import unrolled
from src.bilevel.lower_optimizers import sgd
from tests.gradients import directional_error
from tests.problems import CASES, learned_start, tiny_ridge

K = 4
FILES = [module.name for module in pkgutil.iter_modules(hypergradients.__path__)]
# Options of each estimator that are worth certifying; a file without an entry has no options.
OPTIONS = {"truncated": [{"keep_last": n} for n in (0, 1, 3, K)]}
DYNAMICS = {
    "lower_only": lambda: compose(lower_only(), sgd(step_size=0.1, learn="scalar")),
    "bda": lambda: compose(
        descent(law="harmonic", alpha=0.4, s=0.8, t=1.1, learn=("alpha", "s", "t")),
        sgd(step_size=0.1, learn="per_weight"),
    ),
}


def point_of(case, dynamics, num_lower_steps=K):
    """(context, task, params, y0) of the case's first task, off any special point."""
    key = jax.random.key(2)
    task = jax.tree.map(lambda leaf: leaf[0], case.source.sample(case.source.data, key, "train", 1))
    x = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), case.problem.init_upper(key)
    )
    y0 = jax.tree.map(lambda leaf: leaf + 0.05, case.problem.init_lower(key, x))
    params = dynamics.init_params(num_lower_steps, y0)
    return case.problem.prepare(x, task), task, params, y0


def test_every_file_declares_itself():
    assert {"unrolled", "truncated"} <= set(FILES)
    for name in FILES:
        module = importlib.import_module(f"{hypergradients.__name__}.{name}")
        assert set(module.DIFFERENTIATES) <= {"context", "params", "start"}
        assert hasattr(module, "TARGET"), f"{name}.py must declare a TARGET (None if it has none)"
        assert inspect.isfunction(getattr(module, name)), f"{name}.py must define {name}()"


@pytest.mark.parametrize("dynamics_name", DYNAMICS)
@pytest.mark.parametrize("case_name", CASES)
@pytest.mark.parametrize("file", FILES)
def test_gradient_is_that_of_the_target(file, case_name, dynamics_name):
    module = importlib.import_module(f"{hypergradients.__name__}.{file}")
    if module.TARGET is None:
        pytest.skip(f"{file} declares no target: it is tested against its formula")
    case, dynamics = CASES[case_name](), DYNAMICS[dynamics_name]()
    context, task, params, y0 = point_of(case, dynamics)
    for options in OPTIONS.get(file, [{}]):
        estimator = getattr(module, file)(case.problem, dynamics, K, **options)
        output = jax.jit(estimator.estimate)(
            estimator.init(y0), context, task, params, y0, jax.random.key(0)
        )
        target = module.TARGET(case.problem, dynamics, K, **options)
        phi = target(context, task, params, y0)
        assert float(output.upper_loss) == pytest.approx(float(phi(context, params, y0)), abs=1e-12)
        error = directional_error(
            lambda p, phi=phi: phi(*p),
            (context, params, y0),
            (output.context_gradient, output.params_gradient, output.start_gradient),
        )
        assert error < 1e-8, (options, error)


@pytest.mark.parametrize("penalty_start", [-2.0, 0.0, 1.0])
def test_unrolled_reaches_the_closed_form_on_ridge(penalty_start):
    case = tiny_ridge()
    dynamics = compose(lower_only(), sgd(step_size=0.3))
    steps = 2000
    context, task, params, y0 = point_of(case, dynamics, steps)
    context = context + penalty_start
    estimator = unrolled(case.problem, dynamics, steps)
    output = jax.jit(estimator.estimate)((), context, task, params, y0, jax.random.key(0))
    exact = case.problem.exact.hypergradient(context, task)
    np.testing.assert_allclose(output.context_gradient, exact, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        output.y, case.problem.exact.lower_solution(context, task), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("case_name", CASES)
def test_truncated_with_all_steps_is_unrolled(case_name):
    case, dynamics = CASES[case_name](), DYNAMICS["bda"]()
    context, task, params, y0 = point_of(case, dynamics)
    outputs = [
        estimator.estimate((), context, task, params, y0, jax.random.key(0))
        for estimator in (
            truncated(case.problem, dynamics, K, keep_last=K),
            unrolled(case.problem, dynamics, K),
        )
    ]
    for a, b in zip(*map(jax.tree.leaves, outputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_truncated_to_nothing_is_first_order_maml():
    """n = 0 with a learned start: grad_y F(y_K) itself is the gradient of the start."""
    case, dynamics = learned_start(), DYNAMICS["lower_only"]()
    context, task, params, y0 = point_of(case, dynamics)
    output = truncated(case.problem, dynamics, K, keep_last=0).estimate(
        (), context, task, params, y0, jax.random.key(0)
    )
    expected = jax.grad(lambda y: case.problem.upper_objective(context, task, y, None)[0])(output.y)
    for a, b in zip(*map(jax.tree.leaves, (output.start_gradient, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(output.params_gradient))


def test_truncation_bias_shrinks_with_kept_steps():
    case, dynamics = tiny_ridge(), compose(lower_only(), sgd(step_size=0.3))
    context, task, params, y0 = point_of(case, dynamics, 60)
    full = unrolled(case.problem, dynamics, 60).estimate(
        (), context, task, params, y0, jax.random.key(0)
    )
    bias = [
        float(
            jnp.linalg.norm(
                truncated(case.problem, dynamics, 60, keep_last=n)
                .estimate((), context, task, params, y0, jax.random.key(0))
                .context_gradient
                - full.context_gradient
            )
        )
        for n in (0, 5, 20, 40)
    ]
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 1e-2 * bias[0]


@pytest.mark.parametrize("keep_last", [-1, K + 1])
def test_truncated_refuses_steps_that_do_not_exist(keep_last):
    case, dynamics = tiny_ridge(), DYNAMICS["lower_only"]()
    with pytest.raises(ValueError, match=f"keep_last={keep_last} is outside 0..{K}"):
        truncated(case.problem, dynamics, K, keep_last=keep_last)
