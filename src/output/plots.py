"""Pictures of a run: its learning curves, its scores step by step, some of its tasks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.files import write_atomically
from src.output.writers import Row

# One panel each; a row's metrics are sorted into them by the end of their names.
PANELS = {
    "loss": ("upper_loss", "lower_loss"),
    "accuracy": ("accuracy", "accuracy_labels_seen"),
    "detection": ("detection_f1", "detection_auc"),
    "error": ("error",),
    "gradient norm": ("hypergradient_norm", "stationarity_norm"),
    "learned": ("alpha", "/s", "/t", "step_size"),
}
LOGARITHMIC = {"gradient norm", "error"}
WIDE = 20  # a logarithmic axis needs values that differ by more than this factor


def learning_curves(rows: list[Row], path: Path, title: str) -> bool:
    """Draw every logged metric against iterations, with its 95 % interval where it has one.

    False (no file) where there is none.
    """
    panels = {name: _columns(rows, endings) for name, endings in PANELS.items()}

    def draw(axes: Any, name: str, columns: dict[str, tuple[list, list]]) -> None:
        colours: dict[str, str] = {}
        for metric, (steps, values) in sorted(columns.items()):
            split, _, quantity = metric.partition("/")
            # Training and validation of one quantity share a colour; validation has dots.
            colour = colours.setdefault(quantity.removesuffix("_labels_seen"), f"C{len(colours)}")
            held_out = split != "train"
            label = f"{split} {quantity.replace('_', ' ')}"
            # A single point is invisible as a line.
            marker = "o" if held_out or len(steps) == 1 else None
            style = "--" if held_out else "-"
            axes.plot(steps, values, colour + style, label=label, marker=marker, markersize=4)
            # None in the rows after all seeds but one have failed.
            half_of = {row["step"]: row.get(f"{metric}_ci95", 0.0) for row in rows}
            half = np.array([half_of[step] for step in steps])
            if half.any():
                low, high = np.array(values) - half, np.array(values) + half
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        values = [value for _, column in columns.values() for value in column]
        if name in LOGARITHMIC and min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_yscale("log")

    return _draw_panels(panels, draw, path, title, "iteration")


def adaptation_curve(curve: Mapping[str, list[float]], path: Path, title: str) -> bool:
    """Draw scores against lower steps with their 95 % intervals; False where there is none."""
    panels = {
        name: [metric for metric in curve if metric.endswith(endings)]
        for name, endings in PANELS.items()
    }

    def draw(axes: Any, name: str, metrics: list[str]) -> None:
        del name
        for metric in metrics:
            values = np.array(curve[metric])
            steps = np.arange(len(values))
            half = np.array(curve.get(f"{metric}_ci95", np.zeros(len(values))))
            label = metric.replace("_", " ").replace("/", " ")
            axes.plot(steps, values, label=label, linewidth=1.3)
            axes.fill_between(steps, values - half, values + half, alpha=0.2, linewidth=0)

    return _draw_panels(panels, draw, path, title, "lower steps")


def _draw_panels(
    panels: Mapping[str, Any],
    draw: Callable[[Any, str, Any], None],
    path: Path,
    title: str,
    xlabel: str,
) -> bool:
    """draw(axes, name, content) for each panel that has content; False (no file) if none has."""
    # Imported here: matplotlib takes over a second, and only the end of a run needs it.
    from matplotlib.figure import Figure

    filled = {name: content for name, content in panels.items() if content}
    if not filled:
        return False
    figure = Figure(figsize=(4.2 * len(filled), 3.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(1, len(filled), squeeze=False)[0]
    for axes, (name, content) in zip(grid, filled.items(), strict=True):
        draw(axes, name, content)
        axes.set_xlabel(xlabel)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, frameon=False)
    save(figure, path)
    return True


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def has_images(task: Any) -> bool:
    """Whether a task is one of images: {"support": {"images", "labels"}, "query": {...}}."""
    return isinstance(task, Mapping) and all(
        isinstance(task.get(part), Mapping) and "images" in task[part]
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


def _columns(rows: list[Row], endings: tuple[str, ...]) -> dict[str, tuple[list, list]]:
    columns: dict[str, tuple[list, list]] = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name and name.endswith(endings):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return columns
