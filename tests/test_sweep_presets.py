"""Sweeps without their runs: what each preset launches, where, under which names, and refusals."""

import json
import re
from importlib.util import find_spec

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from src.settings.cli import CONF
from src.settings.groups import names_of
from src.settings.launchers import message_of_launcher
from src.settings.sweep_names import LONGEST, constant_keys, job_name, labelled, sweep_name
from tests.conftest import QUIET, python


def with_folder(overrides, folder):
    named = any(override.startswith("hydra.sweep.dir=") for override in overrides)
    return overrides if named else (*overrides, f"hydra.sweep.dir={folder}")


@pytest.fixture
def sweep(tmp_path):
    """`python -m src.train *overrides` with a stand-in for each run: {folder: configuration}."""

    def call(*overrides, says=(), scores=(), submitit=False):
        done = python(
            *["-m", "tests.sweep_script", *with_folder(overrides, tmp_path / "sweep")],
            RUNS=str(tmp_path / "runs.json"),
            SCORES=json.dumps(scores),
            SUBMITIT="1" if submitit else "",
            PATH=str(tmp_path),  # no Slurm here, whatever the machine has
        )
        for fragment in says:
            assert fragment in done.stderr
        assert "Traceback" not in done.stderr
        assert (done.returncode == 0) == ("error:" not in done.stderr), done.stderr
        return json.loads((tmp_path / "runs.json").read_text())

    return call


PRESETS = {
    "methods": (9, {"method=bda,seed=2", "method=rhg,seed=0"}),
    "step_size": (5, {"lower_optimizer.step_size=0.01", "lower_optimizer.step_size=1.0"}),
    "law": (18, {"aggregation.alpha=0.5,aggregation.law=harmonic,num_lower_steps=80"}),
}


def test_every_preset_is_tested():
    assert {*PRESETS, "study"} == set(names_of("sweep"))


@pytest.mark.parametrize(
    "preset", ["step_size", "methods", pytest.param("law", marks=pytest.mark.slow)]
)
def test_a_preset_launches_its_jobs_under_names_that_say_what_differs(preset, sweep):
    number, names = PRESETS[preset]
    runs = sweep(f"sweep={preset}", "problem=counterexample", *QUIET)
    assert len(runs) == number
    assert names <= set(runs)
    for name, config in runs.items():
        for key, value in (part.split("=") for part in name.split(",")):
            node = config
            for part in key.split("."):
                node = node[part]
            assert str(node["name"] if key == "method" else node) == value


def test_a_preset_takes_other_values_from_the_command_line(sweep):
    assert set(sweep("sweep=methods", "problem=ridge", "seed=4", *QUIET)) == {
        "method=rhg",
        "method=trhg",
        "method=bda",
    }
    seeds = sweep("sweep=methods", "problem=ridge", "seed=0", "seeds=3", "method=rhg,bda", *QUIET)
    assert {config["seeds"] for config in seeds.values()} == {3}
    assert set(seeds) == {"method=rhg", "method=bda"}


def test_a_sweep_of_one_job_is_named_by_problem_and_method(sweep):
    assert set(sweep("-m", "problem=ridge", "method=rhg", *QUIET)) == {"ridge-rhg"}


def test_wandb_shows_the_sweep_as_a_group_and_what_differs_as_a_name(sweep, tmp_path):
    runs = sweep("-m", "problem=ridge", "method=rhg,bda", "compilation_cache=false")
    for name, config in runs.items():
        shown = config["logger"]["wandb"]
        assert (shown["group"], shown["name"]) == ("sweep", name)


# The study.


def study_of(folder):
    optuna = pytest.importorskip("optuna")
    return optuna.load_study(study_name="study", storage=f"sqlite:///{folder}/sweep/study.db")


@pytest.mark.parametrize(
    ("problem", "best"),
    [("ridge", min), pytest.param("hyper_cleaning", max, marks=pytest.mark.slow)],
)
def test_a_study_goes_on_and_its_direction_is_that_of_the_monitored_score(
    problem, best, sweep, tmp_path
):
    """A trial without a number counts as failed; run again, only what is missing is done."""
    command = ["sweep=study", f"problem={problem}", *QUIET]
    said = ["it diverged", "1 job gave no result", "a larger hydra.sweeper.n_trials with hydra.sw"]
    first = sweep(*command, "hydra.sweeper.n_trials=3", says=said, scores=(2.0, None, 3.0))
    assert len(first) == 3
    said = ["the study has 3 of 3 trials"]
    failures = (tmp_path / "sweep/failures.jsonl").read_text()
    assert sweep(*command, "hydra.sweeper.n_trials=3", says=said) == {}
    assert (tmp_path / "sweep/failures.jsonl").read_text() == failures
    fourth = sweep(*command, "hydra.sweeper.n_trials=4")
    assert len(fourth) == 1
    assert not set(fourth) & set(first)  # the sampler does not begin again
    study = study_of(tmp_path)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.best_value == best(1.0, 3.0)
    text = (tmp_path / "sweep/optimization_results.yaml").read_text()
    assert f"best_value: {best(1.0, 3.0)}" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["seed=0,1"], ["seed has several values", "the luckiest", "type seeds=3"]),
        (["data.data_seed=range(3)"], ["data.data_seed has several", "type one of them alone"]),
        (["hydra.sweeper.storage=sqlite:///a?b/c.db"], ["a?b", "another hydra.sweep.dir"]),
    ],
    ids=lambda of: of[0],
)
def test_what_a_study_does_not_search(options, words, sweep):
    sweep("sweep=study", "problem=ridge", *QUIET, *options, says=["error:", *words], scores=[])


@pytest.mark.slow
def test_a_study_without_a_number_and_one_of_another_direction_are_explained(sweep, tmp_path):
    command = ["sweep=study", *QUIET, "hydra.sweeper.n_trials=1"]
    said = ["error: no trial of the study gave a number"]
    sweep(*command, "problem=ridge", says=said, scores=[None])
    sweep(*command, "problem=ridge", says=[*said, "failures.jsonl", "a larger hydra.sweeper.n_tr"])
    assert "it diverged" in (tmp_path / "sweep/failures.jsonl").read_text()
    said = ["cannot be used as a study that is to maximize", "choose another hydra.sweep.dir"]
    sweep(*command, "problem=hyper_cleaning", says=["error:", *said])


# Launchers.


def test_every_launcher_is_tested():
    tried = {"processes", "slurm", "slurm_on_this_machine", "ray_on_this_machine"}
    assert set(names_of("hydra/launcher")) == tried


def launcher_of(choice):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose(
            "config",
            overrides=[f"hydra/launcher={choice}", "hydra.sweep.dir=here", "hydra.job.name=job"],
            return_hydra_config=True,
        )
    return instantiate(config.hydra.launcher)


@pytest.mark.parametrize("choice", ["processes", "joblib"])
def test_processes_are_joblibs(choice):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    number = launcher_of(choice).joblib["n_jobs"]
    assert number == {"processes": 2, "joblib": -1}[choice]


@pytest.mark.parametrize("choice", ["slurm", "slurm_on_this_machine"])
def test_jobs_that_submitit_gets_are_queued_again_at_a_time_out(choice, sweep):
    """With a command srun, and without Slurm behind it."""
    pytest.importorskip("submitit")
    launcher = f"hydra/launcher={choice}"
    seen = sweep("-m", launcher, "problem=ridge", "method=rhg,bda", *QUIET, submitit=True)
    assert seen["timeouts"] == {"slurm": 20, "slurm_on_this_machine": 5}[choice]
    if choice == "slurm":
        for line in ("--time=240", "--signal=USR2@120", "--cpus-per-task=4", "--mem=8GB"):
            assert f"#SBATCH {line}" in seen["script"]


REFUSED = {
    "hydra/launcher=ray_aws": ["pip install -e '.[ray]'", "hydra/launcher=basic"],
    "hydra/launcher=slurn": ["is not known: choose", "slurm_on_this_machine", "joblib"],
    "hydra/sweeper=ax": ["hydra/sweeper=ax is not known: choose basic, optuna"],
    "hydra/launcher=slurm": ["no Slurm on this machine", "hydra/launcher=processes"],
    "hydra/sweeper=basic lower_optimizer.step_size=interval(0.1,0.2)": ["Optuna alone", "0.1,0.3"],
    "hydra/launcher=processes hydra.launcher.n_jobs=0": ["hydra.launcher.n_jobs=0 must be a whole"],
    "sweep=study hydra.sweeper.n_trials=-1": ["hydra.sweeper.n_trials=-1 must be a whole number"],
    "hydra.sweep.dir=/dev/null/x": ["/dev/null/x cannot be written", "another hydra.sweep.dir"],
    "hydra.run.dir=runs/mine": ["the folder of one run", "type hydra.sweep.dir=runs/mine"],
    "--cfg hydra": ["-m (--multirun), --cfg, --info and --run exclude each other"],
    "sweep=laws": ["sweep=laws names no file of conf/sweep: did you mean sweep=law?"],
}


@pytest.mark.parametrize("choice", REFUSED)
def test_what_cannot_be_launched_is_explained(choice, sweep):
    command = ["-m", *choice.split(), "problem=ridge", "method=rhg,bda", *QUIET]
    assert sweep(*command, says=["error: ", *REFUSED[choice]]) == {}


def test_ray_is_refused_where_it_is_not_installed(sweep):
    if find_spec("ray") is not None:
        assert launcher_of("ray_on_this_machine")
        return
    command = ["-m", "hydra/launcher=ray_on_this_machine", "problem=ridge", "seed=0,1", *QUIET]
    assert sweep(*command, says=["error: ", "pip install -e '.[ray]'"]) == {}


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("submitit.core.utils", "a job ended without an answer (gone). Jobs that still run are"),
        ("joblib.externals.loky.process_executor", "hydra.launcher.n_jobs=1 needs least memory"),
        ("ray.exceptions", "ray stopped (gone)"),
        ("optuna.exceptions", None),
    ],
)
def test_what_a_launcher_runs_into_is_explained(module, words):
    error = type("Error", (RuntimeError,), {"__module__": module})("gone\nmore")
    message = message_of_launcher(error)
    assert message is None if words is None else words in str(message)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Job not requeued because: timed-out too many times.", "hydra.launcher.max_num_timeout"),
        ("GridSampler only supports discrete distributions.", "write KEY=choice(VALUE)"),
        ("CategoricalDistribution does not support dynamic value space.", "other choices of hydra"),
    ],
)
def test_what_their_texts_mean(text, words):
    assert words in str(message_of_launcher(ValueError(text)))


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("method=bda,seed=1", "method=bda,seed=1"),
        ("aggregation.learn=[alpha,s]", "aggregation.learn=[alpha,s]"),
        ("+x=1e-3", "+x=1e-3"),
        ("", "otherwise"),
        ("data.root=/a/b c", r"data\.root=_a_b_c-[0-9a-f]{8}"),
        ("data.root=../..", r"data\.root=\.\._\.\.-[0-9a-f]{8}"),
        ("..", r"job-[0-9a-f]{8}"),
        ("x='$(rm -r *)'", r"x=___rm_-r_\*?_?_*-[0-9a-f]{8}"),
        ("路径=数据", "路径=数据"),
    ],
)
def test_names_are_fit_for_any_file_system(text, name):
    found = job_name(text, "otherwise")
    assert found == name or re.fullmatch(name, found), found
    assert not set(found) & set("/\\:*?\"<>| '$\n")


def test_long_names_are_cut_and_never_shared(tmp_path):
    long = [f"model.layers=[{','.join(map(str, range(100)))}],seed={seed}" for seed in (0, 1)]
    wide = ["路" * 100 + f"={seed}" for seed in (0, 1)]
    names = {job_name(text, "") for text in (*long, *wide, "a=/b", "a=_b", "a=:b")}
    assert len(names) == 7
    for name in names:
        assert len(name.encode()) <= LONGEST
        (tmp_path / name).mkdir()


def test_keys_that_are_the_same_in_all_jobs():
    swept = [("method", True), ("seed", True), ("problem", False), ("seed", False)]
    assert constant_keys(swept) == ["seed", "problem"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/a/runs/multirun/2026-11-26/07-05-09", "2026-11-26_07-05-09"),
        ("/a/runs/mine/", "mine"),
        ("mine", "mine"),
        ("/", "sweep"),
    ],
)
def test_names_of_sweeps(folder, name):
    assert sweep_name(folder) == name


def test_what_the_command_line_says_of_wandb_stays():
    config = {"logger": {"wandb": {"group": "mine", "name": None}}}
    assert labelled(config, "/a/b", "c")["logger"]["wandb"] == {"group": "mine", "name": "c"}
    assert labelled({"logger": None}, "/a/b", "c") == {"logger": None}
