"""Which data serves which problem, by the command line's names; runs on data of one's own."""

import json

import jax
import numpy as np
import pytest

from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of
from tests.own_files import write_images

SHORT = [*QUIET, "num_iterations=2", "num_lower_steps=2", "num_validation_tasks=2"]
PROBLEMS = {
    "few_shot": [
        *("model=linear", "model.num_features=3", "problem.ways=2", "problem.queries=2"),
        *("num_test_tasks=2", "meta_batch_size=2"),
    ],
    "hyper_cleaning": ["problem.noise=0.25"],
    "regularisation": ["lower_optimizer.step_size=0.01"],
    "ridge": [],
}


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """{data: the overrides that name it}."""
    folder = tmp_path_factory.mktemp("own")
    write_images(folder / "photos", [f"c{i}" for i in range(8)], each=6)
    np.savez(
        folder / "a.npz",
        images=np.arange(960).reshape(60, 4, 4).astype(np.uint8) % 251,
        labels=np.arange(60) % 6,
    )
    rows = [f"{i % 6} 1:{i % 5} 2:{i % 7} 3:{i % 4}" for i in range(60)]
    (folder / "rows").write_text("\n".join(rows), encoding="utf-8")
    lines = ["a,b,y", *(f"{i % 5},{i % 7},{i % 4 / 2}" for i in range(40))]
    (folder / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    return {
        "image_folder": [f"data.root={folder / 'photos'}"],
        "arrays": [f"data.path={folder / 'a.npz'}"],
        "libsvm": [f"data.path={folder / 'rows'}"],
        "table": [f"data.path={folder / 'a.csv'}", "data.target=y"],
    }


def overrides(own, problem, data, *more):
    name, _, kind = data.partition(" ")
    chosen = [f"data.name={kind}"] if kind else own.get(name, [])
    return [f"problem={problem}", f"data={name}", *chosen, *PROBLEMS[problem], *SHORT, *more]


NUMBERS = "data: its targets are numbers, but classes are needed"
CLASSES = "classes, but ridge regression predicts numbers"
FEW = "so each split needs two at least; choose data with more classes"


@pytest.mark.parametrize(
    ("data", "refusals"),
    [
        ("digits", {"ridge": CLASSES}),
        ("bundled_table digits", {"ridge": CLASSES}),
        ("bundled_table wine", {"ridge": CLASSES, "few_shot": FEW}),
        ("bundled_table diabetes", {"few_shot": NUMBERS, "hyper_cleaning": NUMBERS}),
        ("synthetic_regression", {"few_shot": NUMBERS, "hyper_cleaning": NUMBERS}),
        ("image_folder", {"ridge": CLASSES}),
        ("arrays", {"ridge": CLASSES}),
        ("libsvm", {"ridge": CLASSES}),
        ("table", {"few_shot": NUMBERS, "hyper_cleaning": NUMBERS}),
    ],
)
def test_each_data_set_serves_every_problem_whose_form_it_has(own, data, refusals):
    for problem in PROBLEMS:
        config = config_of(*overrides(own, problem, data))
        with jax.enable_x64(False):
            if problem not in refusals:
                build(config)
                continue
            with pytest.raises(UserError) as refused:
                build(config)
        assert refusals[problem] in str(refused.value), problem


@pytest.mark.parametrize(
    ("problem", "data", "more", "message"),
    [
        ("few_shot", "digits", ["problem.ways=4"], "problem.ways=4 exceeds the 3 classes of the"),
        (
            "few_shot",
            "image_folder",
            ["problem.queries=6"],
            "problem.shots=1 and problem.queries=6 need 7 different images of a class, which has "
            "6; choose problem.queries=5 or fewer",
        ),
        (
            "few_shot",
            "image_folder",
            ["data.split_sizes=[5,5,5]"],
            "data.split_sizes=[5,5,5] asks for at least 15 classes",
        ),
        (
            "hyper_cleaning",
            "image_folder",
            ["data.split_sizes=[5,5,5]"],
            "data.split_sizes=[5,5,5] asks for at least 15 samples of the class c0",
        ),
        ("hyper_cleaning", "libsvm", ["model=conv4"], "does not fit inputs of shape (3,)"),
        (
            "hyper_cleaning",
            "libsvm",
            ["data.sparse=true", "data.standardise=false"],
            "data: its rows are sparse, which problem=regularisation alone can read",
        ),
        (
            "ridge",
            "libsvm",
            ["data.sparse=true", "data.standardise=false", "data.targets=numbers"],
            "data: its rows are sparse, but problem=ridge reads dense ones; choose data.sparse=fal",
        ),
        (
            "regularisation",
            "libsvm",
            ["data.sparse=true"],
            "data.standardise=true: 60 rows of 3 features are kept sparse",
        ),
    ],
)
def test_what_a_problem_cannot_use_is_refused_by_its_key(own, problem, data, more, message):
    with jax.enable_x64(False), pytest.raises(UserError) as refused:
        build(config_of(*overrides(own, problem, data, *more)))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("problem", "data", "pictures"),
    [
        ("few_shot", "image_folder", set()),
        pytest.param(
            *("hyper_cleaning", "image_folder", {"weights.png", "trusted.png"}),
            marks=pytest.mark.slow,
        ),
        ("hyper_cleaning", "libsvm", {"weights.png"}),
        ("regularisation", "table", set()),
        pytest.param("ridge", "table", set(), marks=pytest.mark.slow),
    ],
)
def test_runs_on_data_of_one_s_own(own, tmp_path, problem, data, pictures):
    result = run(config_of(*overrides(own, problem, data)), tmp_path / "run")
    assert np.isfinite(result["test/upper_loss"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    drawn = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert drawn & {"weights.png", "trusted.png"} == pictures
