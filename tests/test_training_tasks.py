"""Tasks of other numbers in training, and other lower steps in tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.certification.certify import flat
from src.problems.few_shot import cross_entropy, of_its_classes
from src.running.evaluation import make_evaluate
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, linear_few_shot, small_few_shot

KEY = jax.random.key(0)
WAYS = "problem.ways=2"


def built(folder, *overrides):
    return build(config_of(*linear_few_shot(folder), "dtype=float64", *overrides))


def task_of(experiment, split):
    source = experiment.source
    tasks = source.sample(source.data, KEY, split, 1)
    return jax.tree.map(lambda leaf: leaf[0], tasks)


def test_only_training_tasks_have_their_numbers(omniglot_folder):
    training = ("problem.train_ways=3", "problem.train_shots=2", "problem.train_queries=1")
    here, usual = (built(omniglot_folder, WAYS, *more) for more in (training, ()))
    numbers = {split: task_of(here, split) for split in ("train", "validation", "test")}
    assert numbers["train"]["support"]["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert numbers["train"]["query"]["labels"].tolist() == [0, 1, 2]
    for split in ("validation", "test"):
        jax.tree.map(np.testing.assert_array_equal, numbers[split], task_of(usual, split))


def test_a_wider_head_scores_as_one_of_the_width_of_the_task(omniglot_folder):
    """The same x: the scores of the same tasks, and y, do not depend on train_ways."""
    scores, ys = [], []
    for more in ([], ["problem.train_ways=3"]):
        experiment = built(omniglot_folder, WAYS, *more)
        state = jax.jit(experiment.algorithm.init)(KEY)
        adapt = jax.jit(lambda s, t, a=experiment.algorithm: a.adapt(s, KEY, t, 4))
        ys.append(adapt(state, task_of(experiment, "validation")))
        evaluate = make_evaluate(experiment, 4)
        states = jax.tree.map(lambda leaf: leaf[None], state)
        scores.append(evaluate(states, "test", 3).means)
    for name, values in scores[0].items():
        np.testing.assert_allclose(scores[1][name], values, rtol=1e-12, err_msg=name)
    weights = [y["weights"] for y in ys]
    assert weights[1].shape[1] == 3
    np.testing.assert_allclose(weights[1][:, :2], weights[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(weights[1][:, 2], 0)


@pytest.mark.parametrize("method", ["rhg", "bda", "hoag", "neumann", "darts", "trhg"])
def test_a_wider_head_has_the_same_hypergradient(method, omniglot_folder):
    """Training with fewer classes than tests: x moves as with a head of their number."""
    found = []
    for more in (["problem.ways=2"], ["problem.ways=3", "problem.train_ways=2"]):
        experiment = built(omniglot_folder, f"method={method}", *more)
        state = jax.jit(experiment.algorithm.init)(KEY)
        tasks = experiment.source.sample(experiment.source.data, KEY, "train", 2)
        step = jax.jit(experiment.algorithm.step)
        found.append(flat(step(state, KEY, tasks)[0].variables["problem"]))
    before = flat(state.variables["problem"])
    assert np.abs(found[0] - before).max() > 1e-6
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_a_class_that_is_not_there_has_no_part_in_any_derivative():
    labels = jnp.array([0, 1, 1])
    logits = jnp.array([[0.3, -0.2, 5.0], [1.0, 2.0, -7.0], [0.0, 0.5, 100.0]])

    def wide(scores):
        return cross_entropy(of_its_classes(scores, jnp.arange(3) < 2), labels)

    def narrow(scores):
        return cross_entropy(scores[:, :2], labels)

    for derivative in (
        lambda f: f,
        jax.grad,
        jax.hessian,
        lambda f: jax.grad(lambda z: jnp.sum(jax.grad(f)(z) ** 2)),
    ):
        np.testing.assert_allclose(derivative(wide)(logits), derivative(narrow)(logits), atol=1e-14)


@pytest.mark.parametrize("options", [["method=mt_net"], ["method=maml", "problem.lower_l2=0.1"]])
def test_what_is_no_class_of_a_task_has_no_part_in_f_and_F(options, omniglot_folder):
    """A layer behind the head (T) does not mix its columns in; a penalty does not count them."""

    def narrow(leaf):
        return leaf[..., :2] if leaf.shape[-1] == 3 else leaf

    found = []
    for more in (["problem.ways=3", "problem.train_ways=2"], ["problem.ways=2"]):
        small = [*small_few_shot(omniglot_folder), "dtype=float64"]
        experiment = build(config_of(*small, *options, *more))
        problem, task = experiment.problem, task_of(experiment, "train")
        if not found:
            x = problem.init_upper(KEY)
            leaves, structure = jax.tree.flatten(x)
            keys = jax.random.split(KEY, len(leaves))
            noise = [0.3 * jax.random.normal(*of) for of in zip(keys, map(jnp.shape, leaves))]  # noqa: B905
            x = jax.tree.unflatten(structure, map(jnp.add, leaves, noise))
            y = problem.init_lower(KEY, x)
        else:
            x = {**x, "head": jax.tree.map(narrow, x["head"])}
            if "transform" in x:
                x["transform"] = x["transform"][:2, :2]
            y = {**y, "head": jax.tree.map(narrow, y["head"])}
        context = problem.prepare(x, task)
        found.append(
            [
                problem.lower_objective(context, task, y),
                problem.upper_objective(context, task, y)[0],
            ]
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_tests_take_their_own_steps(omniglot_folder):
    """As a run whose training has these steps, of the same x."""
    scores = []
    for options in (
        ["num_lower_steps=2", "test_num_lower_steps=5", "test_step_size=0.7"],
        ["num_lower_steps=5", "lower_optimizer.step_size=0.7"],
        ["num_lower_steps=2"],
    ):
        experiment = built(omniglot_folder, WAYS, "method=rhg", *options)
        state = jax.jit(experiment.algorithm.init)(KEY)
        states = jax.tree.map(lambda leaf: leaf[None], state)
        evaluate = make_evaluate(experiment, experiment.settings.steps_of_tests())
        scores.append(evaluate(states, "test", 3).means["test/upper_loss"])
    np.testing.assert_array_equal(scores[0], scores[1])
    assert abs(scores[0] - scores[2]).max() > 1e-3


def test_a_run_of_all_of_it(omniglot_folder, tmp_path):
    typed = [
        *linear_few_shot(omniglot_folder),
        *(WAYS, "problem.train_ways=3", "problem.train_shots=2", "num_lower_steps=2"),
        *("test_num_lower_steps=4", "test_step_size=0.3", "method=bda", "num_iterations=2"),
    ]
    result = run(config_of(*typed), tmp_path)
    assert 0 <= result["test/accuracy"] <= 1


def test_each_training_step_sees_its_shots(omniglot_folder):
    """By hand: the start of Reptile moves to where steps on shots 1, 2, 3 and 1 lead."""
    shots = ("problem.train_shots=3", "problem.train_shots_per_step=1", "problem.train_queries=2")
    options = ("method=reptile", "num_lower_steps=4", "meta_batch_size=1", WAYS, *shots)
    experiment = built(omniglot_folder, *options)
    problem, source = experiment.problem, experiment.source
    state = jax.jit(experiment.algorithm.init)(KEY)
    tasks = source.sample(source.data, KEY, "train", 1)
    task, x = jax.tree.map(lambda leaf: leaf[0], tasks), state.variables["problem"]
    assert task["batches"].tolist() == [[0, 3], [1, 4], [2, 5]]

    y = problem.init_lower(KEY, x)
    for shot in (0, 1, 2, 0):
        support = jax.tree.map(lambda leaf, s=shot: leaf[s::3], task["support"])
        gradient = jax.grad(problem.lower_objective, 2)({}, {**task, "support": support}, y)
        y = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, y, gradient)
    moved = jax.jit(experiment.algorithm.step)(state, KEY, tasks)[0].variables["problem"]
    assert np.abs(flat(y) - flat(x)).max() > 1e-3
    np.testing.assert_allclose(flat(moved), flat(y), rtol=1e-9)
    # Tests see all shots.
    assert "batches" not in task_of(experiment, "validation")


@pytest.mark.parametrize("method", ["rhg", "bda", "imaml"])
def test_steps_of_all_shots_are_those_without_the_option(method, omniglot_folder):
    found = []
    for more in ([], ["problem.train_shots_per_step=2"]):
        shots = ("problem.train_shots=2", "problem.train_queries=2")
        experiment = built(omniglot_folder, f"method={method}", *shots, *more)
        state = jax.jit(experiment.algorithm.init)(KEY)
        tasks = experiment.source.sample(experiment.source.data, KEY, "train", 2)
        step = jax.jit(experiment.algorithm.step)
        found.append(flat(step(state, KEY, tasks)[0].variables["problem"]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


REFUSED = {
    "problem.train_shots_per_step=0": ["train_shots_per_step=0 is outside 1..1"],
    "problem.train_shots=2 problem.train_queries=2 problem.train_shots_per_step=3": [
        "train_shots_per_step=3 is outside 1..2"
    ],
    "problem.train_ways=1": ["problem.train_ways=1: one class", "choose problem.train_ways=5"],
    "problem.train_ways=0": ["problem.train_ways=0 must be at least 1"],
    "problem.train_ways=9999": [
        "problem.train_ways=9999 exceeds",
        "problem.train_ways=18 or fewer",
    ],
    "problem.train_shots=9999": ["problem.train_shots=9999 and problem.train_queries=4 need"],
    "test_num_lower_steps=0": ["test_num_lower_steps=0 must be at least 1", "null"],
    "test_step_size=0": ["test_step_size=0", "must be positive"],
    "test_step_size=nan": ["test_step_size=nan", "finite"],
    "test_step_size=learnt": ["test_step_size='learnt'", "'learned' or 'initial'", "valid number"],
    "test_num_lower_steps=3 method=maml lower_optimizer.learn=per_step": [
        "test_num_lower_steps=3: step_size was learned with one value"
    ],
    "test_step_size=0.1 method=hoag lower_optimizer=lbfgs": [
        "lower_optimizer=lbfgs has no step size"
    ],
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_is_refused(typed, omniglot_folder):
    with pytest.raises(UserError) as refusal:
        built(omniglot_folder, *typed.split())
    assert all(part in str(refusal.value) for part in REFUSED[typed]), refusal.value


@pytest.mark.parametrize("option", ["test_num_lower_steps=3", "test_step_size=0.1"])
def test_one_fixed_task_has_no_tests_of_its_own(option):
    with pytest.raises(UserError, match="is one fixed task"):
        build(config_of("problem=ridge", *QUIET, option))
