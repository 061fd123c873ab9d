"""Results: `python -m src.results [row=NAME] [data.root=FOLDER]` reruns a line of docs/results.md
and compares it with what is stored; without a row it lists all rows.

A new result agrees if it differs from the stored one by no more than their joint 95 % interval, the
root of the sum of both squared half-widths, or by the row's tolerance for rounding where that is
larger. The exit status is 1 where it does not. With keep=true the new result is stored in results/.
A run that was stopped goes on where it was: type the same line again.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.results.row import Row
from src.settings.cli import key_value_arguments, refusals_as_messages

KEYS = {
    "row": "a row by its name (default: none, the rows are listed)",
    "seeds": "which seeds, with commas (default: those that are stored; with keep=true all)",
    "keep": "true: store the result in results/ROW/SEED.json, and run what was not run yet",
    "data.root": "the folder of the data, as for src.train (default: BILEVEL_DATA)",
    "runs": "the folder of the runs (default: runs/results)",
    "traceback": "true: errors with their traceback",
}


def main() -> None:
    """List the rows, or run one and compare."""
    arguments = key_value_arguments("src.results", __doc__, KEYS)
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.results.rows import named
        from src.results.tables import listing
        from src.settings.key_values import one_of, read_pairs

        options = read_pairs(arguments, KEYS)
        keeps = one_of(options, "keep", ("false", "true")) == "true"
        one_of(options, "traceback", ("false", "true"))
        if "row" not in options:
            _refuse_others(options)
            print("\n".join(listing()))
            print("make results ROW=NAME reruns one of them and compares.")
            return
        agrees = _one_row(named(options["row"]), options, keeps)
    sys.exit(0 if agrees else 1)


def _one_row(row: Row, options: Mapping[str, str], keeps: bool) -> bool:
    """Run, compare, store; whether all that was compared agrees."""
    from src.results.rerun import config_of
    from src.results.stored import differing_keys, stored_of, usable
    from src.results.tables import in_full

    stored = stored_of(row)
    print("\n".join(in_full(row, stored)), flush=True)
    kept = {}
    for seed, one in usable(stored).items():
        changed = differing_keys(one, config_of(row, seed))
        if changed:
            print(
                f"seed {seed} was stored with other values of {', '.join(changed[:4])}: it is not "
                "compared; keep=true stores it anew"
            )
        else:
            kept[seed] = one.result
    if not kept and not keeps:
        print(
            "there is nothing to compare with: make results "
            f'ROW={row.name} ARGS="keep=true" runs it and stores the result'
        )
        return True
    seeds = _seeds(row.seeds if keeps else sorted(kept), row.seeds, options)
    return _run_and_compare(row, seeds, kept, options, keeps)


def _run_and_compare(
    row: Row,
    seeds: Sequence[int],
    kept: Mapping[int, Mapping[str, Any]],
    options: Mapping[str, str],
    keeps: bool,
) -> bool:
    from src.results.comparing import compared
    from src.results.keeping import keep
    from src.results.rerun import folder_of, rerun
    from src.results.tables import comparison_lines, estimates
    from src.running.stopping import Stopped
    from src.settings.devices import cores
    from src.settings.overrides import as_override

    runs = Path(options.get("runs", "runs/results"))
    root = options.get("data.root")
    typed = [] if root is None else [as_override("data.root", root)]
    new = {}
    for seed in seeds:
        folder = folder_of(row, seed, runs)
        print(f"\nseed {seed}, in {folder}", flush=True)
        if (folder / "result.json").exists():
            print("it was run before: what it gave is read; remove this folder to run it anew")
        try:
            new[seed] = rerun(row, seed, runs, typed)
        except Stopped as stop:
            print(f"{stop}; to go on, type the same line again", file=sys.stderr)
            sys.exit(stop.status)
        if keeps:
            print(keep(row, seed, folder, cores()))
    print("\n" + "\n".join(estimates(row, new)))
    if keeps:
        print("make docs-tables writes it into docs/results.md")
    if not kept.keys() & new.keys():
        return True
    comparisons = [compared(kept, new, quoted) for quoted in row.quoted]
    print("\n" + "\n".join(comparison_lines(comparisons)))
    return all(one.agrees for one in comparisons)


def _seeds(
    chosen: Sequence[int], known: Sequence[int], options: Mapping[str, str]
) -> Sequence[int]:
    """Those that were typed, else those of `chosen`. Raises UserError on what the row has not."""
    from src.settings.errors import UserError

    if "seeds" not in options:
        return chosen
    names = {str(seed): seed for seed in known}
    typed = dict.fromkeys(options["seeds"].split(","))
    for text in typed:
        if text not in names:
            raise UserError(
                f"seeds={options['seeds']}: {text!r} is no seed of this row; choose some of "
                f"{','.join(names)}"
            )
        if names[text] not in chosen:
            raise UserError(
                f"seeds={options['seeds']}: there is no stored result of seed {text} to compare "
                f"with; choose some of {','.join(map(str, chosen))}, or keep=true to store one"
            )
    return [names[text] for text in typed]


def _refuse_others(options: Mapping[str, str]) -> None:
    from src.settings.errors import UserError

    others = [key for key in options if key != "traceback"]
    if others:
        raise UserError(
            f"{others[0]} is of no use without a row: name one, row=tiny-counterexample-bda"
        )


if __name__ == "__main__":
    main()
