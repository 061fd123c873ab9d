"""Tables of the documentation: `python -m src.docs_tables [--certify]` rewrites them in place.

A table stands between `<!-- name -->` and `<!-- end -->` in a file of docs/ or in README.md; the
name is mostly the command that prints it. The certification table is measured anew, for some
minutes, with --certify alone. docs/laws.md is a table as a whole.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- (?!end)(.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
GROUPS_OF_CONF = (
    "aggregation",
    "lower_optimizer",
    "hypergradient",
    "upper_optimizer",
    "data",
    "model",
    "experiment",
    "sweep",
    "hydra/launcher",
    "debug",
)

# Written whole, as `python -m src.figures` does.
LAWS = "laws.md"

Tables = Mapping[str, Callable[[], Iterable[str]]]


def main() -> None:
    """Rewrite the files, and print the paths of those that changed."""
    parser = argparse.ArgumentParser(
        prog="python -m src.docs_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--certify", action="store_true", help="measure that table too")
    measured = parser.parse_args().certify

    from src.files import write_text
    from src.settings.cli import refusals_as_messages

    with refusals_as_messages(traceback=False):
        tables = {**cheap_tables(), **(measured_tables() if measured else {})}
        for path, text in rewritten(tables).items():
            if path.read_text(encoding="utf-8") != text:
                write_text(path, text)
                print(path.relative_to(ROOT))


def cheap_tables() -> Tables:
    """The tables that are the same wherever they are made; the last one is a whole file."""
    from src import methods
    from src.results.overview import overview
    from src.results.rows import GROUPS
    from src.results.tables import table

    results = {f"results {group}": partial(table, group) for group in GROUPS}
    found = {
        "methods and problems": methods.problem_types,
        "python -m src.methods": methods.combinations,
        "conf": files_of_conf,
    }
    return {**found, **results, "results overview": overview, LAWS: laws}


def measured_tables() -> Tables:
    """The table with times and memory in it."""
    from src import certify

    return {"python -m src.certify": lambda: certify.table([], 100)}


def rewritten(tables: Tables) -> dict[Path, str]:
    """{file: its text with these tables}; other tables stay as they are."""
    texts = {path: path.read_text(encoding="utf-8") for path in documents()}
    lines = {name: "".join(f"{line}\n" for line in table()) for name, table in tables.items()}

    def table(found: re.Match[str]) -> str:
        head, name, old, end = found.groups()
        return f"{head}{lines.get(name, old)}{end}"

    new = {path: BLOCK.sub(table, text) for path, text in texts.items()}
    return {path: lines.get(path.name, text) for path, text in new.items()}


def documents() -> list[Path]:
    """The files that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def files_of_conf() -> Iterable[str]:
    """A row per file of conf/: how to choose it, and the first sentence of its comment."""
    from src.output.tables import markdown
    from src.settings.groups import names_of

    rows = [["choice", "meaning"]]
    for group in GROUPS_OF_CONF:
        for name in names_of(group):
            text = (ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")
            comment = re.sub(r"^# @package.*\n", "", text)
            lines = takewhile(re.compile("# (?!python)").match, comment.splitlines())
            words = " ".join(line[2:] for line in lines)
            meaning = re.split(r"(?<=\.) (?=[A-Z])", words)[0].replace("|", "\\|")
            rows.append([f"`{group}={name}`", meaning])
    return markdown(rows)


def laws() -> Iterable[str]:
    """Where each law ends on the counter-example."""
    import jax

    from src.figures import counterexample

    with jax.enable_x64(True):
        settings = counterexample.recommended()
        names = (None, *counterexample.LAWS)
        solved = {name: counterexample.solve(settings, name) for name in names}
        return counterexample.law_table(solved, settings).splitlines()


if __name__ == "__main__":
    main()
