"""What `implicit_kkt` refuses, and the record of constraints that it reads."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import hypergradients, lower_solvers
from bilevel.types import Penalised


def constrained(**options):
    def lower(x, y, *rows):
        return jnp.sum((y - x) ** 2) + 0.0 * sum(map(jnp.sum, rows))

    return bilevel.problem(
        lower,
        lower,
        upper_start=jnp.zeros(3),
        lower_start=jnp.zeros(3),
        **{"lower_constraints": lambda x, y, *rows: y - 1.0, **options},
    )


ROWS_OF_DATA = {"train": np.zeros((4, 1)), "validation": np.zeros((4, 1)), "batch_size": 2}


@pytest.mark.parametrize(
    ("problem", "method", "message"),
    [
        (
            {"lower_constraints": None},
            {},
            "this problem has none; choose hypergradient=implicit_cg",
        ),
        (ROWS_OF_DATA, {}, "the lower steps see mini-batches; choose problem.batch_size=null"),
        ({"project_lower": lambda y: jnp.clip(y, 0, 1)}, {}, "choose problem.lower_bounds=penalty"),
        (
            {},
            {"aggregation": bilevel.descent(law="constant", alpha=0.5)},
            "the lower steps descend f + F; choose aggregation=lower_only",
        ),
        (
            {"lower_constraints": lambda x, y: y[:, None] - jnp.ones((1, 700))},
            {},
            "2,103 here, at most 2,000; choose hypergradient=implicit_cg",
        ),
        (
            {},
            {"lower_optimizer": lower_solvers.lbfgs(tolerance=1e-3), "lower_tolerance": 1e-6},
            "the lower optimizer stops at its own tolerance=0.001 before",
        ),
    ],
)
def test_what_is_refused(problem, method, message):
    method = dict(method)
    estimator = hypergradients.implicit_kkt(lower_tolerance=method.pop("lower_tolerance", None))
    chosen = bilevel.method("mine", estimator, **method)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        bilevel.hypergradient(constrained(**problem), chosen, jnp.zeros(3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"newton_steps": -1}, "newton_steps=-1 must not be negative"),
        ({"lower_tolerance": 0.0}, "lower_tolerance=0.0 must be positive"),
        ({"upper_rate": 0.0}, "upper_rate=0.0 must be positive and finite, or x would not return"),
        ({"upper_rate": float("inf")}, "upper_rate=inf must be positive and finite"),
        ({"upper_rate": float("nan")}, "upper_rate=nan must be positive and finite"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hypergradients.implicit_kkt(**options)


def test_the_record_follows_the_problem():
    assert constrained(lower_constraints=None).problem.penalised is None
    penalised = constrained(constraint_weight=7.0).problem.penalised
    assert isinstance(penalised, Penalised)
    assert penalised.weight == 7.0
    np.testing.assert_array_equal(penalised.constraints(jnp.zeros(3), {}, jnp.ones(3)), np.zeros(3))
    assert float(penalised.f(jnp.zeros(3), {}, 2 * jnp.ones(3))) == 12.0
