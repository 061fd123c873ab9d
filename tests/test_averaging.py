"""A running mean of x, that scores are of, against the mean of the iterates by numpy."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel import upper_optimizers
from bilevel.algorithm import AlgorithmState
from bilevel.averaging import scored
from src.running.run import run
from src.running.stored_run import evaluate_again, stored_run
from tests.conftest import config_of, read_metrics
from tests.small_problem import RHG, problem

DECAY = 0.8  # the plain mean of five, then one that forgets


def mean_of(iterates, decay=DECAY):
    """m_n = m_{n-1} + max(1 - decay, 1 / n) (x_{n-1} - m_{n-1})"""
    mean = np.zeros_like(iterates[0])
    for n, x in enumerate(iterates, start=1):
        mean = mean + max(1 - decay, 1 / n) * (x - mean)
    return mean


def state_of(variables, upper_state):
    return AlgorithmState(variables, upper_state, carry=(), start=())


@pytest.mark.parametrize("number", [0, 1, 3, 5, 12])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_the_mean_is_of_the_iterates_and_moves_none_of_them(name, number):
    factory = partial(getattr(upper_optimizers, name), step_size=0.1, clip_norm=0.5)
    plain, averaging = factory(), factory(average=DECAY)
    x = {"problem": jnp.array([1.0, -2.0])}
    states, iterates = [plain.init(x), averaging.init(x)], []
    for n in range(number):
        iterates.append(np.asarray(x["problem"]))
        gradient = {"problem": jnp.array([np.cos(n), 0.3 * n])}
        updates, states[0] = plain.update(gradient, states[0], x)
        others, states[1] = averaging.update(gradient, states[1], x)
        np.testing.assert_array_equal(updates["problem"], others["problem"])
        x = jax.tree.map(jnp.add, x, updates)
    found = scored(state_of(x, states[1]))
    expected = mean_of(iterates) if iterates else x["problem"]
    np.testing.assert_allclose(found.variables["problem"], expected, rtol=1e-12)
    assert found.upper_state == found.carry == ()
    np.testing.assert_array_equal(scored(state_of(x, states[0])).variables["problem"], x["problem"])


def test_up_to_its_length_it_is_the_plain_mean():
    iterates = [np.array([float(n)]) for n in range(5)]
    np.testing.assert_allclose(mean_of(iterates), 2.0)


def test_several_seeds_have_their_own():
    optimizer = upper_optimizers.sgd(step_size=0.1, average=0.5)
    x = {"problem": jnp.arange(6.0).reshape(3, 2)}
    first = jax.vmap(optimizer.init)(x)
    before = scored(state_of(x, first))
    np.testing.assert_array_equal(before.variables["problem"], x["problem"])
    updates, state = jax.vmap(optimizer.update)(x, first, x)
    moved = jax.tree.map(jnp.add, x, updates)
    np.testing.assert_array_equal(scored(state_of(moved, state)).variables["problem"], x["problem"])


def iterates_of(own, optimizer, number):
    """x_0, ..., x_{number - 1}, one jitted step after the other."""
    solver = bilevel.minimizer(own, RHG, optimizer)
    step = jax.jit(solver.step)
    state, found = solver.init(jax.random.key(0)), []
    for _ in range(number):
        found.append(np.asarray(solver.x(state)))
        state, _ = step(state, jax.random.key(1))
    return found


def test_minimize_answers_with_the_mean_and_scores_it():
    plain, averaging = (
        upper_optimizers.sgd(step_size=0.05, average=average) for average in (None, DECAY)
    )
    iterates = iterates_of(problem(), plain, 9)
    found = bilevel.minimize(problem(), RHG, optimizer=averaging, num_iterations=8)
    np.testing.assert_allclose(found.x, mean_of(iterates[:8]), rtol=1e-9)
    assert found.x != iterates[8]
    at_mean = bilevel.value_function(problem(), RHG)(found.x)
    np.testing.assert_allclose(found.upper_loss, at_mean, rtol=1e-9)


def test_the_mean_is_of_projected_iterates():
    """Each step leaves [0.4, 0.6] and is brought back before it joins the mean."""
    bounded = problem(project=lambda x: jnp.clip(x, 0.4, 0.6))
    plain, averaging = (
        upper_optimizers.sgd(step_size=100.0, average=average) for average in (None, 0.99)
    )
    iterates = iterates_of(bounded, plain, 4)
    assert iterates[0] == 0.5
    assert set(map(float, iterates[1:])) <= {0.4, 0.6}
    *_, last = iterates_of(bounded, averaging, 5)
    np.testing.assert_allclose(last, np.mean(iterates), rtol=1e-9)


RUN = (
    *("problem=counterexample", "method=bda", "dtype=float64", "seeds=2"),
    *("log_every=1", "eval_every=2", "checkpoint_every=2", "logger=[jsonl]"),
)


def test_a_run_scores_the_mean_and_goes_on_with_it(tmp_path):
    """Its iterates are those without. All that is done with it later takes the mean."""

    def x_of(folder, *options):
        return np.array(run(config_of(*RUN, *options), tmp_path / folder)["upper_variable"])

    averaging = "upper_optimizer.average=0.5"
    iterates = [x_of("plain", f"num_iterations={n}") for n in (1, 2, 3)]
    start = x_of("pieces", averaging, "num_iterations=1")  # of each seed, before its first step
    whole = run(config_of(*RUN, averaging, "num_iterations=4"), tmp_path / "whole")
    expected = mean_of([start, *iterates], 0.5)
    np.testing.assert_allclose(whole["upper_variable"], expected, rtol=1e-12)

    for stop in (2, 4):
        pieces = x_of("pieces", averaging, f"num_iterations={stop}")
    np.testing.assert_array_equal(pieces, whole["upper_variable"])
    stored = json.loads((tmp_path / "pieces/result.json").read_text())
    assert stored["per_seed"] == whole["per_seed"]

    names = ("train/upper_loss", "train/hypergradient_norm")
    plain, mine = (read_metrics(tmp_path / folder)[:3] for folder in ("plain", "whole"))
    assert [[row[n] for n in names] for row in plain] == [[row[n] for n in names] for row in mine]

    tiny_step = ("upper_optimizer=sgd", "upper_optimizer.step_size=1e-30", "num_iterations=1")
    begun = x_of("begun", f"start_from={tmp_path / 'whole'}", *tiny_step)
    np.testing.assert_array_equal(begun, whole["upper_variable"])
    with stored_run(tmp_path / "whole") as again:
        curve = evaluate_again(again, "last", None).curve
    assert curve["validation/upper_loss"][-1] == whole["validation/upper_loss"]


def test_without_the_variables_there_is_nothing_to_take_the_mean_of():
    optimizer = upper_optimizers.sgd(step_size=0.1, average=0.5)
    with pytest.raises(ValueError, match=r"a running mean is of variables: update\("):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match=r"^average=.* is outside \[0, 1\): .*; choose "):
        upper_optimizers.adam(step_size=0.1, average=value)
