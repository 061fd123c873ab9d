"""BOML: `python -m src.boml FILE.json [key=value ...] [--dry] [--parity]` runs a BOML file.

Prints what becomes of each key of the file, and the `python -m src.train` line that does the same;
then runs that. Overrides on the command line win over the file. --parity keeps defects of BOML
too: support and query overlap, which inflates scores.
"""

import argparse
import sys

from src.settings.cli import refusals_as_messages, run_for_people


def main() -> None:
    """Translate the file, print, and run."""
    given = parser().parse_intermixed_args()
    with refusals_as_messages(traceback="traceback=true" in given.overrides):
        overrides = translated(given.file, given.overrides, given.parity)
    if given.dry:
        return
    # As if the printed line had been typed: Hydra and its messages read the command line.
    sys.argv = ["src.train", *overrides]
    from src import train

    run_for_people(train.main)


def translated(path: str, given: list[str], parity: bool) -> list[str]:
    """Print the tables and the line; the overrides of that line. Raises UserError."""
    from src.boml.command import command, overrides_of_rows, replaced, table
    from src.boml.file import read, translate

    rows = translate(path, read(path), parity)
    by = replaced(rows, given)
    overrides = [text for text in overrides_of_rows(rows) if text not in by] + given
    print("\n".join(table([row for row in rows if row.given], by)))
    left_out = [row for row in rows if not row.given]
    if left_out:
        print(f"\nnot in {path}, hence BOML's default:\n")
        print("\n".join(table(left_out, by)))
    print(f"\n{command(overrides)}", flush=True)
    return overrides


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m src.boml",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    found.add_argument("file", metavar="FILE.json", help="a configuration of BOML")
    found.add_argument("overrides", nargs="*", metavar="key=value", help="as for src.train")
    found.add_argument("--dry", action="store_true", help="print only")
    found.add_argument(
        "--parity",
        action="store_true",
        help="BOML's choices: turned characters as classes, MetaInit's network and head; and two\n"
        "of its defects: support and query that overlap, in tests too, which inflates scores,\n"
        "and tests with the first step size, whatever was learned",
    )
    return found


if __name__ == "__main__":
    main()
