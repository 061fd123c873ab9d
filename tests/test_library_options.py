"""`import bilevel`: options of another kind or of an unknown name are refused where given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import hypergradients, linear_solvers, lower_optimizers, lower_solvers, methods
from tests.small_problem import problem

sgd = lower_optimizers.sgd
WRONG = {
    "a set in capitals": (
        lambda: lower_optimizers.projected(step_size=1.0, set="Ball", radius=1.0),
        "set='Ball' is none of box, ball, simplex; choose set='ball'",
    ),
    "another set": (
        lambda: lower_solvers.projected_gradient(set="l2_ball", radius=1.0),
        "set='l2_ball' is none of",
    ),
    "a mask": (
        lambda: bilevel.masked_sgd.masked_sgd(step_size=0.1, mask="Soft"),
        "mask='Soft' is none of hard, soft; choose mask='soft'",
    ),
    "power steps": (
        lambda: bilevel.bounded_sgd.bounded_sgd(step_size=0.1, power_steps=2.5),
        "power_steps=2.5 must be a whole number",
    ),
    "learn": (lambda: sgd(step_size=0.1, learn="per-step"), "choose learn='per_step'"),
    "learn as a flag": (lambda: sgd(step_size=0.1, learn=True), "learn=True is none of none, sca"),
    "annealing": (
        lambda: bilevel.upper_optimizers.sgd(
            step_size=0.1, annealing="cos", annealing_iterations=3
        ),
        "annealing='cos' is none of none, linear, cosine; choose annealing=",
    ),
    "a solver that was not called": (
        lambda: hypergradients.implicit(solver=linear_solvers.cg),
        "solver is a function that was not called.*linear_solvers.cg",
    ),
    "a solver by name": (lambda: hypergradients.implicit(solver="cg"), "solver is 'cg'"),
    "a reduction": (
        lambda: hypergradients.single_loop(reduction=bilevel.variance_reduction.saga),
        "reduction is a function that was not called",
    ),
    "a reduction of averages": (
        lambda: hypergradients.recursive_momentum(reduction="storm"),
        "reduction is 'storm'",
    ),
    "an aggregation": (
        lambda: bilevel.method("m", hypergradients.unrolled(), bilevel.lower_only),
        "aggregation is a function that was not called",
    ),
    "an estimator": (
        lambda: methods.bda(hypergradient=hypergradients.unrolled),
        "hypergradient is a function that was not called",
    ),
    "weight as text": (lambda: methods.f2sa(weight="10"), "weight='10' must be a number"),
    "step size as text": (lambda: sgd(step_size="0.1"), "step_size='0.1' must be a number"),
    "step sizes": (lambda: sgd(step_size=jnp.ones(2)), r"step_size=.* must be a number"),
    "no step size": (lambda: sgd(step_size=None), "step_size=None must be a number"),
    "damping as text": (lambda: methods.hoag(damping="0.1"), "damping='0.1' must be a number"),
    "a bound as text": (
        lambda: bilevel.upper_optimizers.adam(step_size=0.1, clip_norm="1"),
        "clip_norm='1' must be a number",
    ),
    "half a Newton step": (lambda: methods.kkt(newton_steps=2.5), "newton_steps=2.5 must be a wh"),
    "half a direction": (lambda: methods.pzobo(num_directions=2.5), "num_directions=2.5 must be"),
    "half a term": (lambda: methods.neumann(num_terms=2.5), "num_terms=2.5 must be a whole"),
    "a negative proximal weight": (
        lambda: methods.imaml(proximal_weight=-1.0),
        "proximal_weight=-1.0 must be finite and not negative",
    ),
    "a traced step size": (
        lambda: jax.jit(lambda size: methods.rhg(step_size=size) and size)(0.1),
        "step_size is traced by jit, vmap or grad",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_said_in_one_line(name):
    call, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_whole_numbers_of_numpy_are_whole_numbers():
    """As Python's: one of 64 bits would widen the counters of an estimator under x64."""
    assert type(methods.rhg(num_lower_steps=np.int64(3)).num_lower_steps) is int
    found = bilevel.minimize(
        problem(),
        methods.trhg(keep_last=np.int64(2), num_lower_steps=np.int32(3)),
        optimizer=optax.sgd(0.1),
        num_iterations=jnp.int32(2),
        seed=np.uint8(1),
    )
    assert found.history["upper_loss"].shape == (2,)


def test_an_objective_with_an_empty_docstring_has_its_name():
    def lower(x, y):
        return (y - x) ** 2

    lower.__doc__ = "  \n "
    made = bilevel.problem(lower, lambda x, y: y**2, upper_start=1.0, lower_start=0.0)
    assert made.problem.formulas["f"] == "lower"
