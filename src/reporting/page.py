"""A report as one HTML page that needs no network: tables to sort and filter, pictures as SVG."""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from src.reporting import pictures
from src.reporting.compared import Report, by_validation, cited, left_out, versions
from src.reporting.curves import Curve, adaptation_curves, learning_curves
from src.reporting.differences import short
from src.reporting.groups import PER_SEED, Group, by_seed, in_order, summary
from src.reporting.notes import notes
from src.reporting.table import column_names, over_tasks, row, seeds_column
from src.settings.references import bibliography, read_references

MOST_PICTURES = 24  # of learning curves
LEARNED = ("alpha", "s", "t", "step_size", "upper_variable")


class Cell(NamedTuple):
    """A table cell: HTML, and what it is sorted by; "": its text."""

    html: str
    value: str = ""
    long: bool = False


def as_page(report: Report, out: Path) -> str:
    """The page for a file in the folder `out`, from which its links to run folders start."""
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    number = sum(len(group.runs) for group in report.groups)
    title = f"{number} run{'s' * (number > 1)} compared by {report.metric}"
    parts = [*_head(report), *_groups(report), *_pictures(report), *_runs(report, out)]
    return template.substitute(title=escape(title), body="\n".join([*parts, *_rest(report, out)]))


def _head(report: Report) -> Iterator[str]:
    written = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    yield f'<p class="faint">Written {written} by <code>python -m src.report</code>.</p>'
    for note in notes(report):
        yield f"<p>{escape(note)}</p>"


def _groups(report: Report) -> Iterator[str]:
    chips = [_chip(style) for style in _styles(report)]
    table = []
    for i, group in enumerate(report.groups):
        texts = row(report, group)
        numbers = _sorted_by(report, group)
        cells = [Cell(escape(text), numbers.get(j, "")) for j, text in enumerate(texts)]
        chip = chips[i] if i < len(chips) else '<span class="chip none"></span>'
        table.append([Cell(chip + cells[0].html, cells[0].value or texts[0]), *cells[1:]])
    yield from _table("groups", column_names(report), table)


def _sorted_by(report: Report, group: Group) -> dict[int, str]:
    """{column: the number behind its text} of the columns that are made of numbers."""
    names = column_names(report)
    found = {names.index(seeds_column(report)): str(next(iter(in_order(group.scores)), 0))}
    for score in {report.metric, by_validation(report)} & {*names}:
        values = group.values(score)
        found[names.index(score)] = repr(summary(values)[0]) if values else "-"
    return found


def _pictures(report: Report) -> Iterator[str]:
    shown = list(zip(_styles(report), report.groups, strict=False))
    yield "<h2>Learning curves</h2>"
    yield (
        "<p>A colour is a row of the table above. A band is a 95 % interval: over "
        f"{escape(seeds_column(report))}, or of one seed over its tasks, where it has several.</p>"
    )
    if len(shown) < len(report.groups):
        yield f"<p>Of {len(report.groups)} rows the first {len(shown)} are drawn.</p>"
    yield '<div class="legend">'
    for style, group in shown:
        yield f"<span>{_chip(style)}{escape(named(report, group))}</span>"
    yield "</div>"
    learned, apart = [], []
    for style, group in shown:
        of = learning_curves(group)
        learned.append((style, {name: curve for name, curve in of.items() if len(curve.steps)}))
        where = f" ({named(report, group)})" if len(shown) > 1 else ""
        apart += [f"{name}{where}" for name, curve in of.items() if not len(curve.steps)]
    if apart:
        yield (
            f'<p class="faint">Not drawn: {escape(", ".join(apart))}. Its seeds share no iteration '
            "(other log_every or eval_every), so there is no mean over them.</p>"
        )
    if any(name.endswith("_labels_seen") for _, of in learned for name in of):
        yield (
            "<p>Labels seen: the lower steps of some methods descend F itself, so their training "
            "scores on F's data are drawn apart from those of the others.</p>"
        )
    names = sorted({name for _, of in learned for name in of}, key=lambda n: _place(report, n))
    trajectories = [name for name in names if name.partition("/")[2] in LEARNED]
    others = [name for name in names if name not in trajectories]
    yield from _gallery(others[:MOST_PICTURES], learned, "iteration")
    if others[MOST_PICTURES:]:
        left = ", ".join(others[MOST_PICTURES:])
        yield f'<p class="faint">Not drawn: {escape(left)}.</p>'
    if trajectories:
        yield "<h2>What was learned beside the model</h2>"
        yield from _gallery(trajectories, learned, "iteration")
    by_step = [(style, adaptation_curves(group)) for style, group in shown]
    names = sorted({name for _, of in by_step for name in of}, key=lambda n: _place(report, n))
    if names:
        yield "<h2>Scores by lower step, last state</h2>"
        yield from _gallery(names, by_step, "lower steps")
    drawn = [
        (style, group.values(PER_SEED), *_score(report, group))
        for style, group in shown
        if group.values(PER_SEED) and group.values(report.metric)
    ]
    if len(drawn) > 1:
        yield "<h2>Score against time</h2>"
        yield (
            "<p>A vertical line is a 95 % interval, as above; a horizontal one goes from the "
            "fastest to the slowest run.</p>"
        )
        svg = pictures.against_seconds(drawn, report.metric)
        yield f'<div class="pictures"><figure>{svg}</figure></div>'


def _place(report: Report, name: str) -> tuple[int, str, str]:
    """The compared score first; of each quantity validation first, which all methods have."""
    split, _, quantity = name.partition("/")
    first = report.metric.rpartition("/")[2] == quantity
    return (-1 if first else 0, quantity, {"validation": "0", "train": "1"}.get(split, split))


def _gallery(
    names: Sequence[str], of_groups: Sequence[tuple[pictures.Style, dict[str, Curve]]], xlabel: str
) -> Iterator[str]:
    yield '<div class="pictures">'
    for name in names:
        drawn = [(style, of[name]) for style, of in of_groups if name in of]
        yield f"<figure>{pictures.curves(drawn, xlabel, name)}</figure>"
    yield "</div>"


def _score(report: Report, group: Group) -> tuple[float, float]:
    """Mean and half of its interval, 0 where there is none."""
    mean, half = summary(group.values(report.metric))
    return mean, half or over_tasks(report, group) or 0.0


def _runs(report: Report, out: Path) -> Iterator[str]:
    yield "<h2>Every run</h2>"
    table = []
    for group in report.groups:
        for run in group.runs:
            result = run.result or {}
            overrides = " ".join(result.get("overrides", []))
            for seed, scores in by_seed(run).items():
                score, seconds = (scores.get(n) for n in (report.metric, PER_SEED))
                table.append(
                    [
                        Cell(_folder(str(run.folder), out), str(run.folder)),
                        *(Cell(escape(option)) for option in group.options),
                        Cell(str(seed)),
                        *(Cell(f"{v:.5g}" if v is not None else "-") for v in (score, seconds)),
                        Cell(escape(overrides), long=True),
                    ]
                )
    keys = [short(key) for key in report.keys]
    yield from _table(
        "runs",
        ["folder", *keys, report.over or "seed", report.metric, PER_SEED, "typed for it"],
        table,
    )


def _rest(report: Report, out: Path) -> Iterator[str]:
    missing = left_out(report)
    if missing:
        yield f"<h2>{len(missing)} without a result</h2>"
        table = [
            [Cell(_folder(folder, out)), Cell(escape(why), long=True)] for folder, why in missing
        ]
        yield from _table("missing", ["folder", "why"], table)
    keys = cited(report)
    if keys:
        known = read_references()
        yield "<h2>What these runs use</h2><ul>"
        for key in keys:
            if key in known:
                title = known[key].fields.get("title", key)
                yield f"<li>{escape(known[key].short())}: {escape(title)}</li>"
        yield "</ul><details><summary>BibTeX</summary>"
        yield f"<pre>{escape(bibliography(keys))}</pre></details>"
    yield "<h2>Versions</h2><ul>"
    for text, number in versions(report).items():
        yield f"<li>{escape(text)}: {number} run{'s' * (number > 1)}</li>"
    yield "</ul>"


def _styles(report: Report) -> list[pictures.Style]:
    return pictures.styles(min(len(report.groups), pictures.MOST_GROUPS))


def _chip(style: pictures.Style) -> str:
    dashed = " dashed" if style.dashes == "--" else ""
    return f'<span class="chip{dashed}" style="border-color:{style.colour}"></span>'


def named(report: Report, group: Group) -> str:
    """What tells this group from the others, in no more words than that takes."""
    names = {id(other): _in_words(report, other) for other in report.groups}
    shorter = {of: _rounded(name) for of, name in names.items()}
    alike = list(shorter.values()).count(shorter[id(group)]) > 1
    return (names if alike else shorter)[id(group)]


def _in_words(report: Report, group: Group) -> str:
    others = [other.options for other in report.groups if other is not group]
    words = []
    for i, key in enumerate(report.keys):
        alike = [options for options in others if options[i] == group.options[i]]
        if len(alike) < len(others):
            words.append(f"{short(key)}={group.options[i]}")
        others = alike
    return ", ".join(words) or "all runs"


def _rounded(text: str) -> str:
    """Its numbers with four digits, which tell rows apart as well as sixteen."""
    number = r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])"
    return re.sub(number, lambda found: f"{float(found[0]):.4g}", text)


def _folder(folder: str, out: Path) -> str:
    path = quote(Path(os.path.relpath(folder, out)).as_posix())
    return f'<a href="{escape(path)}/">{escape(folder)}</a>'


def _table(name: str, header: Sequence[str], table: Sequence[Sequence[Cell]]) -> Iterator[str]:
    yield (
        f'<div class="bar"><input type="search" data-of="{name}" placeholder="show rows with ..." '
        f'aria-label="show rows with these words"><span class="faint" data-count="{name}">'
        f"{len(table)} row{'s' * (len(table) != 1)}</span></div>"
    )
    yield f'<div class="scroll"><table class="sortable" id="{name}"><thead><tr>'
    yield "".join(f'<th><button type="button">{escape(text)}</button></th>' for text in header)
    yield "</tr></thead><tbody>"
    for cells in table:
        yield "<tr>" + "".join(map(_cell, cells)) + "</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell) -> str:
    value = f' data-value="{escape(cell.value)}"' if cell.value else ""
    return f"<td{' class=long' * cell.long}{value}>{cell.html}</td>"
