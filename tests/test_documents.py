"""Documents: the code in them runs, what they name exists, and their tables are up to date."""

import importlib.util
import inspect
import math
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import bilevel
from bilevel import laws, linear_solvers, lower_optimizers, upper_optimizers
from bilevel import lower_solvers as solvers
from bilevel import solver_iterations as iterations
from src import docs_tables
from src.certification.certify import CERTIFIED, admitted, bias, default_node, unchecked
from src.certification.combinations import DECLARED
from src.running.run import run
from src.settings.groups import names_of
from tests.conftest import QUIET, ROOT, config_of

DOCUMENTS = {
    path: path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]
}
README = DOCUMENTS[ROOT / "README.md"]
TEXT = "\n".join(DOCUMENTS.values())
GROUPS = sorted(folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir())


# Of the recipes of DESIGN.md, what stands in the modules that they add a function to.
RECIPES = {
    "inverse_square": vars(laws),
    "clipped": vars(lower_optimizers),
    "nonlinear_cg": {**vars(iterations), **vars(solvers)},
    "one_correction": {},
    "scaled_identity": vars(linear_solvers),
    "lion": vars(upper_optimizers),
}
# Names that a reader is told to make.
INVENTED = {"mine", "group", *RECIPES}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def execute(code, namespace):
    """As a user would: float32."""
    with jax.enable_x64(False):
        exec(compile(code, "README.md", "exec"), namespace)


# ---- code ----


def test_the_first_screen_is_twelve_lines_that_print_what_they_say(capsys):
    first = blocks("python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 12
    execute(first, {})
    (rhg, x, value), (bda, solution, small) = (
        line.split() for line in capsys.readouterr().out.splitlines()
    )
    assert (rhg, bda) == ("rhg", "bda")
    assert (float(x), float(value)) == pytest.approx((0.5, 0.25), abs=1e-6)
    assert float(solution) == pytest.approx(1, abs=1e-5)
    assert float(small) < 1e-9


def test_the_own_problem_runs_in_python(capsys):
    _, mine, use = blocks("python")
    assert len([line for line in (mine + use).splitlines() if line.strip()]) <= 30
    namespace: dict = {}
    execute(mine + use, namespace)
    result = namespace["result"]
    assert namespace["found"].gradient.shape == (20,)
    # 1.36 after the first iteration; the noise of the targets has a mean square of about 1.
    assert result.scores["test/upper_loss"] < 1.1
    assert str(result.scores["test/largest_weight"]) in capsys.readouterr().out


def test_the_own_problem_runs_on_the_command_line(tmp_path, monkeypatch):
    module = types.ModuleType("src.problems.mine")
    module.__dict__["__name__"] = "src.problems.mine"
    execute(blocks("python")[1], module.__dict__)
    monkeypatch.setitem(sys.modules, "src.problems.mine", module)
    (tmp_path / "conf/problem").mkdir(parents=True)
    (tmp_path / "conf/problem/mine.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    chosen = "problem=mine", "method=rhg", *QUIET, "num_iterations=60", "num_lower_steps=10"
    result = run(config_of(search, *chosen), tmp_path / "run")
    assert result["test/upper_loss"] < 1.3
    assert math.isfinite(result["test/largest_weight"])


def test_the_recipes_of_the_design_work(monkeypatch):
    """f = |y - x|^2 and F = |y - 1|^2: the inverse Hessian is 1/2, and x = 1 the solution."""
    found = {}
    for code in blocks("python", DOCUMENTS[ROOT / "DESIGN.md"]):
        name = re.findall(r"^def (\w+)", code, flags=re.MULTILINE)[-1]
        namespace = dict(RECIPES[name])
        exec(compile(code, "DESIGN.md", "exec"), namespace)
        found[name] = namespace[name]
    assert set(found) == set(RECIPES)
    monkeypatch.setattr(laws, "inverse_square", found["inverse_square"], raising=False)
    implicit = bilevel.hypergradients.implicit(solver=found["scaled_identity"](scale=0.5))
    rhg, methods = bilevel.methods.rhg(), bilevel.methods
    tried = {
        "inverse_square": methods.bda(law="inverse_square"),
        "clipped": methods.rhg(lower_optimizer=found["clipped"](step_size=0.3)),
        "nonlinear_cg": methods.hoag(lower_optimizer=found["nonlinear_cg"]()),
        "one_correction": bilevel.method("mine", found["one_correction"](scale=0.5)),
        "scaled_identity": bilevel.method("mine", implicit),
        "lion": rhg,
    }
    problem = bilevel.problem(
        lambda x, y: jnp.sum((y - x) ** 2),
        lambda x, y: jnp.sum((y - 1) ** 2),
        upper_start=jnp.zeros(3),
        lower_start=jnp.zeros(3),
    )
    for name, method in tried.items():
        optimizer = found["lion"](step_size=0.05) if name == "lion" else optax.sgd(0.2)
        end = bilevel.minimize(problem, method, optimizer=optimizer, num_iterations=40).x
        assert jnp.abs(end - 1).max() < (0.3 if name == "lion" else 1e-4), name


@pytest.mark.slow
def test_the_examples_of_problems_run():
    """A start that many tasks share, and a price whose solution is known."""
    learning, market = blocks("python", DOCUMENTS[ROOT / "docs/problems_and_data.md"])
    namespace: dict = {}
    execute(learning, namespace)
    learned = namespace["learned"]
    assert learned.x["slope"] == pytest.approx(2, abs=0.15)
    assert learned.x["offset"] == pytest.approx(0, abs=0.1)
    assert learned.scores["test/upper_loss"] < 0.5
    execute(market, namespace)
    found = namespace["found"]
    assert found.x == pytest.approx(4 / 3, abs=0.02)
    assert found.y == pytest.approx([2 / 3] * 3, abs=0.01)


# ---- names ----


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(path):
    text = DOCUMENTS[path]
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        file, _, section = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if section:
            titles = re.findall(r"^#+ (.*)$", DOCUMENTS[target], flags=re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert section in anchors, link
    for module in re.findall(r"python -m (src[\w.]*)", text):
        assert importlib.util.find_spec(module) is not None, module
    for file in re.findall(r"`((?:src|tests|conf|notebooks|docs)/[\w./-]*\w)`", text):
        assert (ROOT / file).exists() or Path(file).stem in INVENTED, file
    for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    choices = rf"(?<![\w.])({'|'.join(GROUPS)})=(\w+)"
    for group, name in re.findall(choices, re.sub(r"(?s)```python.*?```", "", text)):
        assert name in [*names_of(group), *INVENTED], f"{group}={name}"


def test_the_methods_with_a_star_are_the_functions_of_the_library():
    functions = {
        name
        for name, value in vars(bilevel.methods).items()
        if inspect.isfunction(value)
        and value.__module__ in ("bilevel.methods", "bilevel.stochastic_methods")
        and not name.startswith("_")
    }
    assert set(re.findall(r"^\| `(\w+)` \* \|", README, flags=re.MULTILINE)) == functions
    listed = re.search(r"(?s)    methods  (.*?)\n    method ", bilevel.__doc__ or "")
    assert listed is not None
    assert set(re.findall(r"\w+", listed[1])) == functions


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_conf_is_in_a_document(group):
    for name in names_of(group):
        assert f"`{group}={name}`" in TEXT or f"`{name}`" in TEXT, f"{group}={name}"


# ---- tables ----


@pytest.mark.slow
def test_generated_tables_are_up_to_date():
    for path, text in docs_tables.rewritten(docs_tables.cheap_tables()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run make docs-tables"


@pytest.mark.slow
def test_the_certification_table_is_up_to_date():
    """All but its errors, which tests/test_hypergradients.py bounds, and its times and memory."""
    tables = {name: table for _, name, table, _ in docs_tables.BLOCK.findall(TEXT)}
    lines = tables["python -m src.certify"].splitlines()
    head, _, *rows = (line.strip("| ").split(" | ") for line in lines)
    assert [row[0] for row in rows] == names_of("hypergradient"), "run src.docs_tables --certify"
    assert len(head) == 6
    for name, parts, error, shown, _, _ in rows:
        declared = unchecked(default_node(name)).differentiates
        assert parts == ", ".join(text for part, text in DECLARED.items() if part in declared)
        number = sum(len(admitted(name, case)) for case in CERTIFIED)
        assert error == "none" if not number else error.endswith(f"(of {number})"), name
        # implicit_kkt is exact up to rounding there.
        expected = pytest.approx(bias(default_node(name), 100), rel=0.1, abs=1e-12)
        assert float(shown) == expected, name


def test_other_tables_stay_as_they_are():
    texts = docs_tables.rewritten({"conf": lambda: ["| new |"]})
    changed = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    assert [path.name for path in changed] == ["configuration.md"]
    assert "<!-- conf -->\n| new |\n<!-- end -->" in texts[changed[0]]


def test_no_placeholder_is_left():
    for path, text in DOCUMENTS.items():
        known = (
            r"BILEVEL_DATA|WANDB_MODE|JAX_PLATFORMS|XLA_FLAGS|XLA_PYTHON_CLIENT_PREALLOCATE"
            r"|SLURM_SUBMIT_DIR"
        )
        assert not re.findall(r"\b[A-Z]+_[A-Z]+\b(?!\w)", re.sub(known, "", text)), path
