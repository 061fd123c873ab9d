"""The whole step of an iteration against a plain loop and finite differences, in float64.

The reference below shares nothing with the code but the two objectives and `prepare`: no vmap, no
scan, no pull-back, one task and one lower step after the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.bilevel.aggregation import descent, lower_only
from src.bilevel.algorithms.hypergradient_descent import hypergradient_descent
from src.bilevel.dynamics import compose, for_testing
from src.bilevel.hypergradients.truncated import truncated
from src.bilevel.hypergradients.unrolled import unrolled
from src.bilevel.lower_optimizers import sgd
from src.bilevel.types import BilevelProblem
from src.bilevel.upper_optimizers import sgd as upper_sgd
from tests.gradients import directional_error
from tests.problems import CASES

K = 3
UPPER_STEP = 0.01
FIXED = {"alpha": 0.4, "s": 0.9, "t": 1.2}


def descent_with(law, *learn):
    return descent(law=law, learn=learn, **FIXED)


# name -> (law or None, what the aggregation learns, what the step size learns)
LEARNED = {
    "x": (None, (), "none"),
    "x through bda": ("harmonic", (), "none"),
    "alpha": ("harmonic", ("alpha",), "none"),
    "alpha constant": ("constant", ("alpha",), "none"),
    "alpha per step": ("per_step", ("alpha",), "none"),
    "s": ("harmonic", ("s",), "none"),
    "t": ("geometric", ("t",), "none"),
    "step size": (None, (), "scalar"),
    "step size per step": ("upper_geometric", (), "per_step"),
    "step size per weight": ("tpami", (), "per_weight"),
    "everything": ("per_step", ("alpha", "s", "t"), "per_weight"),
}


def reference_weights(law, values, k):
    """(weight of grad F, weight of grad f), each law written out once more."""
    alpha, s, t = values["alpha"], values["s"], values["t"]
    share = {
        None: (0.0, 1.0),
        "constant": (alpha, 1 - alpha),
        "harmonic": (alpha / k, 1 - alpha / k),
        "geometric": (alpha * 0.9 ** (k - 1), 1 - alpha * 0.9 ** (k - 1)),
        "upper_geometric": (alpha * 0.9 ** (k - 1), 1 - alpha),
        "tpami": (alpha / (k + 1), 1 - alpha),
    }
    if law == "per_step":
        own = jnp.broadcast_to(alpha, (K,))[k - 1]
        return s * own, t * (1 - own)
    if law is None:
        return share[None]
    return s * share[law][0], t * share[law][1]


def reference(problem, tasks, law, step_size_kind, y0):
    """variables -> mean over tasks of F(x, y_K)."""

    def phi(variables):
        values = {**FIXED, **variables["aggregation"]}
        total = 0.0
        number = len(jax.tree.leaves(tasks)[0])
        for i in range(number):
            task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
            context = problem.prepare(variables["problem"], task)

            def upper(y, context=context, task=task):
                return problem.upper_objective(context, task, y, None)[0]

            def lower(y, context=context, task=task):
                return problem.lower_objective(context, task, y, None)

            y = y0
            for k in range(1, K + 1):
                a, b = reference_weights(law, values, k)
                size = variables["lower_optimizer"].get("step_size", 0.1)
                if step_size_kind == "per_step":
                    size = size[k - 1]
                if step_size_kind != "per_weight":
                    size = jax.tree.map(lambda _, size=size: size, y)
                y = jax.tree.map(
                    lambda w, gf, gl, eta, a=a, b=b: w - eta * (a * gf + b * gl),
                    y,
                    jax.grad(upper)(y),
                    jax.grad(lower)(y),
                    size,
                )
            total = total + upper(y)
        return total / number

    return phi


def build(
    case,
    aggregation,
    learn_step_size="none",
    tasks_at_once=None,
    make=unrolled,
    upper_step=UPPER_STEP,
    **options,
):
    optimizer = sgd(step_size=0.1, learn=learn_step_size)
    dynamics = compose(aggregation, optimizer)
    return hypergradient_descent(
        case.problem,
        dynamics,
        compose(for_testing(aggregation), optimizer),
        make(case.problem, dynamics, K, **options),
        upper_sgd(step_size=upper_step),
        num_lower_steps=K,
        meta_batch_size=case.tasks,
        tasks_at_once=tasks_at_once or case.tasks,
    )


def start_of(case, algorithm):
    """A state whose variables lie off any special point, and its tasks."""
    key = jax.random.key(4)
    state = jax.jit(algorithm.init)(key)
    moved = jax.tree.map(
        lambda leaf: leaf + 0.05 * jax.random.uniform(key, leaf.shape), state.variables
    )
    tasks = case.source.sample(case.source.data, key, "train", case.tasks)
    return state._replace(variables=moved), tasks


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("case_name", ["few_shot", "ridge"])
def test_one_iteration_follows_the_gradient_of_the_mean_upper_objective(case_name, name):
    law, learn, step_size_kind = LEARNED[name]
    case = CASES[case_name]()
    aggregation = lower_only() if law is None else descent_with(law, *learn)
    algorithm = build(case, aggregation, step_size_kind)
    state, tasks = start_of(case, algorithm)
    after, _ = jax.jit(algorithm.step)(state, jax.random.key(0), tasks)
    gradient = jax.tree.map(lambda a, b: (a - b) / UPPER_STEP, state.variables, after.variables)
    y0 = case.problem.init_lower(state.start, state.variables["problem"])
    phi = reference(case.problem, tasks, law, step_size_kind, y0)
    for leaf in jax.tree.leaves(gradient["aggregation"]):
        assert float(jnp.abs(leaf).max()) > 1e-6, "a learned parameter without a gradient"
    assert directional_error(phi, state.variables, gradient) < 1e-8


def results(*algorithms_and_state, jit=True):
    algorithm, state, tasks = algorithms_and_state
    step = jax.jit(algorithm.step) if jit else algorithm.step
    return step(state, jax.random.key(0), tasks)


def assert_same(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


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
            dynamics,
            unrolled(problem, dynamics, K),
            upper_sgd(step_size=1e-12),
            num_lower_steps=K,
            meta_batch_size=1,
            tasks_at_once=1,
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
            scored = chosen.adapt(state, jax.random.key(9), one, 0, None)
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


def stream_with_a_learned_start(noise):
    """Many tasks, a start y0 = g(x) + noise drawn from the key, a context that depends on both."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)))

    def lower(context, task, y, batch):
        residual = jnp.tanh(matrix @ y["a"]) - y["b"] - context["c"] * task["t"]
        return 0.5 * jnp.sum(residual**2)

    def upper(context, task, y, batch):
        value = jnp.sum(jnp.cos(y["a"]) * y["b"] * task["t"]) + 0.1 * jnp.sum(context["c"] ** 2)
        return value + jnp.sum(y["a"] ** 2), {}

    return BilevelProblem(
        init_upper=lambda key: {
            "a": jax.random.normal(key, (3,)),
            "b": jnp.ones(3),
            "c": jnp.full(3, 0.3),
        },
        prepare=lambda x, task: {"c": jnp.sin(x["c"]) * task["t"]},
        init_lower=lambda key, x: {
            "a": x["a"] + noise * jax.random.normal(key, (3,)),
            "b": x["b"] ** 2,
        },
        lower_objective=lower,
        upper_objective=upper,
        evaluate=lambda x, context, task, y: {},
        formulas={"f": "", "F": ""},
    )


@pytest.mark.parametrize("tasks_at_once", [1, 2, 4])
@pytest.mark.parametrize("lower_start", ["fixed", "redrawn"])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_learned_start_gets_its_gradient(noise, lower_start, tasks_at_once):
    problem, number = stream_with_a_learned_start(noise), 4
    dynamics = compose(
        descent_with("per_step", "alpha", "s", "t"), sgd(step_size=0.1, learn="per_weight")
    )
    algorithm = hypergradient_descent(
        problem,
        dynamics,
        dynamics,
        unrolled(problem, dynamics, K),
        upper_sgd(step_size=UPPER_STEP),
        num_lower_steps=K,
        meta_batch_size=number,
        tasks_at_once=tasks_at_once,
        lower_start=lower_start,
    )
    key = jax.random.key(7)
    state = algorithm.init(jax.random.key(0))
    tasks = {"t": jax.random.normal(key, (number, 3))}
    after, metrics = jax.jit(algorithm.step)(state, key, tasks)
    gradient = jax.tree.map(lambda a, b: (a - b) / UPPER_STEP, state.variables, after.variables)

    def phi(variables):
        total = 0.0
        for i, own_key in enumerate(jax.random.split(key, number)):
            task = {"t": tasks["t"][i : i + 1]}
            start_key = state.start if lower_start == "fixed" else own_key
            y0 = problem.init_lower(start_key, variables["problem"])
            total += reference(problem, task, "per_step", "per_weight", y0)(variables)
        return total / number

    assert directional_error(phi, state.variables, gradient) < 1e-8
    assert float(jnp.abs(gradient["problem"]["a"]).max()) > 1e-3
    norm = np.linalg.norm(np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)]))
    assert float(metrics["hypergradient_norm"]) == pytest.approx(norm)


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
