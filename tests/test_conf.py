"""Every file under conf/ composes, builds and runs; found by walking, so new files enter alone."""

import importlib
import inspect
import math

import jax
import jax.numpy as jnp
import pytest
from omegaconf import OmegaConf

from src import describe
from src.running.loop import initial_state, make_chunk
from src.running.run import run
from src.running.seeds import seed_keys
from src.settings.build import build
from src.settings.cli import CONF
from src.settings.config import NODE_LABELS, NODES, Settings, WandbOptions, Writers
from src.settings.errors import UserError
from tests.conftest import QUIET, ROOT, config_of, linear_few_shot, python, small_few_shot
from tests.photographs import PARTS, cached, photographs, write_pickles
from tests.test_idx import small_arrays, write_idx_files

GROUPS = sorted(folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir())
FILES = {group: sorted(f.stem for f in (ROOT / "conf" / group).glob("*.yaml")) for group in GROUPS}
PAIRS = [(group, file) for group in GROUPS for file in FILES[group]]
# Options that make what has them small.
SMALL = ["num_drawings=6", "block_filters=[4,4]", "pooled_filters=8", "num_features=8"]
IDX = {"mnist", "fashion_mnist"}
DATA_OF = {"bda_cleaning": "mnist"}  # of experiments that name a data set with files
SHORT = ["num_iterations=2", "log_every=1", "num_validation_tasks=2", "num_test_tasks=2"]


def yaml_of(group, file):
    return OmegaConf.load(ROOT / "conf" / group / f"{file}.yaml")


def overrides_for(problem, folder):
    """A small, quick run of a problem; one that needs more than this gets it here."""
    if problem == "few_shot":
        # The programs of tests/test_run.py, so that a worker compiles them once.
        return ["problem=few_shot", *small_few_shot(folder), "num_iterations=2", "log_every=3"]
    quick = [f"problem={problem}", *QUIET, *SHORT]
    if problem == "hyper_cleaning":
        # Convolutions on all the digits a hundred times would take a minute.
        quick += ["data.split_sizes=[40,40,40]", "num_lower_steps=3"]
    return quick


def with_choice(base, group, file):
    """The overrides of `base` with one group chosen anew; its options kept."""
    if group == "logger":
        chosen = [f"logger=[{file}]"] + ["logger.wandb.mode=disabled"] * (file == "wandb")
    else:
        chosen = [f"{group}={file}"]
    # What makes the base small makes the other choice small, where it has such an option.
    options = [o for o in base if o.startswith(f"{group}.")]
    options += [f"{group}.{small}" for small in SMALL]
    chosen += [o for o in options if o.partition("=")[0].rpartition(".")[2] in yaml_of(group, file)]
    return [o for o in base if not o.startswith((f"{group}=", f"{group}."))] + chosen


def candidates(group, file, folder):
    """The problems that a file may fit, cheapest first."""
    if group == "problem":
        return [overrides_for(file, folder)]
    if file in DATA_OF:
        return [[f"{group}={file}", *QUIET, *SHORT, "num_lower_steps=2"]]
    ordered = sorted(FILES["problem"], key=lambda name: (name == "few_shot", name))
    bases = [overrides_for(name, folder) for name in ordered]
    # What suits a learned start alone.
    bases.append([*overrides_for("sine", folder), "method=maml"])
    return [with_choice(base, group, file) for base in bases]


def files_of_data(file, folder):
    """The files that a data set needs, made up and small, and the overrides that name them."""
    folder.mkdir()
    if file == "mini_imagenet":
        parts = photographs(classes=3)
        write_pickles(folder, {part: cached(parts[part]) for part in PARTS})
        return [f"data.root={folder}"]
    if file in IDX:
        write_idx_files(folder, small_arrays(), "")
        verified = ["data.verify=false"] if file == "fashion_mnist" else []
        return [f"data.root={folder}", "data.split_sizes=[4,4,null]", *verified]
    if file == "libsvm":
        rows = [f"{i % 2} 1:{i % 5} 2:{i % 3}" for i in range(20)]
        (folder / "rows").write_text("\n".join(rows), encoding="utf-8")
        return [f"data.path={folder / 'rows'}"]
    return []


def build_for_run(config):
    """`build`, in the float type of the run."""
    with jax.enable_x64(config["dtype"] == "float64"):
        return build(config)


@pytest.mark.parametrize(("group", "file"), PAIRS)
def test_every_file_builds_and_runs(group, file, omniglot_folder, tmp_path):
    needed, refusals = [], []
    if group == "data" or file in DATA_OF:
        needed = files_of_data(DATA_OF.get(file, file), tmp_path / "data")
    for overrides in candidates(group, file, omniglot_folder):
        config = config_of(*overrides, *needed)
        try:
            build_for_run(config)
        except UserError as error:
            refusals.append(str(error))
            continue
        result = run(config, tmp_path / "run")
        assert math.isfinite(result["test/upper_loss"])
        assert result["iterations"] == config["num_iterations"]
        return
    pytest.fail(f"no problem takes it: {refusals}")


# Refused on purpose: f alone has a singular Hessian; the network of points has no such layers.
REFUSED = {
    ("hoag", "counterexample"),
    ("neumann", "counterexample"),
    ("mt_net", "sine"),
    ("warp_grad", "sine"),
}
HAVE_A_START = {"few_shot", "sine"}


# few_shot is the one problem with T- and warp layers: the test above ran them on it.
PAIRED = [
    (method, problem)
    for method in FILES["method"]
    for problem in FILES["problem"]
    if (method, problem) not in {("mt_net", "few_shot"), ("warp_grad", "few_shot")}
]


@pytest.mark.parametrize(("method", "problem"), PAIRED)
def test_every_method_runs_on_every_problem_or_is_refused(method, problem, omniglot_folder):
    base = overrides_for(problem, omniglot_folder)
    if problem == "few_shot":
        base = linear_few_shot(omniglot_folder)
    learns = yaml_of("method", method)["method"]["learn_start"] and problem not in HAVE_A_START
    if learns or (method, problem) in REFUSED:
        with pytest.raises(UserError):
            build_for_run(config_of(*base, f"method={method}"))
        return
    config = config_of(*base, f"method={method}")
    experiment = build_for_run(config)
    with jax.enable_x64(False):
        keys = seed_keys(0, 1)
        state = initial_state(experiment.algorithm, experiment.settings)
        chunk = make_chunk(experiment.source, experiment.algorithm, experiment.settings)
        before = jax.tree.map(jnp.copy, state.variables["problem"])
        for n in range(2):
            state, rows = chunk(state, experiment.source.data, keys, jnp.int32(n), jnp.int32(n + 1))
            assert all(jnp.isfinite(column).all() for column in rows.values()), rows
    leaves = zip(*map(jax.tree.leaves, (before, state.variables["problem"])), strict=True)
    assert any(float(jnp.abs(a - b).max()) > 0 for a, b in leaves), "the upper variable never moved"


FACTORIES = {
    f"{group}/{file}": node
    for group, file in PAIRS
    if group in NODES
    for node in [yaml_of(group, file).get(group, yaml_of(group, file))]
    if node["_target_"] is not None
}


@pytest.mark.parametrize("file", FACTORIES)
def test_a_file_lists_every_option_of_its_factory(file):
    node = FACTORIES[file]
    module, _, name = node["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    options = {n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    labels = NODE_LABELS.get(file.partition("/")[0], set())
    assert set(node) - {"_target_", *labels} == options


def test_top_level_keys_and_groups_are_those_that_the_code_checks():
    top = OmegaConf.load(ROOT / "conf" / "config.yaml")
    assert set(top) - {"defaults", "hydra"} == set(Settings._fields)
    chosen = {str(key) for entry in top.defaults if entry != "_self_" for key in entry}
    assert set(GROUPS) <= chosen <= {*NODES, "method", "logger", "experiment", "debug"}
    assert set(FILES["logger"]) == set(Writers._fields)
    assert set(yaml_of("logger", "wandb").wandb) == set(WandbOptions._fields)
    assert str(ROOT / "conf") == CONF


@pytest.mark.parametrize("problem", FILES["problem"])
def test_describe_says_what_a_run_would_do_and_leaves_nothing(
    problem, omniglot_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    overrides = overrides_for(problem, omniglot_folder)
    monkeypatch.setattr("sys.argv", ["describe", *overrides])
    describe.main()
    lines = capsys.readouterr().out.splitlines()
    config = config_of(*overrides)
    experiment = build_for_run(config)
    for name, formula in experiment.problem.formulas.items():
        assert f"  {name}   {formula}" in lines
    text = "\n".join(lines)
    with jax.enable_x64(False):
        x = jax.eval_shape(experiment.problem.init_upper, jax.random.key(0))
    for leaf in jax.tree.leaves(x):
        assert f"float32  {leaf.shape}" in text
    assert f"k = 1..{config['num_lower_steps']}:" in text
    assert "runs/" in lines[-1]
    assert list(tmp_path.iterdir()) == []


def test_describe_as_a_program(tmp_path):
    done = python("-m", "src.describe", "problem=counterexample", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x, the upper variable (learned)" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["src.train", "src.describe"])
def test_help_does_not_wait_for_jax(program, tmp_path):
    done = python("-X", "importtime", "-m", program, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "problem=few_shot" in done.stdout or "overrides" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported or "src.settings.cli" in imported
    assert not imported & {"jax", "jaxlib", "wandb", "matplotlib", "orbax.checkpoint"}
    assert list(tmp_path.iterdir()) == []
