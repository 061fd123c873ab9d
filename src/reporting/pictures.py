"""Pictures of a report, as SVG inside the page: a colour is a group in all of them."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.output.quantities import in_words, needs_logarithm
from src.reporting.curves import Curve, thinned

# Each is told from the page's paper, white or black.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"),
    *("#bcbd22", "#17becf"),
)
MOST_GROUPS = 20  # with a colour and a dash of their own; more would not be told apart
# Words in the names of scores that lie in [0, 1].
SHARES = frozenset(("accuracy", "auc", "ceiling", "f1", "precision", "recall", "share"))
_INK = "#010203"  # stands for the colour of the page's text


class Style(NamedTuple):
    """How a group is drawn, in every picture."""

    colour: str
    dashes: str


def styles(number: int) -> list[Style]:
    """One for each group, in order: ten colours with a solid line, then the same with dashes."""
    return [
        Style(COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--") for i in range(number)
    ]


def curves(drawn: Sequence[tuple[Style, Curve]], xlabel: str, name: str) -> str:
    """Curves of this metric with their intervals as bands."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure()
    numbers = np.concatenate([curve.values for _, curve in drawn])
    share = is_share(name, numbers)
    for style, whole in drawn:
        curve = thinned(whole)
        marker = "o" if len(curve.steps) < 12 else None
        axes.plot(
            curve.steps, curve.values, style.dashes, color=style.colour, lw=1.4, marker=marker, ms=3
        )
        if np.isfinite(curve.half_widths).any():
            low, high = band(curve.values, curve.half_widths, share)
            axes.fill_between(curve.steps, low, high, color=style.colour, alpha=0.18, lw=0)
    if not share and needs_logarithm(numbers):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    axes.set_xlabel(xlabel)
    return _as_svg(figure, axes, in_words(name))


def is_share(name: str, values: np.ndarray) -> bool:
    """Whether these are parts of a whole, as an accuracy is: by name, and all within [0, 1]."""
    known = not SHARES.isdisjoint(name.rpartition("/")[2].split("_"))
    finite = values[np.isfinite(values)]
    return known and bool(np.all((finite >= 0) & (finite <= 1)))


def band(values: Any, half_widths: Any, share: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the intervals; of shares within [0, 1], where their scores are."""
    half = np.nan_to_num(half_widths)
    ends = (values - half, values + half)
    return (np.clip(ends[0], 0, 1), np.clip(ends[1], 0, 1)) if share else ends


def against_seconds(
    drawn: Sequence[tuple[Style, Mapping[Any, float], float, float]], name: str
) -> str:
    """A point for each group: {seed: seconds}, their range as a line; mean and half-width."""
    figure, axes = _figure()
    share = is_share(name, np.array([value for *_, value, _ in drawn]))
    for style, seconds, value, half in drawn:
        x = np.array(list(seconds.values()))
        x_error = [[x.mean() - x.min()], [x.max() - x.mean()]]
        low, high = band(value, half, share)
        y_error = [[value - low], [high - value]]
        ends = {"xerr": x_error} if len(x) > 1 else {}
        ends |= {"yerr": y_error} if half > 0 else {}
        axes.errorbar(x.mean(), value, **ends, fmt="o", color=style.colour, ms=4, lw=1, capsize=2)
    axes.set_xlim(left=max(axes.get_xlim()[0], 0))
    axes.set_xlabel("seconds per seed")
    return _as_svg(figure, axes, name)


def _figure() -> tuple[Any, Any]:
    # Imported here: matplotlib takes over a second, and a table needs none.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes: Any = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _as_svg(figure: Any, axes: Any, title: str) -> str:
    """The figure in the page's own ink and letters, with its title for those who hear the page."""
    from html import escape

    import matplotlib

    axes.set_title(title, fontsize=10, color=_INK, parse_math=False)
    axes.grid(alpha=0.2, color=_INK)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.xaxis.label.set(color=_INK, size=9)
    axes.yaxis.get_offset_text().set_color(_INK)
    for side, spine in axes.spines.items():
        spine.set(color=_INK, visible=side in ("left", "bottom"))
    file = io.StringIO()
    # Text stays text; a fixed salt makes the same picture the same letters.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: [\d.]+px [^;\"]*", lambda m: m[0].split("px")[0] + "px sans-serif", svg)
    # A hundredth of a point is not seen. Only of paths: numbers at an axis stay as they are.
    svg = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
