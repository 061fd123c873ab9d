"""Methods: `python -m src.methods` prints which problems a method takes, and what combines.

Found by trying, why others are refused, too: estimators and their refusals are made as a run would
make them; nothing is compiled or trained.
"""

import sys
from collections.abc import Iterator, Sequence

from src.settings.cli import argument_parser, refusals_as_messages


def main() -> None:
    """Print the tables of problem types, of estimators, of combinations and of BOML's names."""
    _, unknown = argument_parser("src.methods", __doc__).parse_known_args()
    if unknown:
        sys.exit(f"error: src.methods takes no arguments, but got {' '.join(unknown)}")
    with refusals_as_messages(traceback=False):
        print("every combination is tried: about a minute", file=sys.stderr)
        for line in (*problem_types(), "", *combinations()):
            print(line)


def problem_types() -> Iterator[str]:
    """The first lines that `python -m src.methods` prints, in Markdown."""
    from src.certification.problem_types import method_rows
    from src.output.tables import markdown

    rows, reasons = method_rows()
    yield "Which types of problems each method takes:"
    yield ""
    yield from markdown(rows)
    yield ""
    yield from _numbered(reasons)


def combinations() -> Iterator[str]:
    """The other lines, in Markdown."""
    from src.certification.combinations import (
        boml_rows,
        combination_rows,
        estimator_rows,
        further_refusals,
    )
    from src.output.tables import markdown

    yield "What each hypergradient gives a gradient of, and the function whose derivative it is"
    yield "(d: the direction of the lower steps):"
    yield ""
    yield from markdown(list(estimator_rows()))
    yield ""
    rows, reasons = combination_rows()
    yield "Lower optimizers that run with it, by aggregation (`lower_only`, or a law of `descent`):"
    yield ""
    yield from markdown(rows)
    yield ""
    yield from _numbered(reasons)
    yield ""
    yield "Refused for what the problem is, or for what is to be learned:"
    yield ""
    yield from (f"- {when}: {why}" for when, why in further_refusals())
    yield ""
    yield "BOML's twelve combinations, K = 5:"
    yield ""
    yield from markdown(boml_rows())


def _numbered(reasons: Sequence[str]) -> Iterator[str]:
    for number, reason in enumerate(reasons, start=1):
        yield f"{number}. {reason}"


if __name__ == "__main__":
    main()
