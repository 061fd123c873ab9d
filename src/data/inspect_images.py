"""How hard a set of drawings is, in one number, and how it looks, on one sheet."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.data.image_classes import ImageClasses
from src.files import write_atomically


def nearest_neighbour_accuracy(
    classes: ImageClasses, split: str, ways: int, shots: int, num_tasks: int, seed: int
) -> tuple[float, float]:
    """(mean, half width of its 95 % interval) of 1-nearest-neighbour in raw pixels (L2).

    Tasks of `ways` classes, `shots` support drawings and all other drawings of each class as
    queries. Raises ValueError where the split or the drawings are too few.
    """
    indices, (_, *shape) = classes.splits[split], classes.images.shape[1:]
    drawings = _fewest(classes, indices)
    if not 1 <= ways <= len(indices) or not 1 <= shots < drawings or num_tasks < 2:
        raise ValueError(
            f"ways={ways}, shots={shots}, num_tasks={num_tasks}: the {split} split has "
            f"{len(indices)} classes of {drawings} drawings, and two tasks are the fewest"
        )
    generator = np.random.default_rng(seed)
    pixels = classes.images[indices, :drawings].reshape(len(indices), drawings, int(np.prod(shape)))
    owner = np.repeat(np.arange(ways), shots)
    truth = np.repeat(np.arange(ways), drawings - shots)
    accuracies = np.empty(num_tasks)
    for task in range(num_tasks):
        chosen = generator.choice(len(indices), ways, replace=False)
        order = generator.permuted(np.tile(np.arange(drawings), (ways, 1)), axis=1)
        taken = pixels[chosen[:, None], order].astype(np.float64)
        support = taken[:, :shots].reshape(ways * shots, -1)
        query = taken[:, shots:].reshape(len(truth), -1)
        # |q - s|^2 up to |q|^2, which does not change the nearest support drawing.
        nearest = ((support**2).sum(1) - 2 * query @ support.T).argmin(1)
        accuracies[task] = (owner[nearest] == truth).mean()
    return float(accuracies.mean()), float(1.96 * accuracies.std(ddof=1) / np.sqrt(num_tasks))


def contact_sheet(
    classes: ImageClasses,
    split: str,
    path: Path,
    seed: int,
    num_classes: int = 10,
    num_drawings: int = 10,
) -> None:
    """A PNG at `path`: drawings of random classes of the split, a class with its name per row.

    Shows fewer where the data set has fewer. Raises OSError where `path` cannot be written.
    """
    indices = classes.splits[split]
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(indices)[:num_classes])
    columns = min(num_drawings, _fewest(classes, rows))
    figure = Figure(figsize=(3 + 0.6 * columns, 0.6 * len(rows)))
    left = 3 / (3 + 0.6 * columns)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=left, right=0.995, bottom=0.01, top=0.99, wspace=0.08, hspace=0.08)
    for row, index in enumerate(rows):
        shown = generator.permutation(_fewest(classes, np.array([index])))[:columns]
        for cell, image in zip(axes[row], classes.images[index, shown], strict=True):
            # Drawings hold ink, photographs light.
            light = 255 - image.squeeze(-1) if image.shape[-1] == 1 else image
            cell.imshow(light, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set(color="0.8", linewidth=0.5)
        name = classes.names[index].replace("/", "\n", 1)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7, wrap=True)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _fewest(classes: ImageClasses, indices: np.ndarray) -> int:
    """How many images the smallest of these classes has."""
    if classes.counts is None:
        return classes.images.shape[1]
    return int(classes.counts[indices].min())
