"""Few-shot tasks drawn on the device from uint8 images."""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Array, TaskSource, Tree
from src.data.image_classes import ImageClasses

BATCHES = "batches"  # in a training task: the rows of the support set that each lower step sees


def episodes(
    classes: ImageClasses, *, ways: int, shots: int, queries: int, overlap: bool = False
) -> TaskSource:
    """A stream of N-way tasks: {"support": {"images", "labels"}, "query": {...}}.

    images: (ways * shots or ways * queries, height, width, channels) floats, value / 255;
    labels: ints in 0..ways - 1, in the order in which the classes were drawn. Classes are drawn
    without replacement from a split, and so are the images of a class, over support and query
    together: the two never share an image. With `overlap` (BOML's choice) each is drawn without
    replacement on its own, so an image may be in both. Classes may have different numbers of
    images. Rows of floats in place of images, (..., p), stay as they are.

    Where the data set is streamed, `data` holds indices of classes, and the chosen images come from
    the host by one callback for all tasks; the tasks are the same bit by bit.

    Raises ValueError where a split has too few classes or a class too few images.
    """
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    numbers = [len(indices) for indices in classes.splits.values()]
    smallest = min(numbers)
    if smallest < 2:
        raise ValueError(
            f"ways={ways}: the data has {sum(numbers)} classes ({', '.join(map(str, numbers))} for "
            f"{', '.join(classes.splits)}), but a task tells classes of one split apart, so each "
            "split needs two at least; choose data with more classes, or problem=hyper_cleaning"
        )
    if ways < 2:
        raise ValueError(
            f"ways={ways}: one class leaves nothing to tell apart; choose ways={min(5, smallest)}"
        )
    if ways > smallest:
        raise ValueError(
            f"ways={ways} exceeds the {smallest} classes of the smallest split; choose "
            f"ways={smallest} or fewer, or give that split more classes"
        )
    _refuse_too_few(classes, shots, queries, overlap)
    of_each = classes.images.shape[1]
    data: Tree = {split: jnp.asarray(indices) for split, indices in classes.splits.items()}
    take = _from_host(classes.images)
    if not classes.streamed:
        data = {split: jnp.asarray(classes.images[i]) for split, i in classes.splits.items()}
        take = _from_device
    counts = None
    if classes.counts is not None:
        counts = {
            split: jnp.asarray(classes.counts[i], jnp.int32) for split, i in classes.splits.items()
        }

    def draw_images(key: Array, count: Array | None) -> Array:
        """(shots + queries,) indices of images of one class, of which there are `count`."""
        if not overlap:
            return _without_replacement(key, of_each, count, shots + queries)
        keys = jax.random.split(key)
        parts = zip(keys, (shots, queries), strict=True)
        return jnp.concatenate(
            [_without_replacement(k, of_each, count, number) for k, number in parts]
        )

    def draw(number: int, counts: Array | None, key: Array) -> tuple[Array, Array]:
        """(ways,) of `number` classes, and (ways, shots + queries) images of them."""
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.choice(class_key, number, (ways,), replace=False)
        keys = jax.random.split(image_key, ways)
        if counts is None:
            return chosen, jax.vmap(partial(draw_images, count=None))(keys)
        return chosen, jax.vmap(draw_images)(keys, counts[chosen])

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        of_split = None if counts is None else counts[split]
        draw_one = partial(draw, data[split].shape[0], of_split)
        chosen, columns = jax.vmap(draw_one)(jax.random.split(key, n))
        taken = take(data[split], chosen[..., None], columns)

        def part(images: Array) -> Tree:
            number = images.shape[2]
            labels = jnp.repeat(jnp.arange(ways), number)
            return {
                "images": network_inputs(images).reshape(n, ways * number, *images.shape[3:]),
                "labels": jnp.broadcast_to(labels, (n, *labels.shape)),
            }

        return {"support": part(taken[:, :, :shots]), "query": part(taken[:, :, shots:])}

    return TaskSource(data=data, sample=sample, persistent=False)


def episodes_apart(
    classes: ImageClasses,
    *,
    training: Mapping[str, int],
    scoring: Mapping[str, int],
    overlap: bool = False,
) -> TaskSource:
    """A stream whose tasks are of one kind in training and of another in validation and test.

    training, scoring: {"ways", "shots", "queries"}, as for `episodes`, which raises what is raised.
    """

    def of(numbers: Mapping[str, int], splits: tuple[str, ...]) -> TaskSource:
        chosen = {split: classes.splits[split] for split in splits if split in classes.splits}
        return episodes(classes._replace(splits=chosen), **numbers, overlap=overlap)

    scored = of(scoring, ("validation", "test"))
    try:
        trained = of(training, ("train",))
    except ValueError as error:
        named = re.sub(r"\b(ways|shots|queries)=", r"train_\1=", str(error))  # as they are typed
        raise ValueError(named) from error

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        return (trained if split == "train" else scored).sample(data, key, split, n)

    return scored._replace(data={**trained.data, **scored.data}, sample=sample)


def with_batches(source: TaskSource, ways: int, shots: int, of_each: int) -> TaskSource:
    """Training tasks with BATCHES: (steps, ways * of_each) rows of the support set, step by step.

    `of_each` shots of each class, the next ones in each step, until all were seen equally often.
    Shots are in the order in which they were drawn, so the order is random as it is. Raises
    ValueError where of_each is below 1 or above `shots`.
    """
    if not 1 <= of_each <= shots:
        raise ValueError(
            f"train_shots_per_step={of_each} is outside 1..{shots}, the training shots of a class; "
            "choose one of these, or null for all"
        )
    steps = shots // math.gcd(shots, of_each)
    taken = np.arange(steps * of_each).reshape(steps, 1, of_each) % shots
    batches = (shots * np.arange(ways)[:, None] + taken).reshape(steps, ways * of_each)

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        tasks = source.sample(data, key, split, n)
        if split != "train":
            return tasks
        return {**tasks, BATCHES: jnp.broadcast_to(jnp.asarray(batches), (n, *batches.shape))}

    return source._replace(sample=sample)


def network_inputs(values: Array | np.ndarray) -> Array:
    """What a network sees of images, value / 255, and of rows of floats, which stay as they are."""
    floats = jnp.asarray(values, dtype=float)
    return floats / 255 if values.dtype == np.uint8 else floats


def _without_replacement(key: Array, most: int, count: Array | None, number: int) -> Array:
    """(number,) different indices below `count`, which is at most `most`; None: equal to it."""
    if count is None:
        return jax.random.choice(key, most, (number,), replace=False)
    # Those that are not there come last in the order of random numbers.
    values = jax.random.uniform(key, (most,))
    return jnp.argsort(jnp.where(jnp.arange(most) < count, values, 2.0))[:number]


def _refuse_too_few(classes: ImageClasses, shots: int, queries: int, overlap: bool) -> None:
    """Every class of the splits takes part, so each must have what a task takes of it."""
    there = np.concatenate(list(classes.splits.values()))
    counts = None if classes.counts is None else classes.counts[there]
    of_each = classes.images.shape[1] if counts is None else int(counts.min())
    needed = max(shots, queries) if overlap else shots + queries
    if needed <= of_each:
        return
    asked = f"shots={shots} and queries={queries} need {needed} different images of a class"
    if counts is None:
        found = f"{asked}, which has {of_each}"
    else:
        name, fewer = classes.names[there[counts.argmin()]], int((counts < needed).sum())
        others = f" ({fewer} of {len(counts)} classes have too few)" if fewer > 1 else ""
        found = f"{asked}, but the class {name} has {of_each}{others}"
    if overlap:
        raise ValueError(f"{found}; choose {of_each} or fewer of each")
    if of_each < 2:
        raise ValueError(f"{found}; a class needs at least 2: add images to it, or leave it out")
    fitting = f"queries={of_each - shots} or fewer"
    if shots >= of_each:
        fitting = f"shots=1 and queries={of_each - 1} or fewer"
    leave = "" if counts is None else "; or leave out the classes that have too few"
    raise ValueError(f"{found}; choose {fitting}{leave}")


def _from_device(images: Array, rows: Array, columns: Array) -> Array:
    """images[rows, columns], of the images of a split."""
    return images[rows, columns]


def _from_host(images: np.ndarray) -> Callable[[Array, Array, Array], Array]:
    """The same for the indices of a split's classes: bytes are sent, as few as there can be."""

    def take(indices: Array, rows: Array, columns: Array) -> Array:
        kind = jax.dtypes.canonicalize_dtype(images.dtype)
        shape = jax.ShapeDtypeStruct((*columns.shape, *images.shape[2:]), kind)

        def chosen(classes: Array, columns: Array) -> np.ndarray:
            return images[np.asarray(classes), np.asarray(columns)].astype(kind, copy=False)

        # broadcast_all: under vmap all batched arguments have the new axis in front.
        return jax.pure_callback(chosen, shape, indices[rows], columns, vmap_method="broadcast_all")

    return take
