"""Few-shot tasks drawn on the device from uint8 images."""

import jax
import jax.numpy as jnp

from src.bilevel.types import Array, TaskSource, Tree
from src.data.image_classes import ImageClasses


def episodes(classes: ImageClasses, *, ways: int, shots: int, queries: int) -> TaskSource:
    """A stream of N-way tasks: {"support": {"images", "labels"}, "query": {...}}.

    images: (ways * shots or ways * queries, height, width, channels) floats, ink 1 and paper 0;
    labels: ints in 0..ways - 1, in the order in which the classes were drawn. Classes are drawn
    without replacement from a split, and so are the drawings of a class, over support and query
    together: the two never share a drawing.

    Raises ValueError where a split has too few classes or a class too few drawings.
    """
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if ways < 2:
        raise ValueError(f"ways={ways}: one class leaves nothing to tell apart; choose ways=5")
    smallest = min(len(indices) for indices in classes.splits.values())
    if ways > smallest:
        raise ValueError(
            f"ways={ways} exceeds the {smallest} classes of the smallest split (data.split_sizes); "
            f"choose ways={smallest} or fewer"
        )
    drawings = classes.images.shape[1]
    if shots + queries > drawings:
        raise ValueError(
            f"shots={shots} and queries={queries} need {shots + queries} different drawings of a "
            f"class, which has {drawings}; choose queries={max(drawings - shots, 1)} or fewer"
        )
    data = {split: jnp.asarray(classes.images[i]) for split, i in classes.splits.items()}

    def sample_one(images: Array, key: Array) -> Tree:
        class_key, drawing_key = jax.random.split(key)
        chosen = jax.random.choice(class_key, images.shape[0], (ways,), replace=False)
        order = jax.vmap(
            lambda k: jax.random.choice(k, drawings, (shots + queries,), replace=False)
        )(jax.random.split(drawing_key, ways))

        def part(columns: Array) -> Tree:
            number = columns.shape[1]
            taken = images[chosen[:, None], columns].reshape(ways * number, *images.shape[2:])
            return {
                "images": taken.astype(float) / 255,
                "labels": jnp.repeat(jnp.arange(ways), number),
            }

        return {"support": part(order[:, :shots]), "query": part(order[:, shots:])}

    def sample(data: Tree, key: Array, split: str, n: int) -> Tree:
        return jax.vmap(sample_one, (None, 0))(data[split], jax.random.split(key, n))

    return TaskSource(data=data, sample=sample, persistent=False)
