"""Learning curves as a picture."""

from pathlib import Path

from src.experiment.files import write_atomically
from src.experiment.writers import Row

# One panel each; a row's metrics are sorted into them by the end of their names.
PANELS = {
    "loss": ("upper_loss", "lower_loss"),
    "accuracy": ("accuracy",),
    "error": ("error",),
    "gradient norm": ("hypergradient_norm", "stationarity_norm"),
    "learned": ("alpha", "/s", "/t", "step_size"),
}
LOGARITHMIC = {"gradient norm", "error"}


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
        positive = all(value > 0 for _, values in columns.values() for value in values)
        for metric, (steps, values) in sorted(columns.items()):
            held_out = not metric.startswith("train/")
            label = metric.removeprefix("train/").replace("_", " ")
            # A single point is invisible as a line.
            marker = "o" if held_out or len(steps) == 1 else None
            axes.plot(steps, values, label=label, marker=marker, markersize=3, linewidth=1.3)
        if name in LOGARITHMIC and positive:
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
