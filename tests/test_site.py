"""The documentation site: it builds without a warning, and nothing is missing in its reference."""

import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import bilevel
from src.documentation import keys
from src.documentation.docstrings import as_rst
from src.documentation.pages import SHOWN, page
from src.running.run import run
from src.settings.build import build
from src.settings.cli import compose_config
from src.settings.config import resolve
from src.settings.groups import names_of
from tests.conftest import QUIET, ROOT, SHORT, config_of

DOCS = ROOT / "docs"


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    """All but the outputs of the notebooks, which test_notebooks.py runs."""
    missing = [name for name in ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        pytest.skip(f"NOT TESTED: {', '.join(missing)} not installed; pip install -e '.[docs]'")
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-D", "nb_execution_mode=off"]
    done = subprocess.run(
        [
            sys.executable,
            *command,
            "-d",
            str(tmp_path / "trees"),
            str(DOCS),
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in DOCS.glob("*.md")} <= built
    for name in ("index", "api", "keys", "estimators", "overview"):
        html = (tmp_path / "site" / f"{name}.html").read_text(encoding="utf-8")
        # Pages are read without a network.
        assert not re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://', html), name


# ---- pages ----


def test_every_page_is_in_the_list_of_pages():
    listed = re.findall(
        r"^(?:.* <)?([\w/]+)>?$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE
    )
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    names = {name for name in listed if "/" not in name}
    assert pages == names


def test_pages_show_files_with_links_inside_the_site():
    for name, file in SHOWN.items():
        text = page(name, "")
        first = (ROOT / file).read_text(encoding="utf-8").splitlines()[0]
        assert text.startswith(first)
        assert "](docs/" not in text
        assert "](README.md" not in text
    assert "](overview.md#methods)" in page("results", "[README](../README.md#methods)")
    assert "](tutorial/01_a.ipynb)" in page("index", "[first](../notebooks/01_a.ipynb)")
    words = page("vocabulary", (DOCS / "vocabulary.md").read_text(encoding="utf-8"))
    assert "| lower variable y, lower objective f |" in words
    assert "## " not in words


# ---- reference ----


def test_every_public_name_is_in_the_reference():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    modules = {
        name for name in bilevel.__all__ if isinstance(getattr(bilevel, name), types.ModuleType)
    }
    for name in set(bilevel.__all__) - modules:
        assert re.search(rf"bilevel\.(?:\w+\.)?{name}\n", text), name
    for name in modules:
        assert f"bilevel.{name}" in text, name


def test_every_estimator_has_its_mathematics():
    text = (DOCS / "estimators.md").read_text(encoding="utf-8")
    for name in names_of("hypergradient"):
        assert f"`{name}`" in text, name


def test_every_key_has_a_meaning():
    files = [Path(keys.CONF, "config.yaml")]
    files += [
        file for group in keys.groups() if group not in keys.presets() for file in keys.files(group)
    ]
    for file in files:
        for key in keys.keys_of(file):
            assert key.meaning or key.path.startswith("hydra."), f"{file}: {key.path}: no comment"


@pytest.mark.parametrize(
    ("file", "key", "default", "meaning"),
    [
        ("config.yaml", "seed", "`0`", "every random choice of a run follows from it"),
        ("data/bundled_table.yaml", "split_sizes", "`null`", "rows for training"),
        ("data/omniglot.yaml", "root", "`BILEVEL_DATA` of the environment", "folder with"),
        ("model/conv4.yaml", "extra", "`method.recommended.extra`, else `none`", "T-layers|MT-net"),
        ("aggregation/descent.yaml", "alpha", "`problem.recommended.alpha`", "share of F"),
        ("hypergradient/implicit_cg.yaml", "solver.tolerance", "else `1e-06`", "relative to"),
        ("problem/ridge.yaml", "problem.recommended", "num_iterations 300,", "numbers that"),
    ],
)
def test_a_key_is_read_with_its_comment(file, key, default, meaning):
    (found,) = [one for one in keys.keys_of(Path(keys.CONF, file)) if one.path == key]
    assert default in keys.shown(found.default)
    assert re.search(meaning, found.meaning)


def test_all_keys_of_a_run_are_listed():
    """What a configuration holds is in the tables; `name` and `reference` are labels."""
    text = "\n".join(keys.every_key())
    config = config_of("problem=ridge", "method=hoag")
    for group in ("", "hypergradient", "lower_optimizer", "upper_optimizer", "data"):
        node = config[group] if group else config
        for name, value in node.items():
            if not isinstance(value, dict) and not name.startswith("_"):
                assert f"| `{group}{'.' * bool(group)}{name}` |" in text, (group, name)


def test_docstrings_become_what_sphinx_reads():
    text = """One line with |y|, a * b and y_K of `code`.

        d_k = s a_k grad F

    first    its meaning
             goes on
    other(K) what it says:
                 inner   of |x|
    """
    lines = "\n".join(as_rst([line.removeprefix("    ") for line in text.splitlines()]))
    assert lines.startswith(r"One line with \|y\|, a \* b and y\_K of ``code``.")
    assert "::\n\n    d_k = s a_k grad F" in lines
    assert "``first``\n    its meaning\n    goes on" in lines
    assert "``other(K)``\n    what it says:\n\n    * ``inner``: of \\|x\\|" in lines


# ---- code on pages ----


def blocks(name, language):
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_recipes_of_a_method_and_of_a_data_set_work(tmp_path, monkeypatch):
    method, data = blocks("extend", "yaml")
    in_python, own_choices, loader = blocks("extend", "python")
    namespace: dict = {}
    exec(in_python, namespace)
    assert namespace["mine"].hypergradient.name == "one_step"
    exec(own_choices, namespace)
    assert "by the function <lambda>" in namespace["mine"].aggregation.formula
    assert "optax" in namespace["mine"].lower_optimizer.formula
    module = types.ModuleType("src.data.mine")
    exec(loader, module.__dict__)
    module.rings.__module__ = "src.data.mine"
    monkeypatch.setitem(sys.modules, "src.data.mine", module)
    for group, text in (("method", method), ("data", data)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text, encoding="utf-8")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    tasks = ["problem.ways=3", "problem.queries=2", "data=digits", "model=linear"]
    chosen = resolve(compose_config([search, "method=mine", *tasks, *QUIET])[0])
    assert build(chosen).hypergradient.name == "one_step"
    cleaning = [search, "problem=hyper_cleaning", "method=rhg", "data=mine", "model=mlp"]
    config = config_of(*cleaning, "model.hidden_sizes=[8]", *QUIET, *SHORT, "num_lower_steps=2")
    assert 0 <= run(config, tmp_path / "run")["test/accuracy"] <= 1
    (curve,) = blocks("run_folder", "python")
    found = {"folder": tmp_path / "run"}
    exec(curve, found)
    assert [step for step, _ in found["curve"]] == [3]
