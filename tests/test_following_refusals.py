"""What estimators that follow the lower level refuse."""

import re

import jax.numpy as jnp
import pytest
from optax.projections import projection_simplex

import bilevel
from bilevel import methods
from bilevel.estimate import suited_lower_problem
from bilevel.hypergradients import (
    dynamic_barrier,
    implicit,
    moreau_envelope,
    sequential_penalty,
    single_loop,
    value_penalty,
)
from bilevel.linear_solvers import identity
from bilevel.lower_optimizers import adam, adamw
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of

CLEANING = ("problem=hyper_cleaning", "data=digits", "problem.batch_size=10")


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (value_penalty, {"weight": 0.0}, "weight=0.0 is outside (0, 1e+06]; choose weight=10"),
        (moreau_envelope, {"power": 2.0}, "power=2.0 is outside [0, 1]"),
        (value_penalty, {"num_steps": 0}, "num_steps=0 must be at least 1"),
        (moreau_envelope, {"gamma": 0.0}, "gamma=0.0 must be positive; choose gamma=1"),
        (sequential_penalty, {"mu": -1.0}, "mu=-1.0 must not be negative"),
        (dynamic_barrier, {"share": 0.0}, "share=0.0 must be positive"),
        (single_loop, {"step_size": 0.0}, "step_size=0.0 must be positive"),
        (single_loop, {"damping": -1.0}, "damping=-1.0 must not be negative"),
    ],
)
def test_options_out_of_range(factory, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        factory(**options)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["problem=ridge", "method=f2sa", "lower_start=fixed"],
            "lower_start=fixed: hypergradient=value_penalty goes on from the y of the iteration "
            "before; choose lower_start=warm",
        ),
        (
            ["problem=ridge", "method=meha", "aggregation=descent"],
            "moreau_envelope mixes F into the lower steps by a weight of its own; choose "
            "aggregation=lower_only",
        ),
        (
            ["problem=ridge", "method=bome", "lower_optimizer=lbfgs"],
            "dynamic_barrier moves y along directions of its own, but",
        ),
        (["method=f2sa"], "lower_start=warm: problem=few_shot draws new tasks each iteration"),
        (
            ["method=soba", "lower_start=fixed"],
            "follows one task from iteration to iteration, but the problem draws new tasks",
        ),
        (["problem=counterexample", "method=soba"], "is singular, so q grows without end"),
        (
            ["problem=iaptt_toy", "method=soba"],
            "knows no projection; choose hypergradient=implicit_cg, or lower_optimizer=sgd",
        ),
        *(
            (
                [*CLEANING, f"method={name}", "lower_optimizer=lbfgs"],
                "steps on mini-batches never come to rest; choose problem.batch_size=null",
            )
            for name in ("soba", "srba", "mrbo", "stocbio", "amigo", "pzobo")
        ),
        (
            [
                *("problem=ridge", "method=saba", "aggregation=descent", "aggregation.alpha=0"),
                *("aggregation.law=constant", "aggregation.learn=[alpha]"),
            ],
            "saga remembers what rows of f gave, but the lower steps descend F too",
        ),
    ],
)
def test_runs_that_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(config_of(*overrides, *QUIET))


@pytest.mark.parametrize("step", [adam(step_size=0.1), adamw(step_size=0.1, weight_decay=0)])
def test_adam_in_bounds_does_not_rest_at_a_solution(step):
    """On the simplex it ends at (.507, .493), where the lower solution is (1, 0)."""
    bounded = bilevel.problem(
        f=lambda x, y: jnp.sum((y - jnp.array([2.0, 0.5]) * x) ** 2),
        F=lambda x, y: jnp.sum(y**2),
        upper_start=1.0,
        lower_start=jnp.full(2, 0.5),
        project_lower=projection_simplex,
    )
    message = "come to rest in the bounds of y where other points are nearer to a solution; choose"
    with pytest.raises(ValueError, match=message):
        suited_lower_problem(bounded, methods.hoag(lower_optimizer=step))
    suited_lower_problem(bounded, methods.rhg(lower_optimizer=step))


def test_the_residual_of_the_identity_is_none():
    message = "no system is solved, so a residual says nothing of the gradient; choose"
    with pytest.raises(ValueError, match=message):
        implicit(solver=identity(), max_residual=1.0)
    implicit(solver=identity(), max_residual=None)


def test_the_library_refuses_alike():
    problem = bilevel.problem(
        f=lambda x, y: jnp.sum((y - x) ** 2),
        F=lambda x, y: jnp.sum(y**2),
        upper_start=jnp.ones(2),
        lower_start=jnp.zeros(2),
    )
    method = methods.method("f2sa", value_penalty())
    with pytest.raises(ValueError, match=r"lower_start=fixed: .* choose lower_start=warm"):
        suited_lower_problem(problem, method)
