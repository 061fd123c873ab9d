"""Report: `python -m src.report DIR [DIR ...] [baseline=method=rhg] [metric=best/test/accuracy]`
compares stored runs: run folders, the folder of a sweep, or several.

What differs between the runs becomes the columns. Runs that differ by their seed alone are one row,
with a 95 % interval; over=data.data_seed takes this option in place of the seed. Runs without a
result are listed with the reason. Prints a table, and writes report.html (with learning curves; it
needs no network), report.md, report.csv and report.bib (what the runs cite) into the first folder,
or into out=FOLDER.
"""

from pathlib import Path

from src.settings.cli import key_value_arguments, refusals_as_messages

KEYS = {
    "metric": "the score to compare (default: the monitored one, best state, test)",
    "baseline": "the runs that others are compared with, seed by seed: method=rhg",
    "over": "the option whose values take the place of seeds: data.data_seed",
    "out": "the folder for report.html, report.md, report.csv and report.bib",
    "traceback": "true: errors with their traceback",
}


def main() -> None:
    """Print the comparison, and write it as a page, as Markdown and as CSV."""
    arguments = key_value_arguments(
        "src.report", __doc__, KEYS, metavar="DIR or key=value", nargs="+"
    )
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.files import write_text
        from src.reporting.compared import cited
        from src.reporting.page import as_page
        from src.reporting.report import as_csv, as_lines, as_markdown, make_report
        from src.reporting.stored import find_runs
        from src.settings.errors import UserError
        from src.settings.key_values import read_pairs
        from src.settings.references import bibliography

        # A folder may have = in its name, as those of sweeps do.
        folders = [Path(text) for text in arguments if Path(text).exists()]
        others = [text for text in arguments if not Path(text).exists()]
        for text in others:
            if text.partition("=")[0] not in KEYS:
                raise UserError(f"{text} is not a folder, and no key=value of {', '.join(KEYS)}")
        options = read_pairs(others, KEYS)
        if not folders:
            raise UserError("no folder is named: python -m src.report DIR")
        runs = find_runs(folders)
        chosen = (options.get(key) for key in ("metric", "baseline", "over"))
        report = make_report(runs, *chosen)
        out = Path(options.get("out", folders[0]))
        out.mkdir(parents=True, exist_ok=True)
        written = {
            "report.html": as_page(report, out),
            "report.md": "\n".join(as_markdown(report)) + "\n",
            "report.csv": as_csv(report),
            "report.bib": bibliography(cited(report)),
        }
        for name, text in written.items():
            write_text(out / name, text)
        print("\n".join([*as_lines(report), "", *(str(out / name) for name in written)]))


if __name__ == "__main__":
    main()
