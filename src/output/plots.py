"""Pictures of a run: its learning curves, its scores step by step, some of its tasks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.files import write_atomically
from src.output.quantities import (
    LOGARITHMIC,
    PANELS,
    STYLES,
    in_order,
    in_words,
    needs_logarithm,
    quantity_of,
)
from src.output.writers import Row


def learning_curves(rows: list[Row], path: Path, title: str) -> bool:
    """Draw the logged metrics against iterations, with their 95 % intervals where they have such.

    False (no file) where there is none.
    """
    columns = {name: column for name, column in _columns(rows).items() if quantity_of(name)}

    def draw(axes: Any, name: str) -> None:
        steps, values = columns[name]
        # None in the rows after all seeds but one have failed.
        half_of = {row["step"]: row.get(f"{name}_ci95", 0.0) for row in rows}
        half = np.array([half_of[step] for step in steps], float)
        held_out = not name.startswith("train/")
        # A single point is invisible as a line.
        _line(axes, name, steps, values, half, marker=held_out or len(steps) == 1)

    values = {name: column[1] for name, column in columns.items()}
    return _draw_panels(values, draw, path, title, "iteration")


def adaptation_curve(curve: Mapping[str, list[float]], path: Path, title: str) -> bool:
    """Draw scores against lower steps with their 95 % intervals; False where there is none."""
    values = {name: of for name, of in curve.items() if quantity_of(name)}

    def draw(axes: Any, name: str) -> None:
        half = np.array(curve.get(f"{name}_ci95", np.zeros(len(values[name]))), float)
        _line(axes, name, range(len(values[name])), values[name], half, marker=False)

    return _draw_panels(values, draw, path, title, "lower steps")


def _line(axes: Any, metric: str, steps: Any, values: Any, half: np.ndarray, marker: bool) -> None:
    """One curve; its colour says of which quantity it is, dashes and dots say validation."""
    quantity = quantity_of(metric)
    assert quantity is not None
    split = metric.partition("/")[0]
    axes.plot(
        steps,
        values,
        STYLES.get(split, "-"),
        color=quantity.colour,
        marker="o" if marker else None,
        markersize=4,
        linewidth=1.4,
        label=in_words(metric),
    )
    if np.nan_to_num(half).any():
        low, high = np.array(values) - half, np.array(values) + half
        axes.fill_between(steps, low, high, color=quantity.colour, alpha=0.18, linewidth=0)


def _draw_panels(
    values: Mapping[str, Sequence[float]],
    draw: Callable[[Any, str], None],
    path: Path,
    title: str,
    xlabel: str,
) -> bool:
    """draw(axes, metric) for each metric, in the panel of its quantity; False (no file): none."""
    # Imported here: matplotlib takes over a second, and only the end of a run needs it.
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    filled: dict[str, list[str]] = {panel: [] for panel in PANELS}
    for metric in sorted(values, key=in_order):
        quantity = quantity_of(metric)
        assert quantity is not None
        filled.setdefault(quantity.panel, []).append(metric)
    filled = {panel: metrics for panel, metrics in filled.items() if metrics}
    if not filled:
        return False
    columns = 2 if len(filled) == 4 else min(len(filled), 3)
    rows = -(-len(filled) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.6 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (panel, metrics) in zip(grid, filled.items(), strict=False):
        for metric in metrics:
            draw(axes, metric)
        numbers = [value for metric in metrics for value in values[metric]]
        if panel in LOGARITHMIC and needs_logarithm(numbers):
            axes.set_yscale("log")
        axes.set_xlabel(xlabel)
        axes.set_title(panel, fontsize=10)
        axes.grid(alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        if axes.collections:  # bands
            handles.append(Patch(color="0.6", alpha=0.4, linewidth=0))
            labels.append("shaded: 95 % interval")
        axes.legend(handles, labels, fontsize=7, edgecolor="none", framealpha=0.7)
    for axes in grid[len(filled) :]:
        axes.axis("off")
    save(figure, path)
    return True


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def has_images(task: Any) -> bool:
    """Whether tasks are of images: {"support": {"images", "labels"}, "query": {...}}, with or
    without a leading axis. Rows of numbers in place of images are none.
    """
    return isinstance(task, Mapping) and all(
        isinstance(task.get(part), Mapping)
        and "images" in task[part]
        and len(task[part]["images"].shape) > 3
        for part in ("support", "query")
    )


def task_sheet(
    tasks_by_split: Mapping[str, Any], path: Path, classes: int = 10, queries: int = 8
) -> bool:
    """Draw tasks of images: a class per row, its support drawings left of its query drawings.

    tasks_by_split: {split: tasks with a leading axis}. At most `classes` rows and `queries` query
    drawings of a task are shown.
    """
    from matplotlib.figure import Figure

    blocks = [
        (f"{split}, task {i + 1}", *(_by_class(tasks[part], i) for part in ("support", "query")))
        for split, tasks in tasks_by_split.items()
        for i in range(len(tasks["support"]["labels"]))
    ]
    number = len(next(iter(tasks_by_split.values()))["support"]["labels"])
    strips = [_strip(s[:classes, :queries], q[:classes, :queries]) for _, s, q in blocks]
    height, width = strips[0].shape[:2]
    figure = Figure(figsize=(number * width / 60, len(tasks_by_split) * (height / 60 + 0.4)))
    grid = figure.subplots(len(tasks_by_split), number, squeeze=False)
    for axes, (title, *_), strip in zip(grid.flat, blocks, strips, strict=True):
        axes.imshow(strip.clip(0, 1), interpolation="nearest")
        axes.set_title(f"{title}: support | query", fontsize=9)
        axes.axis("off")
    figure.tight_layout()
    save(figure, path)
    return True


def _by_class(part: Mapping[str, Any], task: int) -> np.ndarray:
    """(classes, drawings of each, height, width, channels)."""
    labels, images = np.asarray(part["labels"][task]), np.asarray(part["images"][task])
    order = np.argsort(labels, kind="stable")
    return images[order].reshape(labels.max() + 1, -1, *images.shape[1:])


def _strip(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """One picture in colour: rows are classes; a grey bar between support and query.

    Drawings are shown with dark ink, photographs as they are.
    """
    frame = np.array([[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])

    def tiled(images: np.ndarray) -> np.ndarray:
        shown = 1 - images.repeat(3, axis=-1) if images.shape[-1] == 1 else images
        framed = np.pad(shown, frame, constant_values=0.8)
        return np.concatenate(np.concatenate(framed, axis=1), axis=1)

    left, right = tiled(support), tiled(query)
    bar = np.full((len(left), 6, 3), 0.5)
    return np.concatenate([left, bar, right], axis=1)


def _columns(rows: list[Row]) -> dict[str, tuple[list, list]]:
    columns: dict[str, tuple[list, list]] = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name and not name.endswith("_ci95"):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return columns
