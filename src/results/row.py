"""A row of the results: what is typed for it, which numbers it quotes, what a paper has."""

from typing import NamedTuple


class Published(NamedTuple):
    """A number of somebody else.

    value, half_width   in the unit of result.json: 0.987 is 98.7 %
    recalled            quoted from memory: to be checked against the paper before it is a bar
    """

    value: float
    source: str
    half_width: float | None = None
    recalled: bool = False


class Quoted(NamedTuple):
    """A score of result.json that a row quotes.

    tolerance   a difference that another processor or version of JAX may make; it counts where
                the interval of the difference is smaller, or where there is none
    """

    score: str
    label: str
    percent: bool = False
    tolerance: float = 0.0
    published: Published | None = None


class Row(NamedTuple):
    """One line of a table.

    overrides   as on the command line of src.train, without seed and data.root
    seeds       a run and a stored result for each
    needs       the data set whose files must be there; "" for none
    differs     what is not as in the published protocol, beside what all rows of the group share
    against     the row whose paired difference, seed by seed, is shown beside the value
    """

    name: str
    group: str
    overrides: tuple[str, ...]
    quoted: tuple[Quoted, ...]
    seeds: tuple[int, ...] = (0,)
    needs: str = ""
    differs: str = ""
    against: str = ""

    def command(self) -> str:
        """What is typed to run it once, with the first seed."""
        places = ("data.root=FOLDER",) if self.needs else ()
        return " ".join(("python -m src.train", *self.overrides, *places, f"seed={self.seeds[0]}"))
