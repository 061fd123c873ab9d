"""Learning curves as a picture."""

from pathlib import Path

from src.experiment.files import write_atomically
from src.experiment.writers import Row

# One panel each; a row's metrics are sorted into them by the end of their names.
PANELS = {
    "loss": ("upper_loss", "lower_loss"),
    "accuracy": ("accuracy", "accuracy_labels_seen"),
    "error": ("error",),
    "gradient norm": ("hypergradient_norm", "stationarity_norm"),
    "learned": ("alpha", "/s", "/t", "step_size"),
}
LOGARITHMIC = {"gradient norm", "error"}
WIDE = 20  # a logarithmic axis needs values that differ by more than this factor


def learning_curves(rows: list[Row], path: Path, title: str) -> bool:
    """Draw every logged metric against iterations; False (no file) where there is none."""
    # Imported here: matplotlib takes over a second, and only the end of a run needs it.
    from matplotlib.figure import Figure

    panels = {name: _columns(rows, endings) for name, endings in PANELS.items()}
    panels = {name: columns for name, columns in panels.items() if columns}
    if not panels:
        return False
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (name, columns) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
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
        values = [value for _, column in columns.values() for value in column]
        if name in LOGARITHMIC and min(values) > 0 and max(values) > WIDE * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("iteration")
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    return True


def _columns(rows: list[Row], endings: tuple[str, ...]) -> dict[str, tuple[list, list]]:
    columns: dict[str, tuple[list, list]] = {}
    for row in rows:
        for name, value in row.items():
            if "/" in name and name.endswith(endings):
                steps, values = columns.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return columns
