"""Pictures of learned weights: a histogram, and the samples with the largest and smallest."""

from pathlib import Path
from typing import Any

import numpy as np

from src.output.plots import save
from src.output.quantities import RIGHT, WRONG
from src.problems.weighted_samples import WeightedSamples

UNKNOWN = "training samples"
COLOURS = {"right label": RIGHT, "wrong label": WRONG, UNKNOWN: RIGHT}


def weight_histogram(samples: WeightedSamples, path: Path, title: str) -> bool:
    """Draw the weights of samples whose labels are right, and of those whose labels are wrong.

    Where the run made none wrong, nobody knows which are: then all are of one kind.
    """
    from matplotlib.figure import Figure

    weights, wrong = np.asarray(samples.weights), np.asarray(samples.wrong)
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, max(1.0, float(weights.max())), 41).tolist()
    parts = {"right label": ~wrong, "wrong label": wrong} if wrong.any() else {UNKNOWN: ~wrong}
    for name, rows in parts.items():
        axes.hist(
            weights[rows],
            edges,
            color=COLOURS[name],
            alpha=0.6,
            label=f"{name} ({int(rows.sum())})",
        )
    axes.set(xlabel="learned weight", ylabel="training samples", title=title)
    axes.title.set_fontsize(11)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)
    return True


def trust_sheet(samples: WeightedSamples, path: Path, rows: int = 3, columns: int = 12) -> bool:
    """Draw the training images of the largest and of the smallest weights, with their labels.

    A label that is wrong is red; the weight stands below the label. False (no file) for one sample,
    and for rows of a table, which are no images.
    """
    from matplotlib.figure import Figure

    weights = np.asarray(samples.weights)
    order = np.argsort(-weights, kind="stable")
    count = min(rows * columns, len(order) // 2)
    if not count or np.ndim(samples.images) != 4:
        return False
    rows = -(-count // columns)
    figure = Figure(figsize=(0.72 * columns, 2 * (0.98 * rows + 0.4)), layout="constrained")
    halves: Any = figure.subfigures(2, 1)
    parts = {"largest weights": order[:count], "smallest weights": order[::-1][:count]}
    for half, (title, chosen) in zip(halves, parts.items(), strict=True):
        known = " (a red label is wrong)" if np.any(samples.wrong) else ""
        half.suptitle(f"{title}{known}", fontsize=10)
        grid = half.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, i in zip(grid.flat, chosen, strict=False):
            image = np.asarray(samples.images[i])
            axes.imshow(1 - image.repeat(3, axis=-1) if image.shape[-1] == 1 else image)
            colour = WRONG if samples.wrong[i] else "black"
            axes.set_title(
                f"{int(samples.labels[i])}\n{weights[i]:.2g}", fontsize=7, color=colour, pad=2
            )
    save(figure, path)
    return True
