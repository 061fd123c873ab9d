"""A picture of predictions: the support images of each class, and queries with what is said."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.output.plots import save
from src.output.quantities import WRONG

MOST_CLASSES, MOST_SHOTS, MOST_QUERIES, MOST_COLUMNS = 20, 5, 48, 8


def prediction_sheet(
    path: Path,
    title: str,
    classes: Sequence[str],
    support: tuple[np.ndarray, np.ndarray],
    query: tuple[np.ndarray, np.ndarray | None],
    probabilities: np.ndarray,
) -> None:
    """Draw support images left, a class per row, and queries right: class and probability of each.

    support, query: (uint8 images as they are to be shown, labels). Where the labels of the queries
    are known, a wrong class is red, and the right one stands behind it. At most 20 classes, 5
    images of each, and 48 queries are shown.
    """
    from matplotlib.figure import Figure

    shown_classes = range(min(len(classes), MOST_CLASSES))
    images, labels = query
    shown = range(min(len(images), MOST_QUERIES))
    columns = min(MOST_COLUMNS, max(3, len(shown)))  # three: so wide is the text above
    rows = max(len(shown_classes), -(-len(shown) // columns))
    shots = min(MOST_SHOTS, max(int((support[1] == label).sum()) for label in shown_classes))
    height = 1.2 * rows + 0.9  # inches
    figure = Figure(figsize=(1.4 + 0.9 * (shots + columns), height))
    figure.suptitle(_short(title, 100), fontsize=10, parse_math=False)
    halves: Any = figure.subfigures(1, 2, width_ratios=[shots + 1.4, columns])
    left, right = halves
    for half, text in (
        (left, "support, a class per row"),
        (right, "queries in order: what is said"),
    ):
        half.text(0.5, 1 - 0.5 / height, text, ha="center", fontsize=8, color="0.35")
    grid = left.subplots(rows, shots, squeeze=False)
    left.subplots_adjust(left=1.3 / (shots + 1.4), right=0.97, top=1 - 0.7 / height, bottom=0.03)
    for row, label in enumerate(shown_classes):
        for axes, index in zip(grid[row], np.flatnonzero(support[1] == label), strict=False):
            _show(axes, support[0][index])
        # Axes that are off show no label.
        grid[row, 0].text(
            -0.15,
            0.5,
            _short(classes[label], 16),
            transform=grid[row, 0].transAxes,
            ha="right",
            va="center",
            fontsize=8,
            parse_math=False,
        )
    answers = right.subplots(rows, columns, squeeze=False)
    right.subplots_adjust(left=0.04, right=0.98, top=1 - 0.9 / height, bottom=0.03, hspace=0.6)
    for axes in (*grid.flat, *answers.flat):
        axes.axis("off")
    for axes, index in zip(answers.flat, shown, strict=False):
        _show(axes, images[index])
        said = int(probabilities[index].argmax())
        label = said if labels is None else int(labels[index])
        wrong = label != said
        but = f" (is {_short(classes[label], 8)})" if wrong else ""
        axes.set_title(
            f"{_short(classes[said], 12)}\n{probabilities[index, said]:.2f}{but}",
            fontsize=7,
            color=WRONG if wrong else "black",
            pad=2,
            parse_math=False,
        )
    with warnings.catch_warnings():
        # Names of classes may have letters that the font lacks: boxes are drawn for them.
        warnings.filterwarnings("ignore", message="Glyph")
        save(figure, path)


def _show(axes: Any, image: np.ndarray) -> None:
    colour = image.repeat(3, axis=-1) if image.shape[-1] == 1 else image
    axes.imshow(colour, interpolation="nearest")
    axes.add_patch(_frame(axes))


def _frame(axes: Any) -> Any:
    """A thin line around white paper, which would not be seen on a white page."""
    from matplotlib.patches import Rectangle

    return Rectangle(
        (0, 0), 1, 1, transform=axes.transAxes, fill=False, color="0.7", lw=0.5, clip_on=False
    )


def _short(text: str, length: int) -> str:
    """Names often begin alike, so what is left out is the middle."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    if len(printable) <= length:
        return printable
    end = (length - 1) // 2
    return f"{printable[: length - 1 - end]}…{printable[-end:]}"
