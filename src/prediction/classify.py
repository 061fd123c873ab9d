"""A stored few-shot run adapted to labelled images, and what it says of others."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.dependence import draws_start
from bilevel.lower_level import LowerProblem, Point
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.data.image_classes import ImageClasses
from src.data.labelled import scaled
from src.models.model import Model
from src.prediction.trained import Trained, model_of, read_again, trained
from src.problems.adapting_network import start_of_outputs
from src.running.run_folder import Run
from src.running.stored_run import steps_to_take
from src.settings.build import Experiment
from src.settings.checked import check_config
from src.settings.errors import UserError


class Classified(NamedTuple):
    """Probabilities of the classes, (images, classes), after the lower steps on the support set.

    state: what was used of the run; num_lower_steps: how many there were.
    """

    query: np.ndarray
    support: np.ndarray
    state: Trained
    num_lower_steps: int


def classify(
    run: Run,
    support: np.ndarray,
    labels: np.ndarray,
    query: np.ndarray,
    *,
    checkpoint: str = "last",
    num_lower_steps: int | None = None,
    seed: int | None = None,
) -> Classified:
    """Adapt to the support images (m, height, width, channels) with labels (m,), integers from 0.

    Images are of the run's shape (`image_shape`), uint8, or floats that stand for value / 255. Of a
    run on rows of numbers they are rows, (m, p), numbers as in its files; where the run
    standardised those, so are these, by the same means and deviations. Labels may be any number of
    classes that the run's head admits, with any number of images of each; query (n, ...) are the
    images in question. checkpoint: last, best or a kept iteration.

    Raises UserError on images of another shape or kind, on classes that the head does not admit,
    on a lone query of which batch norm would leave nothing, and where the lower steps diverge.
    """
    experiment = run.experiment
    num_steps = steps_to_take(experiment, num_lower_steps)
    shape = image_shape(experiment)
    as_floats = _as_floats if len(shape) == 3 else _rows_reader(run)
    support, query = as_floats("support", support, shape), as_floats("query", query, shape)
    labels = np.asarray(labels)
    _refuse_labels(labels, len(support))
    number = int(labels.max()) + 1
    if len(query) == 1:
        _refuse_lone_query(model_of(run), query)
    state = trained(run, checkpoint, seed)
    as_it_is = head_serves(run, number)

    def answer(variables: Tree, start: Tree, key: Array, task: Tree) -> tuple[Tree, Tree]:
        problem = experiment.problem
        assert problem.predict is not None
        x = variables["problem"]
        learned = {name: part for name, part in variables.items() if name != "problem"}
        fixed = experiment.settings.lower_start == "fixed"
        y0 = problem.init_lower(start if fixed else key, x)
        if not as_it_is:  # the head starts from zeros: refuse_other_ways
            y0 = start_of_outputs(y0, number)
        lower = LowerProblem(problem, experiment.test_dynamics, num_steps, False, task)
        y = lower.solve(Point(problem.prepare(x, task), learned, y0))
        return jax.tree.map(jax.nn.softmax, problem.predict(x, task, y)), y

    task = {
        "support": {"images": jnp.asarray(support), "labels": jnp.asarray(labels, dtype=int)},
        # Nothing reads these labels: the lower steps of a test use the support set alone.
        "query": {"images": jnp.asarray(query), "labels": jnp.zeros(len(query), dtype=int)},
    }
    key = jax.random.key(state.seed)
    stored = state.state
    found, _ = jax.device_get(jax.jit(answer)(stored.variables, stored.start, key, task))
    if not all(np.isfinite(part).all() for part in found.values()):
        raise UserError(
            f"num_lower_steps={num_steps}: the lower steps on these images diverged, and the "
            "probabilities are no numbers; choose fewer steps, or look at the images"
        )
    # A wider head has columns of zeros for classes that are not there.
    said, fitted = found["query"][:, :number], found["support"][:, :number]
    return Classified(said, fitted, state, num_steps)


def image_shape(experiment: Experiment) -> tuple[int, ...]:
    """(height, width, channels) of the images that the run was trained on, (p,) of rows."""
    return tuple(_task_shapes(experiment)["support"]["images"].shape[1:])


def head_serves(run: Run, number: int) -> bool:
    """Whether the head of the run serves for so many classes as it is; else one of their number.

    Where tasks of training and of tests differ in their classes, the head has the width of the
    larger ones and gives no share to a class that a task has not. Raises UserError where neither
    can be.
    """
    ways = num_ways(run.experiment)
    of_training, of_tests = ways_of(run)
    if number == ways or (number < ways and of_training != of_tests):
        return True
    refuse_other_ways(run.experiment, ways, number)
    return False


def ways_of(run: Run) -> tuple[int, int]:
    """The numbers of classes of the run's tasks: of training, and of tests."""
    options = check_config(run.config).node("problem").options
    return options.get("train_ways") or options["ways"], options["ways"]


def num_ways(experiment: Experiment) -> int:
    """The number of outputs of the run's head: the classes of its largest tasks."""
    problem = experiment.problem

    def logits(key: Array, task: Tree) -> Tree:
        assert problem.predict is not None
        x = problem.init_upper(key)
        return problem.predict(x, task, problem.init_lower(key, x))

    key = jax.random.key(0)
    return jax.eval_shape(logits, key, _task_shapes(experiment))["query"].shape[-1]


def training_images(experiment: Experiment) -> np.ndarray:
    """Some of the run's training images: floats (n, height, width, channels), value / 255."""
    tasks = jax.device_get(jax.jit(_draw(experiment))(experiment.source.data, jax.random.key(0)))
    return np.asarray(tasks["support"]["images"])


def refuse_other_ways(experiment: Experiment, ways: int, number: int) -> None:
    """Raises UserError where a run of `ways` classes cannot tell `number` classes apart.

    It can where the head starts from zeros in every task and nothing that is learned has its shape.
    """
    problem, dynamics = experiment.problem, experiment.test_dynamics
    steps = experiment.settings.num_lower_steps
    key = jax.random.key(0)

    def learned(classes: int) -> Tree:
        def first(key: Array) -> Tree:
            y0 = problem.init_lower(key, problem.init_upper(key))
            return dynamics.init_params(steps, start_of_outputs(y0, classes))

        return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(first, key))

    x = jax.eval_shape(problem.init_upper, key)
    reason = ""
    if problem.learned_start and "transform" in x:
        reason = f"the matrix behind its head was learned for {ways} classes"
    elif problem.learned_start and "head" in x:
        reason = f"the start of its head was learned for {ways} classes"
    elif draws_start(problem):
        reason = f"its head starts from random numbers for {ways} classes (problem.head_init)"
    elif experiment.settings.proximal_weight:
        reason = f"its proximal term pulls to a start of {ways} classes"
    elif learned(ways) != learned(number):
        reason = f"its step sizes were learned for each weight of a head of {ways} classes"
    if reason:
        raise UserError(
            f"support has {number} classes, but this run was trained for {ways}, and {reason}; "
            f"choose {ways} classes, or train with problem.ways={number}, or with a method whose "
            "head starts from zeros, such as method=rhg, or method=maml method.learn_start=network"
        )


def _draw(experiment: Experiment) -> Callable[[Tree, Array], Tree]:
    source = experiment.source
    return lambda data, key: one_task(source, source.seeded(data, key), key, "train")


def _task_shapes(experiment: Experiment) -> Any:
    return jax.eval_shape(_draw(experiment), experiment.source.data, jax.random.key(0))


def _as_floats(name: str, images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    images = _of_shape(name, images, shape, "(n, height, width, channels)")
    kind = jnp.zeros(()).dtype
    if images.dtype == np.uint8:
        return images.astype(kind) / 255
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"{name}: images of {images.dtype}; give uint8 (0..255), or floats in 0..1")
    _refuse_not_finite(name, images, "images")
    if not (images.min() >= 0 and images.max() <= 1):
        raise UserError(
            f"{name}: floats from {images.min():g} to {images.max():g}, but floats stand for value "
            "/ 255, in 0..1; divide by the largest value, or give uint8"
        )
    return images.astype(kind)


def _rows_reader(run: Run) -> Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray]:
    """`_as_floats` of rows: in the units of the run's files, as its network saw them."""
    scaling = read_again(run, ImageClasses).scaling

    def as_floats(name: str, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        rows = _of_shape(name, rows, shape, "(n, columns)")
        if rows.dtype.kind not in "biuf":
            raise UserError(f"{name}: rows of {rows.dtype}; give numbers, as in the run's files")
        rows = rows.astype(np.float64)
        _refuse_not_finite(name, rows, "rows")
        if scaling is not None:
            rows = scaled({name: rows}, scaling)[name]
        return rows.astype(jnp.zeros(()).dtype)

    return as_floats


def _of_shape(name: str, images: np.ndarray, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    images = np.asarray(images)
    if not images.ndim or not len(images) or images.shape[1:] != shape:
        raise UserError(
            f"{name}: an array of shape {images.shape}, but the run needs (n, "
            f"{', '.join(map(str, shape))}), n at least 1; this is {meaning}"
        )
    return images


def _refuse_not_finite(name: str, values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise UserError(f"{name}: some values are infinite or NaN; leave these {what} out")


def _refuse_lone_query(model: Model, query: np.ndarray) -> None:
    """One row minus its own mean is zero, whatever was in it."""
    if model.batch_norm != "batch":
        return
    images = jnp.asarray(query)
    _, statistics = model.measure(model.init(jax.random.key(0), images), images)
    for path, leaf in jax.tree_util.tree_leaves_with_path(statistics):
        name = path[-1].key
        centred = name == "feature_mean" and len(query) == 1
        if centred or (name == "batch_norm_variance" and not leaf.any()):
            raise UserError(
                "query: one image alone, and model.batch_norm=batch takes its statistics of the "
                "queries: nothing of this image would be left; give two or more, or a run with "
                "model.batch_norm=support"
            )


def _refuse_labels(labels: np.ndarray, number: int) -> None:
    if labels.shape != (number,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels: {labels.dtype} of shape {labels.shape}, but an integer for each of the "
            f"{number} support images is needed"
        )
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise UserError(
            f"labels: {present[:10].tolist()} occur, but two or more classes 0, 1, 2, ... are "
            "needed, each with an image"
        )
