"""Certify: `python -m src.certify` prints how exact and how expensive each estimator is.

error: against finite differences of the function whose derivative it claims to be, the worst of
all small problems, lower dynamics and options (float64). bias: against the true hypergradient of
ridge regression, with default options. time, memory: of one estimate, in lower solves of K steps
(ridge regression, 300 features, float32).
"""

from collections.abc import Iterator

from src.settings.cli import argument_parser, refusals_as_messages


def main() -> None:
    """Print the table in Markdown."""
    parser = argument_parser("src.certify", __doc__)
    parser.add_argument("names", nargs="*", help="files of conf/hypergradient; default: all")
    parser.add_argument("--steps", type=int, default=100, help="K of bias, time and memory")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps} must be at least 1")
    with refusals_as_messages(traceback=False):
        print("\n".join(table(arguments.names, arguments.steps)))


def table(names: list[str], num_lower_steps: int) -> Iterator[str]:
    """The lines of the table. Raises UserError for a name that does not exist."""
    import jax

    from src.certification.certify import (
        CERTIFIED,
        bias,
        costs,
        default_node,
        errors_against_target,
        unchecked,
    )
    from src.certification.combinations import DECLARED
    from src.output.tables import markdown
    from src.settings.errors import UserError
    from src.settings.groups import names_of

    known = names_of("hypergradient")
    for name in names:
        if name not in known:
            raise UserError(f"{name} is no hypergradient; choose from {', '.join(known)}")
    nodes = {name: default_node(name) for name in names or known}
    measured = costs(nodes, num_lower_steps)
    unit = measured["lower solve"]
    rows = [
        ["hypergradient", "gradient of", "error", f"bias, K = {num_lower_steps}", "time", "memory"]
    ]
    with jax.enable_x64(True):
        for name, node in nodes.items():
            errors = [e for case in CERTIFIED for e in errors_against_target(name, case)]
            differentiated = unchecked(node).differentiates
            parts = ", ".join(text for part, text in DECLARED.items() if part in differentiated)
            rows.append(
                [
                    name,
                    parts,
                    f"{max(errors):.0e} (of {len(errors)})" if errors else "none",
                    f"{bias(node, num_lower_steps):.1e}",
                    f"{measured[name].seconds / unit.seconds:.1f}",
                    f"{measured[name].bytes / unit.bytes:.1f}",
                ]
            )
    yield from markdown(rows)


if __name__ == "__main__":
    main()
