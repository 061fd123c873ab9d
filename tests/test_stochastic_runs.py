"""Methods on mini-batches: where whole runs end, and what is refused."""

import re

import jax
import numpy as np
import optax
import pytest

import bilevel
from bilevel import upper_optimizers, variance_reduction
from bilevel.hypergradients import recursive_momentum, single_loop, stochastic_implicit
from bilevel.own_problem import Problem
from bilevel.shapes import one_task
from src.problems.quadratic import quadratic
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

SIZES = {"num_lower_rows": 6, "num_upper_rows": 4, "dim_upper": 2, "dim_lower": 3}


@pytest.mark.parametrize(
    ("method", "error"),
    [
        (bilevel.methods.soba, (1e-2, 10.0)),
        (bilevel.methods.saba, (0.0, 1e-8)),
        (bilevel.methods.srba, (0.0, 1e-8)),
    ],
    ids=["soba", "saba", "srba"],
)
def test_reduced_noise_reaches_the_solution_where_plain_steps_stall(method, error):
    import optax

    pair = quadratic(batch_size=4, num_lower_rows=16, num_upper_rows=12, noise=0.5, dim_lower=4,
                     dim_upper=3, sampling="epochs")  # fmt: skip
    with jax.enable_x64(True):
        found = bilevel.minimize(
            Problem(*pair),
            method(step_size=0.3, step_size_of_system=0.3),
            optimizer=optax.sgd(0.1),
            num_iterations=4000,
        )
    gradient = found.scores["validation/value_function_gradient_norm"]
    assert error[0] <= gradient <= error[1]


def test_steps_that_fall_take_plain_steps_on_to_the_solution():
    """Constant steps stay where the noise keeps them, however long."""
    pair = quadratic(batch_size=4, num_lower_rows=16, num_upper_rows=12, noise=0.5, dim_lower=4,
                     dim_upper=3, sampling="rows")  # fmt: skip

    def end(step_power):
        with jax.enable_x64(True):
            found = bilevel.minimize(
                Problem(*pair),
                bilevel.methods.soba(step_size=0.3, step_size_of_system=0.3, step_power=step_power),
                optimizer=upper_optimizers.sgd(step_size=0.1, step_power=step_power),
                num_iterations=20_000,
            )
        return found.scores["validation/value_function_gradient_norm"]

    assert end(0.0) > 0.2
    assert end(0.5) < 0.1


def test_the_lower_steps_before_a_score_see_all_rows():
    """A step on a mini-batch would bring the noise back that saba has taken out."""
    problem = Problem(*quadratic(**SIZES, batch_size=2, sampling="epochs"))
    saba = bilevel.methods.saba(step_size=0.1, step_size_of_system=0.1)
    found = bilevel.minimize(problem, saba, optimizer=optax.sgd(0.05), num_iterations=6000)
    task = one_task(problem.source, problem.source.data, jax.random.key(0), "train")
    solution = problem.problem.exact.lower_solution
    np.testing.assert_allclose(found.y, solution(found.x, task), atol=1e-6)


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: variance_reduction.sarah(period=0), "period=0 must be at least 1"),
        (lambda: variance_reduction.storm(momentum=0.0), "momentum=0.0 is outside (0, 1]"),
        (lambda: variance_reduction.storm(power=2.0), "power=2.0 is outside [0, 1]"),
        (lambda: stochastic_implicit(num_steps=0), "num_steps=0 must be at least 1"),
        (lambda: stochastic_implicit(step_size=0.0), "step_size=0.0 must be positive"),
        (lambda: recursive_momentum(damping=-1.0), "damping=-1.0 must not be negative"),
        *(
            (
                lambda factory=factory, value=value: factory(step_power=value),
                f"step_power={value} must be finite and not negative: steps are step_size",
            )
            for factory in (single_loop, stochastic_implicit, recursive_momentum)
            for value in (-0.5, np.inf)
        ),
        (
            lambda: recursive_momentum(reduction=variance_reduction.saga()),
            "choose storm, sarah, or hypergradient=single_loop_saga",
        ),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["problem=quadratic", "method=saba", "problem.batch_size=100"],
            "batch_size=100 must divide the 256 rows of f and the 256 of F; choose batch_size=64",
        ),
        (
            [
                *("problem=quadratic", "problem.batch_size=16", "method=saba"),
                *("aggregation=descent", "aggregation.law=constant"),
            ],
            "saga remembers what rows of f gave, but the lower steps descend F too",
        ),
        (["method=amigo", "lower_start=fixed"], "the problem draws new tasks"),
        (["problem=iaptt_toy", "method=stocbio"], "knows no projection"),
        (["problem=quadratic", "method=rhg", "problem.sampling=epochs"], "sampling=epochs has no"),
    ],
)
def test_runs_that_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(config_of(*overrides, *QUIET))
