"""Figures: `python -m src.figures [FOLDER]` remakes the figures of the documentation.

counterexample.png, starts.png and laws.md: where BDA's laws end on the counter-example, and from
which starts, with which K. hypergradients.png: the error of every estimator, and the memory of
unrolling. sine.png: curves as MAML predicts them before and after adaptation. cleaning_*.png: which
of the digits RHG trusts where half of the labels are wrong. regularisation.png: hypergradients and
searches against time (optuna is needed; leave the machine alone meanwhile). stochastic.png:
methods on mini-batches against passes over the rows; where they end is printed.
"""

import argparse
from pathlib import Path

SINE_ITERATIONS = None  # as many as conf/problem/sine.yaml recommends
CLEANING_OVERRIDES: tuple[str, ...] = ()  # none: the whole run


def main() -> None:
    """Write the figures to the folder, and print their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m src.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", default="docs", type=Path, help="default: docs")
    folder: Path = parser.parse_args().folder

    import jax

    from src.figures.cleaning import cleaning_figures
    from src.figures.counterexample import LAWS, draw, draw_starts, law_table, recommended, solve
    from src.figures.hypergradients import hypergradient_figure
    from src.figures.regularisation import regularisation_figure
    from src.figures.sine import sine_figure
    from src.figures.stochastic import stochastic_figure
    from src.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):
        settings = recommended()
        solved = {law: solve(settings, law) for law in (None, *LAWS)}
        draw(solved, folder / "counterexample.png")
        draw_starts(settings, folder / "starts.png")
        table = law_table(solved, settings)
    write_text(folder / "laws.md", table)
    hypergradient_figure(folder / "hypergradients.png")
    sine_figure(folder / "sine.png", SINE_ITERATIONS)
    regularisation_figure(folder / "regularisation.png")
    ends = stochastic_figure(folder / "stochastic.png")
    cleaning = folder / "cleaning_weights.png", folder / "cleaning_trusted.png"
    cleaning_figures(*cleaning, *CLEANING_OVERRIDES)
    print(table, ends, sep="\n")
    for path in (*cleaning, *(folder / name for name in NAMES)):
        print(path)


NAMES = (
    *("hypergradients.png", "sine.png", "regularisation.png"),
    *("counterexample.png", "starts.png", "laws.md"),
    "stochastic.png",
)


if __name__ == "__main__":
    main()
