"""What one iteration keeps whatever the problem: groups, means, starts, bounds, diagnostics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import descent, lower_only
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.hypergradients import truncated, unrolled
from bilevel.lower_optimizers import sgd
from bilevel.upper_optimizers import sgd as upper_sgd
from src.certification.cases import CASES
from tests.pipeline import K, assert_same, build, descent_with, results, start_of


def test_alpha_zero_is_lower_only():
    """With alpha = 0 every law has (a_k, b_k) = (0, 1): the same steps and the same gradient."""
    case = CASES["ridge"]()
    plain = build(case, lower_only())
    state, tasks = start_of(case, plain)
    expected, _ = results(plain, state, tasks)
    for law in ("constant", "harmonic", "geometric", "upper_geometric", "per_step", "tpami"):
        mixed = build(case, descent(law=law, alpha=0.0))
        found, _ = results(mixed, state, tasks)
        assert_same(found.variables, expected.variables, 1e-13)


@pytest.mark.parametrize(("make", "options"), [(unrolled, {}), (truncated, {"keep_last": 1})])
def test_groups_of_tasks_and_eager_execution_change_nothing(make, options):
    case = CASES["few_shot"]()
    aggregation = descent_with("harmonic", "alpha")
    together = build(case, aggregation, make=make, **options)
    one_by_one = build(case, aggregation, tasks_at_once=1, make=make, **options)
    state, tasks = start_of(case, together)
    expected = results(together, state, tasks)
    assert_same(results(one_by_one, state, tasks), expected, 1e-12)
    assert_same(results(together, state, tasks, jit=False), expected, 1e-12)


def test_the_step_on_a_meta_batch_is_the_mean_of_the_steps_on_its_tasks():
    case = CASES["few_shot"]()
    both = build(case, descent_with("harmonic", "alpha"))
    alone = build(case._replace(tasks=1), descent_with("harmonic", "alpha"))
    state, tasks = start_of(case, both)
    expected, _ = results(both, state, tasks)
    singles = [
        results(alone, state, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], tasks))[0]
        for i in range(case.tasks)
    ]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *[s.variables for s in singles])
    assert_same(mean, expected.variables, 1e-12)


def test_the_start_is_fixed_redrawn_or_warm():
    case = CASES["learned_start"]()
    problem = case.problem._replace(
        init_lower=lambda key, x: jax.tree.map(lambda a: jax.random.normal(key, a.shape), x)
    )
    dynamics = compose(lower_only(), sgd(step_size=0.1))

    def algorithm(lower_start):
        return hypergradient_descent(
            problem,
            dynamics,
            unrolled(),
            upper_sgd(step_size=1e-12),
            num_lower_steps=K,
            persistent=True,
            lower_start=lower_start,
        )

    tasks = case.source.sample(case.source.data, jax.random.key(0), "train", 1)
    losses = {}
    for lower_start in ("fixed", "redrawn", "warm"):
        chosen = algorithm(lower_start)
        state = chosen.init(jax.random.key(1))
        losses[lower_start] = []
        for n in range(3):
            state, metrics = chosen.step(state, jax.random.key(n), tasks)
            losses[lower_start].append(float(metrics["lower_loss"]))
        if lower_start == "warm":
            one = jax.tree.map(lambda a: a[0], tasks)
            scored = chosen.adapt(state, jax.random.key(9), one, 0)
            assert_same(scored, jax.tree.map(lambda a: a[0], state.start), 0)
    assert losses["fixed"][0] == pytest.approx(losses["fixed"][2], abs=1e-9)
    assert len(set(losses["redrawn"])) == 3
    assert losses["warm"][0] > losses["warm"][1] > losses["warm"][2]


def test_adaptation_at_test_time_never_reads_the_query_labels():
    case = CASES["few_shot"]()
    algorithm = build(case, descent_with("harmonic"))
    state, tasks = start_of(case, algorithm)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    other = {**task, "query": {**task["query"], "labels": (task["query"]["labels"] + 1) % 3}}
    adapted = [algorithm.adapt(state, jax.random.key(0), t, K, lambda y: y) for t in (task, other)]
    assert_same(adapted[0], adapted[1], 0)
    assert jax.tree.leaves(adapted[0])[0].shape[0] == K + 1


def test_training_scores_of_bda_are_marked_as_having_seen_the_labels():
    case = CASES["few_shot"]()
    for aggregation, name in (
        (lower_only(), "accuracy"),
        (descent_with("harmonic"), "accuracy_labels_seen"),
    ):
        algorithm = build(case, aggregation)
        _, metrics = results(algorithm, *start_of(case, algorithm))
        assert [key for key in metrics if "accuracy" in key] == [name]


def test_learned_parameters_stay_inside_their_bounds():
    """A huge upper step, up and down: what has bounds ends on one of them."""
    case = CASES["few_shot"]()
    aggregation = descent_with("per_step", "alpha", "s", "t")
    algorithm = build(case, aggregation, "per_weight", upper_step=1e6)
    state, tasks = start_of(case, algorithm)
    after, _ = results(algorithm, state, tasks)
    alpha = after.variables["aggregation"]["alpha"]
    assert ((alpha == 0) | (alpha == 1)).all()
    bounded = {k: v for k, v in after.variables.items() if k != "problem"}
    assert min(float(leaf.min()) for leaf in jax.tree.leaves(bounded)) == 0.0


def test_diagnostics_against_numpy():
    case = CASES["ridge"]()
    algorithm = build(case, lower_only())
    state, tasks = start_of(case, algorithm)
    _, metrics = results(algorithm, state, tasks)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[0]), tasks["train"])
    inputs, targets = rows["inputs"], rows["targets"]
    penalties = np.exp(np.asarray(state.variables["problem"]))
    hessian = inputs.T @ inputs / len(inputs) + np.diag(penalties)
    right = inputs.T @ targets / len(inputs)
    y = np.zeros(len(right))
    for _ in range(K):
        y = y - 0.1 * (hessian @ y - right)
    value = 0.5 * np.mean((inputs @ y - targets) ** 2) + 0.5 * np.sum(penalties * y**2)
    assert float(metrics["lower_loss"]) == pytest.approx(value)
    assert float(metrics["stationarity_norm"]) == pytest.approx(np.linalg.norm(hessian @ y - right))
    held_out = jax.tree.map(lambda leaf: leaf[0], tasks["held_out"])
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    scores = case.problem.evaluate(state.variables["problem"], None, task, jnp.asarray(y))
    error = np.mean((np.asarray(held_out["inputs"]) @ y - np.asarray(held_out["targets"])) ** 2)
    assert float(scores["mean_squared_error"]) == pytest.approx(error)
