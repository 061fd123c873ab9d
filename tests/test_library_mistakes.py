"""`import bilevel`: what is wrong is said in one line, before anything compiles."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from tests.small_problem import RHG, ROWS, F, f, problem

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
        r"project\(x\) is \{'x': array\(\)\}, but x is array\(\)",
    ),
    "a key that comes second": (
        {"lower_start": lambda x, key: x},
        r"lower_start\(x, key\): the key comes first",
    ),
    "a start that fails": (
        {"lower_start": lambda key, x: x["missing"]},
        "lower_start fails on .*array",
    ),
    "shapes that do not fit": (
        {"lower": lambda x, y, rows: jnp.sum(rows["inputs"] @ jnp.ones(3)) * x},
        r"f fails on \(array\(\), array\(2,\), \{'inputs': array\(6, 2\).*dot",
    ),
    "bounds in place of a projection": (
        {"project": (0, 1)},
        r"project=\(0, 1\) must be a function",
    ),
    "a list of keys that differ": (
        {"test": {"inputs": np.ones((4, 2))}},
        r"test is \{'inputs': array\(4, 2\)\}, but validation is",
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
    "optax below": (lambda: RHG_OF(lower_optimizer=optax.lbfgs()), "needs more than gradients"),
    "estimator": (lambda: bilevel.method("m", "unrolled"), "hypergradient is 'unrolled'"),
    "two step sizes": (
        lambda: RHG_OF(step_size=0.3, lower_optimizer=bilevel.lower_optimizers.sgd(step_size=1.0)),
        "step_size=0.3 is given beside lower_optimizer",
    ),
    "start": (lambda: RHG_OF(lower_start="cold"), "lower_start='cold' is none of fixed"),
    "half a step": (lambda: RHG_OF(num_lower_steps=2.5), "num_lower_steps=2.5 must be a whole"),
    "no step": (lambda: RHG_OF(num_lower_steps=0), "num_lower_steps=0 must be at least 1"),
    "half a kept step": (lambda: bilevel.methods.trhg(keep_last=1.5), "keep_last=1.5 must be"),
    "checkpoints": (
        lambda: RHG_OF(checkpoints=True),
        "checkpoints=True is not none, steps or sqrt",
    ),
    "learn": (lambda: bilevel.methods.bda(learn="alpha"), "learn='alpha' must list"),
    "unknown option": (lambda: RHG_OF(lr=5), "rhg has no option lr; for the lower level"),
    "text for a number": (lambda: RHG_OF(step_size="0.1"), "step_size='0.1' must be a number"),
    "key": (lambda: bilevel.hypergradient(problem(), RHG, 0.5, key=0), "key must be one random"),
    "seed": (
        lambda: bilevel.minimize(
            problem(), RHG, optimizer=optax.sgd(0.1), num_iterations=1, seed="a"
        ),
        "seed='a' must be a whole number",
    ),
    "a task without a key": (
        lambda: bilevel.problem(
            lambda x, y, task: y,
            lambda x, y, task: y,
            upper_start=1.0,
            lower_start=1.0,
            task=lambda: 1.0,
        ),
        "task must be a function of one argument",
    ),
    "no learned start": (
        lambda: bilevel.hypergradient(problem(), bilevel.methods.reptile(), 0.5),
        "in Python lower_start=lambda key, x: x",
    ),
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
    with pytest.raises(ValueError, match=r"x is \{'x': array\(\)\}, but upper_start is array\(\)"):
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


@pytest.mark.parametrize("name", ["soba", "saba", "srba", "stocbio", "amigo", "mrbo"])
def test_one_estimate_of_a_method_that_needs_many_is_refused(name):
    method = getattr(bilevel.methods, name)()
    for call in (
        lambda: bilevel.hypergradient(problem(), method, 0.5),
        lambda: bilevel.value_function(problem(), method)(0.5),
        lambda: bilevel.value_function(problem(), method),
    ):
        with pytest.raises(ValueError, match=rf"^{name} goes on from .*methods.hoag\(tol"):
            call()
