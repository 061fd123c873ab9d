"""What a person gets wrong is answered by one message that names the key and a way out."""

import jax
import numpy as np
import pytest

from src.settings.build import build
from tests.conftest import QUIET, config_of, message_of, small_few_shot

COUNTEREXAMPLE = ["problem=counterexample", *QUIET]
RIDGE = ["problem=ridge", *QUIET]
FEW_SHOT = "few_shot"  # stands for small_few_shot(folder)


def refusal(monkeypatch, overrides) -> str:
    monkeypatch.setattr("sys.argv", ["train", *overrides])

    def compose_and_build():
        with jax.enable_x64(False):
            build(config_of(*overrides))

    return message_of(compose_and_build)


# (base, overrides, what the message must contain)
REFUSED = [
    # Keys and choices that do not exist.
    ([], ["num_iteration=5"], ["num_iteration is not a key", "did you mean num_iterations?"]),
    # Keys of a group, typed without it; and what other programs call them.
    ([], ["shots=3"], ["shots is not a key", "did you mean problem.shots or problem.train_shots?"]),
    ([], ["lower_step_size=1"], ["did you mean lower_optimizer.step_size?"]),
    ([], ["lr=1"], ["did you mean lower_optimizer.step_size or upper_optimizer.step_size?"]),
    ([], ["problem.shot=3"], ["did you mean problem.shots?", "queries"]),
    (COUNTEREXAMPLE, ["problem.dimensions=3"], ["did you mean problem.dimension?"]),
    (
        COUNTEREXAMPLE,
        ["hypergradient.keep_last=1"],
        ["keep_last is an option of hypergradient=truncated"],
    ),
    ([], ["method=rhg", "aggregation.law=constant"], ["law is an option of aggregation=descent"]),
    (COUNTEREXAMPLE, ["+aggregation.gamma=1"], ["aggregation.gamma is not a key", "alpha, beta"]),
    (COUNTEREXAMPLE, ["+colour=red"], ["colour is not a key", "there is"]),
    (COUNTEREXAMPLE, ["+method.start=1"], ["method.start is not a key", "learn_start"]),
    (
        COUNTEREXAMPLE,
        ["+logger.csv=true"],
        ["logger.csv is not a key", "console, jsonl, tensorboard, wandb"],
    ),
    ([], ["method=bdaa"], ["method=bdaa names no file of conf/method", "bda", "rhg", "trhg"]),
    ([], ["problem=fewshot"], ["did you mean problem=few_shot?", "counterexample", "ridge"]),
    ([], ["hypergradient=unroled"], ["did you mean hypergradient=unrolled?", "truncated"]),
    ([], ["upper_optimizer=rmsprop"], ["upper_optimizer=rmsprop", "adam, momentum, sgd"]),
    ([], ["logger=[wandb,csv]"], ["logger=csv", "jsonl"]),
    ([], ["experiment=foo"], ["experiment"]),
    ([], ["aggregation=null"], ["aggregation=null", "descent, lower_only"]),
    ([], ["~method"], ["method"]),
    (COUNTEREXAMPLE, ["~seed"], ["seed is missing"]),
    (COUNTEREXAMPLE, ["aggregation.law=harmonik"], ["aggregation.law=harmonik", "mean harmonic?"]),
    ([], ["num_iterations"], ["num_iterations", "EQUAL"]),
    ([], ["seed=0,1"], ["Ambiguous value", "--multirun"]),
    # Types.
    ([], ["num_iterations=many"], ["num_iterations='many'", "integer"]),
    ([], ["num_iterations=1.5"], ["num_iterations=1.5", "integer"]),
    ([], ["compilation_cache=1"], ["compilation_cache=1", "boolean"]),
    ([], ["dtype=float16"], ["dtype='float16'", "'float32' or 'float64'"]),
    (COUNTEREXAMPLE, ["problem.dimension=true"], ["problem.dimension=true", "integer"]),
    (COUNTEREXAMPLE, ["method.learn_start=maybe"], ["method.learn_start='maybe'", "boolean"]),
    (COUNTEREXAMPLE, ["method.lower_variable=feet"], ["method.lower_variable", "'head' or 'all'"]),
    (COUNTEREXAMPLE, ["aggregation.learn=[beta]"], ["aggregation.learn", "'alpha', 's' or 't'"]),
    (
        COUNTEREXAMPLE,
        ["problem.monitor.metric=validation/loss"],
        ["problem.monitor.metric=validation/loss", "validation/upper_loss"],
    ),
    (COUNTEREXAMPLE, ["problem.monitor.mode=up"], ["problem.monitor.mode", "'min' or 'max'"]),
    (
        COUNTEREXAMPLE,
        ["logger=[wandb]", "logger.wandb.mode=ofline"],
        ["logger.wandb.mode='ofline'", "'offline', 'online' or 'disabled'"],
    ),
    (FEW_SHOT, ["model.convolution=fast"], ["model.convolution='fast'", "'auto'", "'native'"]),
    # Values out of range.
    ([], ["num_lower_steps=0"], ["num_lower_steps=0", "at least 1"]),
    (COUNTEREXAMPLE, ["seed=-1"], ["seed=-1", "0..4294967295"]),
    (COUNTEREXAMPLE, ["seed=4294967296"], ["seed=4294967296", "0..4294967295"]),
    (COUNTEREXAMPLE, ["aggregation.alpha=1.5"], ["aggregation.alpha=1.5", "[0, 1]"]),
    (COUNTEREXAMPLE, ["aggregation.alpha=-0.1"], ["aggregation.alpha=-0.1", "[0, 1]"]),
    (COUNTEREXAMPLE, ["aggregation.alpha=nan"], ["aggregation.alpha=nan"]),
    (COUNTEREXAMPLE, ["aggregation.s=-1"], ["aggregation.s=-1.0 must be finite and not negative"]),
    (COUNTEREXAMPLE, ["lower_optimizer.step_size=-0.1"], ["lower_optimizer.step_size=-0.1"]),
    (COUNTEREXAMPLE, ["upper_optimizer.step_size=0"], ["upper_optimizer.step_size=0.0"]),
    (COUNTEREXAMPLE, ["upper_optimizer.decay=-1"], ["upper_optimizer.decay=-1.0", "decay=0"]),
    (COUNTEREXAMPLE, ["upper_optimizer.clip_norm=0"], ["upper_optimizer.clip_norm=0", "null"]),
    (
        COUNTEREXAMPLE,
        ["upper_optimizer=momentum", "upper_optimizer.momentum=1"],
        ["upper_optimizer.momentum=1.0", "[0, 1)"],
    ),
    (RIDGE, ["upper_optimizer.b1=1"], ["upper_optimizer.b1=1.0", "[0, 1)"]),
    (RIDGE, ["upper_optimizer.eps=-1"], ["upper_optimizer.eps=-1.0", "positive"]),
    (RIDGE, ["data.noise=-1"], ["data.noise=-1.0"]),
    (RIDGE, ["data.data_seed=-1"], ["data.data_seed=-1"]),
    (RIDGE, ["data.num_relevant=21"], ["data.num_relevant=21", "0..20"]),
    (COUNTEREXAMPLE, ["problem.dimension=0"], ["problem.dimension=0", "dimension=1"]),
    (FEW_SHOT, ["problem.lower_l2=-1"], ["problem.lower_l2=-1.0", "lower_l2=0"]),
    (FEW_SHOT, ["model.filters=0"], ["model.filters=0"]),
    (
        FEW_SHOT,
        ["hypergradient=truncated", "hypergradient.keep_last=3"],
        ["hypergradient.keep_last=3 is outside 0..2", "keep_last=2", "unrolled"],
    ),
    (
        COUNTEREXAMPLE,
        ["hypergradient=truncated", "hypergradient.keep_last=41"],
        ["hypergradient.keep_last=41 is outside 0..40", "keep_last=40"],
    ),
    # Values that do not fit together.
    (FEW_SHOT, ["problem.ways=7"], ["problem.ways=7", "6 classes", "ways=6", "that split more"]),
    (
        FEW_SHOT,
        ["problem.queries=6"],
        ["problem.shots=1 and problem.queries=6", "has 6", "queries=5"],
    ),
    (FEW_SHOT, ["data.split_sizes=[19,6,6]"], ["data.split_sizes=[19, 6, 6]", "31", "has 30"]),
    (FEW_SHOT, ["data.split_sizes=[18,6]"], ["data.split_sizes=[18, 6] has too few entries"]),
    (FEW_SHOT, ["problem.ways=1"], ["problem.ways=1", "choose problem.ways=5"]),
    (
        ["problem=ridge", "method=trhg"],
        ["hypergradient.keep_last=0", "lower_optimizer.learn=scalar"],
        [
            "hypergradient=truncated reaches no lower step",
            "lower_optimizer.step_size would never be learned; keep a step",
        ],
    ),
    # Nothing but another lower optimizer leaves the masks out.
    (
        FEW_SHOT,
        ["method=reptile", "lower_optimizer=masked_sgd"],
        ["lower_optimizer.mask_logits is to be learned", "; take lower_optimizer=sgd, or choose"],
    ),
    (
        ["problem=ridge", "method=trhg"],
        ["hypergradient.keep_last=0", "lower_optimizer=masked_sgd"],
        ["lower_optimizer.mask_logits would", "; keep a step, or take lower_optimizer=sgd"],
    ),
    (
        ["problem=ridge", "method=bda"],
        ["hypergradient=truncated", "aggregation.law=per_step", "aggregation.learn=[alpha]"],
        ["aggregation.alpha has one value per lower step", "choose hypergradient=unrolled"],
    ),
    (
        ["problem=ridge"],
        ["problem.initial_log_penalty=3.0"],
        ["problem.initial_log_penalty=3.0", "max_log_penalty=1.0"],
    ),
    (FEW_SHOT, ["data.split_seed=-1"], ["data.split_seed=-1", "negative"]),
    (FEW_SHOT, ["lower_start=warm"], ["lower_start=warm", "few_shot", "fixed or redrawn"]),
    (
        FEW_SHOT,
        ["meta_batch_size=4", "tasks_at_once=3"],
        ["tasks_at_once=3 must divide the 4 tasks of meta_batch_size=4", "null"],
    ),
    (FEW_SHOT, ["method.lower_variable=all"], ["lower_variable=all", "method.learn_start=true"]),
    (COUNTEREXAMPLE, ["meta_batch_size=2"], ["meta_batch_size=2", "meta_batch_size=1"]),
    (COUNTEREXAMPLE, ["method.learn_start=true"], ["learn_start=false", "no start to learn"]),
    (
        COUNTEREXAMPLE,
        ["aggregation.law=harmonic", "aggregation.ratio=0.9"],
        ["aggregation.ratio=0.9 does nothing with aggregation.law=harmonic", "ratio=null"],
    ),
    (COUNTEREXAMPLE, ["model=conv4"], ["model is set", "model=none"]),
    ([], ["data=none"], ["data=none", "few_shot needs one"]),
    ([], ["data=synthetic_regression"], ["data: its targets are numbers", "classes are needed"]),
    (RIDGE, ["data=digits"], ["data: its targets are 10 classes", "data.targets=numbers"]),
    # A config may call nothing but this project's factories.
    (COUNTEREXAMPLE, ["upper_optimizer._target_=os.system"], ["does not point into bilevel"]),
    (COUNTEREXAMPLE, ["aggregation._target_=bilevel.nowhere.x"], ["cannot be imported"]),
    (
        COUNTEREXAMPLE,
        ["aggregation._target_=bilevel.step_types.Aggregation"],
        ["aggregation._target_=bilevel.step_types.Aggregation is not a function"],
    ),
]


@pytest.mark.parametrize(
    ("base", "overrides", "fragments"), REFUSED, ids=[" ".join(case[1]) for case in REFUSED]
)
def test_refused_before_anything_runs(base, overrides, fragments, omniglot_folder, monkeypatch):
    base = small_few_shot(omniglot_folder) if base == FEW_SHOT else base
    message = refusal(monkeypatch, [*base, *overrides])
    assert all(fragment in message for fragment in fragments), message


def damaged_copy(kind, whole, folder):
    """A folder whose omniglot28.npz is wrong in one way; returns what the message must say."""
    with np.load(whole) as archive:
        arrays = dict(archive)
    target = folder / whole.name
    content = bytearray(whole.read_bytes())
    if kind == "missing":
        return "omniglot28.npz: download"
    if kind == "empty":
        target.write_bytes(b"")
    elif kind == "truncated":
        target.write_bytes(content[: len(content) // 2])
    elif kind == "overwritten in the middle":
        content[1000:1400] = bytes(400)
        target.write_bytes(content)
    elif kind == "a key missing":
        np.savez_compressed(target, images=arrays["images"])
        return "characters"
    elif kind == "floats":
        np.savez_compressed(target, **{**arrays, "images": arrays["images"] / 255})
        return "float64"
    elif kind == "other size":
        np.savez_compressed(target, **{**arrays, "images": arrays["images"][..., :20]})
        return "28, 20"
    elif kind == "too few names":
        np.savez_compressed(target, **{**arrays, "characters": arrays["characters"][:-1]})
        return "30 classes"
    elif kind == "pickled names":
        np.savez_compressed(target, **{**arrays, "characters": arrays["characters"].astype(object)})
        return "characters.npy of"
    return "is no npz archive" if kind == "empty" else "is damaged"


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "truncated",
        "overwritten in the middle",
        "a key missing",
        "floats",
        "other size",
        "too few names",
        "pickled names",
    ],
)
def test_damaged_data_is_named(kind, omniglot_folder, tmp_path, monkeypatch):
    fragment = damaged_copy(kind, omniglot_folder / "omniglot28.npz", tmp_path)
    message = refusal(monkeypatch, small_few_shot(tmp_path))
    assert fragment in message
    assert f"data.root={tmp_path}" in message


def test_data_root_must_be_given(monkeypatch):
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    message = refusal(monkeypatch, ["data=omniglot"])
    assert "data.root is not set" in message
    assert "BILEVEL_DATA" in message
