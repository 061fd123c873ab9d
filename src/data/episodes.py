"""Few-shot tasks drawn on the device from uint8 images."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Array, TaskSource, Tree
from src.data.image_classes import ImageClasses


def episodes(
    classes: ImageClasses, *, ways: int, shots: int, queries: int, overlap: bool = False
) -> TaskSource:
    """A stream of N-way tasks: {"support": {"images", "labels"}, "query": {...}}.

    images: (ways * shots or ways * queries, height, width, channels) floats, value / 255;
    labels: ints in 0..ways - 1, in the order in which the classes were drawn. Classes are drawn
    without replacement from a split, and so are the images of a class, over support and query
    together: the two never share an image. With `overlap` (BOML's choice) each is drawn without
    replacement on its own, so an image may be in both.

    Where the data set is streamed, `data` holds indices of classes, and the chosen images come from
    the host by one callback for all tasks; the tasks are the same bit by bit.

    Raises ValueError where a split has too few classes or a class too few images.
    """
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if ways < 2:
        raise ValueError(f"ways={ways}: one class leaves nothing to tell apart; choose ways=5")
    smallest = min(len(indices) for indices in classes.splits.values())
    if ways > smallest:
        raise ValueError(
            f"ways={ways} exceeds the {smallest} classes of the smallest split; choose "
            f"ways={smallest} or fewer, or give that split more classes"
        )
    of_each = classes.images.shape[1]
    _refuse_too_few(of_each, shots, queries, overlap)
    if classes.streamed:
        data = {split: jnp.asarray(indices) for split, indices in classes.splits.items()}
        take = _from_host(classes.images)
    else:
        data = {split: jnp.asarray(classes.images[i]) for split, i in classes.splits.items()}
        take = _from_device

    def draw_images(key: Array) -> Array:
        """(shots + queries,) indices of images of one class."""
        if not overlap:
            return jax.random.choice(key, of_each, (shots + queries,), replace=False)
        keys = jax.random.split(key)
        parts = zip(keys, (shots, queries), strict=True)
        return jnp.concatenate(
            [jax.random.choice(k, of_each, (number,), replace=False) for k, number in parts]
        )

    def draw(number: int, key: Array) -> tuple[Array, Array]:
        """(ways,) of `number` classes, and (ways, shots + queries) images of them."""
        class_key, image_key = jax.random.split(key)
        chosen = jax.random.choice(class_key, number, (ways,), replace=False)
        return chosen, jax.vmap(draw_images)(jax.random.split(image_key, ways))

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        draw_one = partial(draw, data[split].shape[0])
        chosen, columns = jax.vmap(draw_one)(jax.random.split(key, n))
        taken = take(data[split], chosen[..., None], columns)

        def part(images: Array) -> Tree:
            number = images.shape[2]
            labels = jnp.repeat(jnp.arange(ways), number)
            return {
                "images": images.reshape(n, ways * number, *images.shape[3:]).astype(float) / 255,
                "labels": jnp.broadcast_to(labels, (n, *labels.shape)),
            }

        return {"support": part(taken[:, :, :shots]), "query": part(taken[:, :, shots:])}

    return TaskSource(data=data, sample=sample, persistent=False)


def _refuse_too_few(of_each: int, shots: int, queries: int, overlap: bool) -> None:
    if overlap and max(shots, queries) > of_each:
        raise ValueError(
            f"shots={shots} and queries={queries} need {max(shots, queries)} different images of a "
            f"class, which has {of_each}; choose {of_each} or fewer of each"
        )
    if not overlap and shots + queries > of_each:
        raise ValueError(
            f"shots={shots} and queries={queries} need {shots + queries} different images of a "
            f"class, which has {of_each}; choose queries={max(of_each - shots, 1)} or fewer"
        )


def _from_device(images: Array, rows: Array, columns: Array) -> Array:
    """images[rows, columns], of the images of a split."""
    return images[rows, columns]


def _from_host(images: np.ndarray) -> Callable[[Array, Array, Array], Array]:
    """The same for the indices of a split's classes: bytes are sent, as few as there can be."""

    def chosen(classes: Array, columns: Array) -> np.ndarray:
        return images[np.asarray(classes), np.asarray(columns)]

    def take(indices: Array, rows: Array, columns: Array) -> Array:
        shape = jax.ShapeDtypeStruct((*columns.shape, *images.shape[2:]), images.dtype)
        # broadcast_all: under vmap all batched arguments have the new axis in front.
        return jax.pure_callback(chosen, shape, indices[rows], columns, vmap_method="broadcast_all")

    return take
