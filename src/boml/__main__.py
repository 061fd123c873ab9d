"""BOML: `python -m src.boml FILE.json [key=value ...] [--dry] [--parity]` runs a BOML file.

Prints how each key of the file is translated, and the `python -m src.train` line that does it;
then runs that. Overrides on the command line win over the file. --parity keeps defects of BOML
too: support and query overlap, which inflates scores.
"""

import argparse
import sys
from collections.abc import Sequence

from src.settings.cli import argument_parser, refusals_as_messages, run_for_people


def main() -> None:
    """Translate the file, print, and run."""
    arguments = parser().parse_intermixed_args()
    with refusals_as_messages(traceback="traceback=true" in arguments.overrides):
        overrides = translated(arguments.file, arguments.overrides, arguments.parity)
    if arguments.dry:
        return
    # As if the printed line had been typed: Hydra and its messages read the command line.
    sys.argv = ["src.train", *overrides]
    from src import train

    run_for_people(train.main, "hydra.run.dir")


def translated(path: str, typed: Sequence[str], parity: bool) -> list[str]:
    """Print the tables and the line; the overrides of that line. Raises UserError."""
    from src.boml.command import command, overrides_of_rows, replaced, table
    from src.boml.file import read, translate

    rows = translate(path, read(path), parity)
    by = replaced(rows, typed)
    overrides = [text for text in overrides_of_rows(rows) if text not in by] + list(typed)
    print("\n".join(table([row for row in rows if row.in_file], by)))
    left_out = [row for row in rows if not row.in_file]
    if left_out:
        print(f"\nnot in {path}, hence BOML's default:\n")
        print("\n".join(table(left_out, by)))
    print(f"\n{command(overrides)}", flush=True)
    return overrides


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command_line = argument_parser("src.boml", __doc__)
    command_line.add_argument("file", metavar="FILE.json", help="a configuration of BOML")
    command_line.add_argument("overrides", nargs="*", metavar="key=value", help="as for src.train")
    command_line.add_argument("--dry", action="store_true", help="print only")
    command_line.add_argument(
        "--parity",
        action="store_true",
        help="BOML's choices: turned characters as classes, MetaInit's network and head; and two\n"
        "of its defects: support and query that overlap, in tests too, which inflates scores,\n"
        "and tests with the first step size, whatever was learned",
    )
    return command_line


if __name__ == "__main__":
    main()
