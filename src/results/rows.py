"""All rows, in groups: a table of docs/results.md for each."""

from difflib import get_close_matches
from textwrap import fill
from typing import NamedTuple

from src.results.cleaning_rows import CLEANING
from src.results.few_shot_rows import OMNIGLOT
from src.results.intervention_rows import INTERVENTIONS
from src.results.measured_rows import MEASURED
from src.results.row import Row
from src.results.tiny_rows import TINY
from src.results.whole_network_rows import WHOLE_NETWORK
from src.settings.errors import UserError


class Group(NamedTuple):
    """Rows of one table.

    shared   what differs from the published protocols in all of them
    """

    title: str
    shared: str
    rows: tuple[Row, ...]


GROUPS = {
    "tiny": Group("seconds each, data bundled; a test reruns them", "", TINY),
    "measured": Group("numbers of README.md and docs/", "", MEASURED),
    "interventions": Group(
        "one change at a time, Omniglot, 5 ways, 1 shot, `rhg`: what helps, by validation",
        "",
        INTERVENTIONS,
    ),
    "whole_network": Group(
        "one change at a time, Omniglot, 1 shot, a whole network adapts: what helps, by validation",
        "",
        WHOLE_NETWORK,
    ),
    "omniglot": Group(
        "Omniglot with rotations, beside the papers",
        "6,000 iterations of 8 tasks where the command names no others (published: from 3,000 of "
        "16 in the code of BDA to 40,000 of 32 in MAML's); 100 of the 423 test "
        "characters are for validation; turned characters are classes in tests too; last state",
        OMNIGLOT,
    ),
    "cleaning": Group(
        "data hyper-cleaning, beside the papers",
        "100 iterations with Adam's step 0.1 (published: 3,000 with 0.01 in the code of IAPTT-GM, "
        "100 with 0.001 in PBGD's); the network has ReLU units (IAPTT-GM none, PBGD sigmoids); "
        "our F1 is that of the polluted samples found, theirs that of the clean samples kept; "
        "last state",
        CLEANING,
    ),
}
ROWS = {row.name: row for group in GROUPS.values() for row in group.rows}


def named(name: str) -> Row:
    """The row of this name. Raises UserError, which lists all rows, and the nearest at the end."""
    if name in ROWS:
        return ROWS[name]
    near = get_close_matches(name, ROWS, n=3, cutoff=0.4)
    listed = fill(", ".join(ROWS), 100, break_on_hyphens=False)
    hint = f"\ndid you mean {', '.join(near)}?" if near else ""
    raise UserError(f"row={name} is not known; the rows are\n{listed}{hint}")
