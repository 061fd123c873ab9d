"""How a logged quantity is drawn: its panel, its colour in every picture of a run, its words."""

import zlib
from collections.abc import Collection
from typing import NamedTuple


class Quantity(NamedTuple):
    """panel: which quantities share axes; words: what a legend says."""

    panel: str
    colour: str
    words: str


# Red is left for what is wrong, grey for what is right: in the pictures of samples.
WRONG, RIGHT = "#d62728", "#7f7f7f"
BLUE, ORANGE, GREEN, OLIVE = "#1f77b4", "#ff7f0e", "#2ca02c", "#bcbd22"
PURPLE, BROWN, PINK, CYAN, NAVY, TEAL = (
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#17becf",
    "#393b79",
    "#00796b",
)
SPARE = ("#637939", "#8c6d31", "#7b4173", "#5254a3", "#b5651d", "#556b2f")

QUANTITIES = {
    "upper_loss": Quantity("loss", BLUE, "upper loss F"),
    "lower_loss": Quantity("loss", ORANGE, "lower loss f"),
    "value_function": Quantity("loss", NAVY, "F at the exact solution y*(x)"),
    "accuracy": Quantity("accuracy", GREEN, "accuracy"),
    "accuracy_labels_seen": Quantity("accuracy", GREEN, "accuracy on F's own data (labels seen)"),
    "support_accuracy": Quantity("accuracy", OLIVE, "accuracy on f's own data (support)"),
    "detection_f1": Quantity("detection of wrong labels", PINK, "F1 score"),
    "detection_auc": Quantity("detection of wrong labels", CYAN, "area under the ROC curve"),
    "hypergradient_norm": Quantity("gradient norm", PURPLE, "norm of the hypergradient"),
    "stationarity_norm": Quantity("gradient norm", BROWN, "norm of grad_y f at y_K"),
    "value_function_gradient_norm": Quantity(
        "gradient norm", NAVY, "norm of the exact hypergradient"
    ),
    "largest_eigenvalue": Quantity("curvature", BROWN, "largest eigenvalue of the Hessian of f"),
    "hypergradient_error": Quantity("error", PURPLE, "relative error of the hypergradient"),
    "upper_variable_error": Quantity("error", TEAL, "distance of x to the solution"),
    "lower_variable_error": Quantity("error", BROWN, "distance of y to the solution"),
    "lower_residual": Quantity("residual", BROWN, "of the lower level"),
    "linear_residual": Quantity("residual", PURPLE, "of the linear system"),
    "alpha": Quantity("learned", CYAN, "alpha (mean)"),
    "s": Quantity("learned", PINK, "s"),
    "t": Quantity("learned", OLIVE, "t"),
    "step_size": Quantity("learned", NAVY, "lower step size (mean)"),
    "upper_variable": Quantity("upper variable", TEAL, "x"),
}
PANELS = tuple(dict.fromkeys(quantity.panel for quantity in QUANTITIES.values()))
LOGARITHMIC = {"gradient norm", "error", "residual"}  # where the values differ much
WIDE = 20
SPLITS = ("train", "validation", "test")
STYLES = {"train": "-", "validation": "--", "test": "-"}


def quantity_of(metric: str) -> Quantity | None:
    """Of validation/accuracy that of accuracy; None for what is in no picture.

    An error or an accuracy that a problem names itself is drawn as one.
    """
    name = metric.partition("/")[2]
    if name in QUANTITIES:
        return QUANTITIES[name]
    for ending in ("error", "accuracy", "loss"):
        if name.endswith(ending):
            # The same colour in every picture of every run.
            colour = SPARE[zlib.crc32(name.encode()) % len(SPARE)]
            return Quantity(ending, colour, name.replace("_", " "))
    return None


def needs_logarithm(values: Collection[float]) -> bool:
    """Whether they are positive and differ by more than a linear axis shows."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def in_words(metric: str) -> str:
    """What a legend says of a metric: "validation: accuracy"."""
    quantity = quantity_of(metric)
    split, _, name = metric.partition("/")
    return f"{split}: {name.replace('_', ' ') if quantity is None else quantity.words}"


def in_order(metric: str) -> tuple[int, int, str]:
    """Sorts metrics by training, validation, test, then as above."""
    split, _, name = metric.partition("/")
    names = list(QUANTITIES)
    place = names.index(name) if name in names else len(names)
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), place, name)
