"""A network that adapts from a learned start, its head from zeros: classes have no names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel.aggregation import lower_only
from bilevel.hypergradients import first_order, reptile, unrolled
from bilevel.lower_optimizers import sgd
from bilevel.own_problem import Problem
from src.certification.cases import tiny_images
from src.models.mlp import mlp
from src.prediction.classify import classify, refuse_other_ways
from src.problems.adapting_network import Roles
from src.problems.few_shot import few_shot
from src.running.run import run
from src.running.stored_run import stored_run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import SHORT, config_of, linear_few_shot

KEY = jax.random.key(3)
NAMES = [3, 0, 4, 1, 2]
ESTIMATORS = {"maml": unrolled(), "fomaml": first_order(), "reptile": reptile()}


def problem_of(lower_variable, learn_start):
    model = mlp(hidden_sizes=(5,), normalise=True)
    roles = Roles(lower_variable, learn_start)
    return Problem(*few_shot(tiny_images(), model, roles, ways=3, shots=1, queries=2))


def without_model(options):
    return [option for option in options if not option.startswith("model")]


def x_of(problem):
    """An upper variable off any special point."""
    x = problem.problem.init_upper(KEY)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(KEY, leaf.shape), x)


def method_of(name, num_lower_steps):
    return bilevel.Method(
        name,
        lower_only(),
        sgd(step_size=0.1),
        ESTIMATORS[name],
        num_lower_steps,
        proximal_weight=0.2,
    )


def assert_trees_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("column", [0.0, 1.0])
def test_it_is_a_learned_start_whose_columns_are_alike(name, column):
    """What all columns share cancels in a softmax (here f has no penalty): it has no gradient."""
    method = method_of(name, 3)
    from_zeros, learned = (problem_of("all", learn_start) for learn_start in ("network", True))
    x = x_of(from_zeros)
    assert set(x) == {"network"}
    alike = column * jax.random.normal(KEY, (5, 1))
    head = {"weights": jnp.repeat(alike, 3, axis=1), "bias": jnp.full(3, column)}
    of_zeros = bilevel.hypergradient(from_zeros, method, x)
    of_column = bilevel.hypergradient(learned, method, {**x, "head": head})
    np.testing.assert_allclose(of_zeros.value, of_column.value, rtol=1e-12)
    for leaf in jax.tree.leaves(of_column.gradient["head"]):
        np.testing.assert_allclose(leaf.sum(-1), 0, atol=1e-12)
    assert_trees_close(of_zeros.gradient["network"], of_column.gradient["network"])


@pytest.mark.parametrize("name", ["maml", "fomaml"])
@pytest.mark.parametrize("num_lower_steps", [1, 2])
def test_its_first_lower_step_moves_the_head_alone(name, num_lower_steps):
    method = method_of(name, num_lower_steps)
    whole, head = problem_of("all", "network"), problem_of("head", False)
    x = x_of(head)
    of_whole = bilevel.hypergradient(whole, method, {"network": x})
    of_head = bilevel.hypergradient(head, method, x)
    same = num_lower_steps == 1
    assert (abs(float(of_whole.value - of_head.value)) < 1e-12) == same
    if same:
        assert_trees_close(of_whole.gradient["network"], of_head.gradient)


@pytest.mark.parametrize(
    "roles",
    [("all", "network"), ("head", False), ("all", True)],
    ids=["head from zeros", "head alone", "learned head"],
)
def test_no_class_is_the_first_one(roles):
    """Other numbers for the classes of a task: F stays what it is, unless the head is learned."""
    made = problem_of(*roles)
    x, (problem, source) = x_of(made), made
    task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, KEY, "train", 1))
    order = jnp.asarray([2, 0, 1])
    renamed = {part: {**images, "labels": order[images["labels"]]} for part, images in task.items()}
    lower = jax.grad(problem.lower_objective, argnums=2)

    def upper_value(task):
        y, context = problem.init_lower(KEY, x), problem.prepare(x, task)
        for _ in range(3):
            gradient = lower(context, task, y)
            y = jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, y, gradient)
        return problem.upper_objective(context, task, y)[0]

    change = abs(float(upper_value(task) - upper_value(renamed)))
    assert change > 1e-3 if roles == ("all", True) else change < 1e-12


HEAD_ALONE = "moves the head alone, .*num_lower_steps=2 or more"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["method=rhg"], "leaves no learned start: choose method.learn_start=false"),
        (["method=anil"], "leaves no learned start: choose method.learn_start=false"),
        (["method=maml", "num_lower_steps=1"], HEAD_ALONE),
        (["method=reptile", "num_lower_steps=1"], HEAD_ALONE),
        (["method=maml", "model=flat"], "no weights and method.learn_start=network"),
    ],
)
def test_it_is_refused_where_nothing_would_be_learned_or_adapt(options, reason, omniglot_folder):
    base = linear_few_shot(omniglot_folder)
    if "model=flat" in options:
        base = without_model(base)
    with pytest.raises(UserError, match=reason):
        build(config_of(*base, *options, "method.learn_start=network"))


def test_a_head_from_drawn_weights_may_take_one_step(omniglot_folder):
    options = "num_lower_steps=1", "problem.head_init=xavier", "method.learn_start=network"
    build(config_of(*linear_few_shot(omniglot_folder), "method=maml", *options))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ((), ""),
        (("lower_optimizer.learn=per_weight",), "for each weight of a head of 3 classes"),
        (("method=mt_net",), "the matrix behind its head was learned for 3 classes"),
        (("problem.head_init=xavier",), "starts from random numbers for 3 classes"),
        (("proximal_weight=0.1",), "its proximal term pulls to a start of 3 classes"),
    ],
)
def test_a_run_with_one_takes_any_number_of_classes(options, refused, omniglot_folder):
    base = without_model(linear_few_shot(omniglot_folder))
    model = "model=conv4" if "method=mt_net" in options else "model=mlp"
    layers = ["model.extra=t_layers"] if "method=mt_net" in options else []
    chosen = "method=maml", model, *layers, "method.learn_start=network", *options
    experiment = build(config_of(*base, *chosen))
    if not refused:
        refuse_other_ways(experiment, 3, 5)
        return
    with pytest.raises(UserError, match=refused):
        refuse_other_ways(experiment, 3, 5)


def test_images_of_more_classes_than_in_training(omniglot_folder, tmp_path):
    base = without_model(linear_few_shot(omniglot_folder))
    chosen = "method=maml", "model=mlp", "model.hidden_sizes=[24]", "method.learn_start=network"
    run(config_of(*base, *SHORT, *chosen), tmp_path)
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (5, 1, 28, 28, 1))
    images = np.clip(patterns + generator.integers(-30, 31, (5, 2, 28, 28, 1)), 0, 255)
    support, query = images.astype(np.uint8).swapaxes(0, 1)
    with stored_run(tmp_path) as stored:
        found, renamed = (
            classify(stored, support, np.asarray(labels), query, num_lower_steps=60)
            for labels in (range(5), NAMES)
        )
    assert (found.support.argmax(1) == np.arange(5)).all()
    np.testing.assert_allclose(renamed.query[:, NAMES], found.query, rtol=1e-3, atol=1e-5)
