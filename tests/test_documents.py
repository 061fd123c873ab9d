"""The README's own problem runs as written; the notebook's cells run."""

import importlib.util
import json
import math
import re
import sys
import types

import pytest

from src.running.run import run
from tests.conftest import QUIET, ROOT, config_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def block(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)[0]


def test_the_problem_of_the_readme_runs(tmp_path, monkeypatch):
    module = types.ModuleType("src.problems.mine")
    exec(compile(block("python"), "README.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "src.problems.mine", module)
    module.mine.__module__ = "src.problems.mine"
    (tmp_path / "conf/problem").mkdir(parents=True)
    (tmp_path / "conf/problem/mine.yaml").write_text(block("yaml"), encoding="utf-8")
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    start = run(config_of(search, "problem=mine", *QUIET, "num_iterations=1"), tmp_path / "start")
    ends = {}
    for method in ("rhg", "bda"):
        config = config_of(search, "problem=mine", f"method={method}", *QUIET)
        ends[method] = run(config, tmp_path / method)["test/upper_loss"]
    assert ends["rhg"] < 0.5 * start["test/upper_loss"]
    assert all(math.isfinite(value) for value in ends.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace: dict = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), namespace)


def test_what_the_readme_names_exists():
    for path in [*re.findall(r"\]\((?!http)([^)]+)\)", README), "notebooks/first_steps.ipynb"]:
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", README):
        assert importlib.util.find_spec(module) is not None


def test_no_placeholder_is_left():
    for path in (ROOT / "README.md", ROOT / "DESIGN.md"):
        assert not re.findall(
            r"\b[A-Z]+_[A-Z]+\b(?!\w)", path.read_text(encoding="utf-8").replace("BILEVEL_DATA", "")
        ), path
