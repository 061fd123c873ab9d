"""Notebooks: each runs as a program, at a small size, and is the same in both of its files."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
IN_CHINESE = sorted((ROOT / "notebooks/zh").glob("[0-9]*.py"))
# What the cell with the tag `parameters` says, at a small size.
SMALL = {
    "01_first_steps": {"NUM_ITERATIONS": 100, "NUM_POINTS": 5},
    "02_hypergradients": {
        "LOWER_STEPS": (1, 5),
        "SOLVER_STEPS": (1, 2),
        "NUM_FEATURES": 8,
    },
    "03_few_shot": {"NUM_ITERATIONS": 3, "FILTERS": 2, "NUM_TEST_TASKS": 2},
    "04_hyper_cleaning": {
        "NUM_ITERATIONS": 3,
        "NUM_LOWER_STEPS": 3,
        "SIZES": (60, 60, 100),
    },
    "05_own_data": {"NUM_ITERATIONS": 3, "NUM_IMAGES": 100},
    "06_reading_a_sweep": {"NUM_ITERATIONS": 10, "SEEDS": "0,1"},
    "07_from_boml": {"NUM_ITERATIONS": 1, "FILTERS": 2},
}
# Real networks and whole programs: more than ten seconds of a processor.
LONG = {"03_few_shot", "06_reading_a_sweep", "07_from_boml"}
JAXOPT = "ignore:JAXopt is no longer maintained:DeprecationWarning"


def cells(text):
    """The cells of a percent-format file: (head, source)."""
    parts = re.split(r"^(# %%.*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


def small(path):
    """The program of a notebook with other parameters."""
    text = path.read_text(encoding="utf-8")
    ((_, given),) = [cell for cell in cells(text) if "parameters" in cell[0]]
    wanted = "\n".join(f"{name} = {value!r}" for name, value in SMALL[path.stem].items())
    assert sorted(re.findall(r"^([A-Z_]+) =", given, re.MULTILINE)) == sorted(SMALL[path.stem])
    return text.replace(given, wanted)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
        for path in NOTEBOOKS
    ],
)
def test_it_runs(path, tmp_path):
    """In a process of its own: it changes the folder, and some switch to float64."""
    program = tmp_path / path.name
    program.write_text(small(path), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", JAXOPT, str(program)],
        cwd=ROOT / "notebooks",
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout


@pytest.mark.parametrize("path", IN_CHINESE, ids=lambda path: path.stem)
def test_a_translation_has_the_same_code_and_numbers(path):
    pairs = zip(*(cells(one.read_text("utf-8")) for one in (path, english_of(path))), strict=True)
    for (head, source), (english_head, english) in pairs:
        assert head == english_head
        if "[markdown]" not in head:
            assert source == english
            continue
        for pattern in (r"^# #+(?= )", r"`[^`]+`", r"(?<![A-Za-z])\d+(?:,\d{3})*(?:/\d+)?"):
            found, expected = (
                re.findall(pattern, text, re.MULTILINE) for text in (source, english)
            )
            assert sorted(found) == sorted(expected), english


def english_of(path):
    return path.parents[1] / path.name


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, *IN_CHINESE], ids=lambda path: str(path.parent.name + path.stem)
)
def test_both_files_have_the_same_cells(path):
    """`make notebooks` writes the second one; it holds no outputs."""
    notebook = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    expected = [
        re.sub(r"^# ?", "", source, flags=re.MULTILINE) if "[markdown]" in head else source
        for head, source in cells(text)
    ]
    found = ["".join(cell["source"]).strip() for cell in notebook["cells"]]
    assert found == expected, "run make notebooks"
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_all_begin_with_the_cell_that_installs():
    first = {cells(path.read_text(encoding="utf-8"))[1] for path in NOTEBOOKS}
    assert len(NOTEBOOKS) == len(SMALL)
    assert len(first) == 1


def test_on_a_machine_without_the_project_it_is_fetched_and_installed(tmp_path):
    """The first cell in an empty folder, with a git that only says what it would do."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "git").write_text('#!/bin/sh\nmkdir -p "$4/src"; echo "$@" > "$4/said"\n')
    (commands / "git").chmod(0o755)
    _, source = cells(NOTEBOOKS[0].read_text(encoding="utf-8"))[1]
    source = source.replace('ADDRESS = ""', 'ADDRESS = "https://example.org/bilevel"')
    source = source.replace('"pip", "install", "--quiet"', '"pip", "--version"')
    empty = tmp_path / "content"
    empty.mkdir()
    check = "\nprint(os.getcwd(), sys.path[0])"
    done = subprocess.run(
        [sys.executable, "-c", source + check],
        cwd=empty,
        env={**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    project = empty / "bilevel-project"
    said = (project / "said").read_text()
    assert said.split() == ["clone", "--quiet", "https://example.org/bilevel", str(project)]
    assert done.stdout.splitlines()[-1] == f"{project} {project}"


def test_without_an_address_it_says_what_is_missing(tmp_path):
    _, source = cells(NOTEBOOKS[0].read_text(encoding="utf-8"))[1]
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("this is not inside the project: write the address")
