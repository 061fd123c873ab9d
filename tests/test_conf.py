"""Every file under conf/ is built, and a few runs cover every method and every problem.

Found by walking, so new files enter alone.
"""

import importlib
import inspect
import itertools
import math

import jax
import numpy as np
import pytest
from omegaconf import OmegaConf

from src.describe import description
from src.running.run import run
from src.settings.build import build
from src.settings.checked import Settings, WandbOptions, Writers
from src.settings.cli import CONF
from src.settings.config import CITE, NODE_LABELS, NODES
from src.settings.errors import UserError
from tests.conftest import QUIET, ROOT, config_of, linear_few_shot, python, small_few_shot
from tests.own_files import write_images
from tests.photographs import PARTS, cached, photographs, write_pickles
from tests.test_idx import small_arrays, write_idx_files

# hydra/launcher and sweep are not about an experiment: tests/test_sweeps.py composes each.
OF_SWEEPS = {"hydra", "sweep"}
FOLDERS = {folder.name for folder in (ROOT / "conf").iterdir() if folder.is_dir()}
GROUPS = sorted(FOLDERS - OF_SWEEPS)
FILES = {group: sorted(f.stem for f in (ROOT / "conf" / group).glob("*.yaml")) for group in GROUPS}
# Options that make what has them small.
SMALL = ["num_drawings=6", "block_filters=[4,4]", "pooled_filters=8", "num_features=8"]
IDX = {"mnist", "fashion_mnist"}
DATA_OF = {
    "bda_cleaning": "mnist",
    "cleaning": "mnist",
}  # of experiments that name a data set with files
SHORT = ["num_iterations=2", "log_every=1", "num_validation_tasks=2", "num_test_tasks=2"]


def yaml_of(group, file):
    return OmegaConf.load(ROOT / "conf" / group / f"{file}.yaml")


def chosen_by(group, file):
    """{group: file} of the other groups that a file chooses, or one of its group it builds on."""
    entries = [e for e in yaml_of(group, file).get("defaults", []) if e != "_self_"]
    below = [chosen_by(group, entry) for entry in entries if isinstance(entry, str)]
    own = [entry for entry in entries if not isinstance(entry, str)]
    pairs = [pair for entry in [*below, *own] for pair in entry.items()]
    return {str(key).removeprefix("override ").removeprefix("/"): value for key, value in pairs}


def overrides_for(problem, folder, method=None):
    """A small, quick run of a problem; one that needs more than this gets it here."""
    chosen = [] if method is None else [f"method={method}"]
    if problem == "few_shot":
        # Only a network of convolutions has T- and warp layers.
        small = small_few_shot if method in ONLY_WITH_LAYERS else linear_few_shot
        return ["problem=few_shot", *small(folder), *SHORT, *chosen]
    quick = [f"problem={problem}", *QUIET, *SHORT, *chosen]
    if problem == "hyper_cleaning":
        # Convolutions on all the digits a hundred times would take a minute.
        quick += ["data.split_sizes=[40,40,40]", "num_lower_steps=3"]
    if method in ("kkt", "lv_hba") and problem == "bolib":
        quick += ["problem.instance=Bard1984b", "problem.lower_bounds=penalty"]
    if method == "kkt" and problem == "bolib":
        quick += ["lower_optimizer=gradient_descent", "num_lower_steps=200"]
    if method == "lv_hba" and problem == "bolib":
        quick += ["problem.constraint_weight=10", "lower_optimizer.step_size=0.01"]
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
    """The runs that a file may fit, cheapest first."""
    if file in DATA_OF:
        return [[f"{group}={file}", *QUIET, *SHORT, "num_lower_steps=2"]]
    problems = sorted(FILES["problem"], key=lambda name: (name == "few_shot", name))
    if "problem" in chosen_by(group, file):
        problems = [chosen_by(group, file)["problem"]]
    bases = [overrides_for(name, folder) for name in problems]
    # What suits a lower level that is solved, one that is followed, or a learned start.
    bases += [overrides_for("ridge", folder, "hoag"), overrides_for("ridge", folder, "f2sa")]
    bases += [overrides_for("sine", folder, "maml")]
    bases += [overrides_for("bolib", folder, "kkt"), overrides_for("bolib", folder, "lv_hba")]
    bases += [["problem=few_shot", *small_few_shot(folder), *SHORT]]
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
    if file == "table":
        rows = ["a,b,y", *(f"{i % 5},{i % 3},{i % 2}" for i in range(20))]
        (folder / "rows").write_text("\n".join(rows), encoding="utf-8")
        return [f"data.path={folder / 'rows'}", "data.target=y"]
    if file == "arrays":
        np.savez(folder / "a.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
        return [f"data.path={folder / 'a.npz'}"]
    if file == "image_folder":
        write_images(folder, "ab", each=10, shape=(8, 8, 1))
        return [f"data.root={folder}"]
    return []


def build_for_run(config):
    """`build`, in the float type of the run."""
    with jax.enable_x64(config["dtype"] == "float64"):
        return build(config)


# Methods and problems.

# Refused on purpose: f alone has a singular Hessian; the network of points has no such layers; the
# linear system and a perturbed y know no projection; F does not contain x, and first order looks no
# further; the lower level has no constraints.
REFUSED = {
    *itertools.product(["kkt", "lv_hba"], set(FILES["problem"]) - {"bolib"}),
    *itertools.product(
        ["soba", "saba", "srba", "stocbio", "amigo", "mrbo"], ["counterexample", "iaptt_toy"]
    ),
    *itertools.product(["alternating", "pbgd_free"], ["hyper_cleaning", "regularisation", "ridge"]),
    ("hoag", "counterexample"),
    ("neumann", "counterexample"),
    ("sama", "iaptt_toy"),
    ("mt_net", "sine"),
    ("warp_grad", "sine"),
}
HAVE_A_START = {"few_shot", "sine"}
ONLY_WITH_LAYERS = {"mt_net", "warp_grad"}
PAIRS = [(method, problem) for method in FILES["method"] for problem in FILES["problem"]]


def is_refused(method, problem):
    learns = yaml_of("method", method)["method"]["learn_start"]
    recommended = yaml_of("method", method)["method"].get("recommended", {})
    one_task = recommended.get("lower_start") == "warm"
    # A start is learned, or tasks change, in the same problems.
    has_a_start = problem in HAVE_A_START
    return (
        (method, problem) in REFUSED or (learns and not has_a_start) or (one_task and has_a_start)
    )


def covering(pairs):
    """Few of the pairs, in which every method and every problem is met."""
    missing = {("method", method) for method, _ in pairs} | {("problem", p) for _, p in pairs}
    chosen = []
    while missing:
        gains = [{("method", m), ("problem", p)} & missing for m, p in pairs]
        best = max(range(len(pairs)), key=lambda i: len(gains[i]))  # the first of the best
        chosen.append(pairs[best])
        missing -= gains[best]
    return chosen


# From y = 0 the first step is the worst, and it does not see x yet: a warning that is right.
BEGINS_AT_REST = {("iaptt", "regularisation"), ("iaptt", "ridge")}
# few_shot last: the others are cheaper.
COVERING = covering(
    sorted(
        (pair for pair in PAIRS if not is_refused(*pair) and pair not in BEGINS_AT_REST),
        key=lambda p: p[1] == "few_shot",
    )
)


@pytest.mark.parametrize(("method", "problem"), PAIRS)
def test_methods_and_problems(method, problem, omniglot_folder, tmp_path, capsys):
    """Each pair is built, or refused on purpose; a covering set runs."""
    overrides = overrides_for(problem, omniglot_folder, method)
    if is_refused(method, problem):
        with pytest.raises(UserError):
            build_for_run(config_of(*overrides))
        return
    if (method, problem) not in COVERING:
        build_for_run(config_of(*overrides))
        return
    number = COVERING.index((method, problem))
    for group in ("upper_optimizer", "logger"):
        overrides = with_choice(overrides, group, FILES[group][number % len(FILES[group])])
    config = config_of(*overrides)
    assert_described(config, build_for_run(config))
    assert_runs(config, tmp_path)
    assert "warning:" not in capsys.readouterr().err  # x moves


def assert_runs(config, folder):
    result = run(config, folder / "run")
    score = "test/upper_loss" if "test/upper_loss" in result else "validation/upper_loss"
    assert math.isfinite(result[score])
    assert result["iterations"] == config["num_iterations"]


def assert_described(config, experiment):
    """What `python -m src.describe` says is what is built."""
    lines = list(description(config, "runs/here"))
    for name, formula in experiment.problem.formulas.items():
        assert f"  {name}   {formula}" in lines
    text = "\n".join(lines)
    with jax.enable_x64(False):
        x = jax.eval_shape(experiment.problem.init_upper, jax.random.key(0))
    for leaf in jax.tree.leaves(x):
        assert f"float32  {leaf.shape}" in text
    assert f"k = 1..{config['num_lower_steps']}:" in text
    assert "runs/here" in lines[-1]


# The files of every group.

# What the runs above choose, or others test: these files are built here, the others run too.
RUN_ABOVE = {
    *(pair for method in FILES["method"] for pair in chosen_by("method", method).items()),
    *(pair for problem in FILES["problem"] for pair in chosen_by("problem", problem).items()),
}
RUN_HERE = ("aggregation", "hypergradient", "lower_optimizer", "debug")


@pytest.mark.parametrize(("group", "file"), [(g, file) for g in GROUPS for file in FILES[g]])
def test_every_file(group, file, omniglot_folder, tmp_path):
    """It lists every option of its factory, and some problem takes it."""
    if group in NODES:
        assert_lists_every_option(group, file)
    if group in ("method", "problem"):
        return  # built above
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
        if group in RUN_HERE and (group, file) not in RUN_ABOVE:
            assert_runs(config, tmp_path)
        return
    pytest.fail(f"no problem takes it: {refusals}")


def assert_lists_every_option(group, file):
    node = yaml_of(group, file).get(group, yaml_of(group, file))
    if node["_target_"] is None:
        return
    module, _, name = node["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    options = {n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    labels = {CITE, *NODE_LABELS.get(group, set())}
    assert set(node) - {"_target_", *labels} == options


def test_top_level_keys_and_groups_are_those_that_the_code_checks():
    top = OmegaConf.load(ROOT / "conf" / "config.yaml")
    assert set(top) - {"defaults", "hydra"} == set(Settings._fields)
    chosen = {str(key) for entry in top.defaults if entry != "_self_" for key in entry}
    assert set(GROUPS) <= chosen <= {*NODES, "method", "logger", "experiment", "debug", "sweep"}
    assert OF_SWEEPS <= FOLDERS
    assert set(FILES["logger"]) == set(Writers._fields)
    assert set(yaml_of("logger", "wandb").wandb) == set(WandbOptions._fields)
    assert str(ROOT / "conf") == CONF


def test_describe_as_a_program(tmp_path):
    done = python("-m", "src.describe", "problem=counterexample", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x, the upper variable (learned)" in done.stdout
    assert list(tmp_path.iterdir()) == []


PROGRAMS = ["train", "evaluate", "describe", "methods", "certify", "boml", "predict", "report"]
PROGRAMS += ["workspace", "results"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_does_not_wait_for_jax(program, tmp_path):
    done = python("-X", "importtime", "-m", f"src.{program}", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    if program == "train":  # Hydra's own help
        assert "problem=few_shot" in done.stdout
    else:
        assert f"usage: python -m src.{program} " in done.stdout
    if program == "describe":
        assert "overrides" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported or "src.settings.cli" in imported
    slow = {"jax", "jaxlib", "wandb", "matplotlib", "orbax.checkpoint", "optuna", "tensorboard"}
    assert not imported & slow
    assert list(tmp_path.iterdir()) == []
