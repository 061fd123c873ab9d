"""Gallery: `python -m src.gallery [problems=boxes|constrained|kinds|regularisation|A,B]
[methods=rhg,bda]`: which method solves which problem.

boxes: the problems of BOLIB that have bounds on single entries alone. constrained: all others of
it, by `hoag` and `kkt`. kinds: one problem of each kind that a learner meets, by every method.
regularisation: penalties of a logistic regression by every method; draws a picture, too (`to=`).
Names: of BOLIB, or of kinds ("min-max"). Prints tables in Markdown.
"""

import sys
from pathlib import Path

from src.settings.cli import refusals_as_messages
from src.settings.errors import UserError

GROUPS = ("boxes", "constrained", "kinds", "regularisation")


def main() -> None:
    """Print the table for what the command line names."""
    chosen = {"problems": "boxes", "methods": "", "to": "docs/regularisation_methods.png"}
    with refusals_as_messages(traceback=False):
        for argument in sys.argv[1:]:
            key, _, value = argument.partition("=")
            if key not in chosen:
                listed = ", ".join(f"problems={group}" for group in GROUPS)
                raise UserError(
                    f"{argument}: there are {listed}, problems=A,B, methods=A,B and to=FILE"
                )
            chosen[key] = value
        print("\n".join(_lines(**chosen)))


def _lines(problems: str, methods: str, to: str) -> list[str]:
    from src.data.bolib import instance, with_boxes_alone
    from src.gallery import bolib_table, kinds_table, regularisation_table
    from src.gallery.kinds import MAKERS

    chosen = methods.split(",") if methods else None
    if problems == "regularisation":
        suited = regularisation_table.names_without_constraints()
        _refuse_unknown(chosen, tuple(suited))
        return regularisation_table.report(chosen or suited, Path(to))
    kinds = tuple(MAKERS) if problems == "kinds" else tuple(problems.split(","))
    if set(kinds) <= set(MAKERS):
        _refuse_unknown(chosen, tuple(kinds_table.WAYS))
        return kinds_table.tables(kinds, chosen or tuple(kinds_table.WAYS))
    _refuse_unknown(chosen, (*bolib_table.METHODS, "kkt"))
    groups = {"boxes": with_boxes_alone, "constrained": bolib_table.constrained}
    try:
        found = groups[problems]() if problems in groups else problems.split(",")
        instances = {name: instance(name) for name in found}
    except ValueError as error:
        raise UserError(f"{error}; or a kind: {', '.join(MAKERS)}") from error
    usual = bolib_table.METHODS
    if problems == "constrained":
        usual = bolib_table.CONSTRAINED_METHODS
    return bolib_table.table(instances, chosen or usual)


def _refuse_unknown(methods: list[str] | None, known: tuple[str, ...]) -> None:
    for name in methods or ():
        if name not in known:
            raise UserError(f"methods={name}: there are {', '.join(known)}")


if __name__ == "__main__":
    main()
