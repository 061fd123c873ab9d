"""Run folders that cannot be used, and refusals as a person meets them at the shell."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from src.running.run import run
from tests.conftest import QUIET, ROOT, config_of, message_of, python

TINY_RUN = [
    "problem=counterexample",
    *QUIET,
    "num_iterations=4",
    "checkpoint_every=2",
    "log_every=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(config_of(*TINY_RUN), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def content(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_identity(folder, **changes):
    path = folder / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def of_code_without(folder, group, key):
    config = json.loads((folder / "identity.json").read_text())["config"]
    del config[group][key]
    edit_identity(folder, config=config)


def damage_checkpoint(folder):
    for path in (folder / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


# (what is done to a finished run's folder, overrides of the run that enters it, fragments)
FOLDERS = {
    "another configuration": (
        None,
        ["problem.dimension=2", "seed=7"],
        ["problem.dimension was 1, now 2", "seed was 0, now 7", "hydra.run.dir"],
    ),
    "code without an option": (
        lambda folder: of_code_without(folder, "upper_optimizer", "average"),
        [],
        ["upper_optimizer.average was not there, now None", "hydra.run.dir"],
    ),
    "another format": (
        lambda folder: edit_identity(folder, format=0),
        [],
        ["checkpoint format 0", "hydra.run.dir"],
    ),
    "resume=never": (None, ["resume=never"], ["resume=never", "resume=auto"]),
    "damaged identity": (
        lambda folder: (folder / "identity.json").write_text('{"format": 1, "conf'),
        [],
        ["identity.json is damaged", "hydra.run.dir"],
    ),
    "identity of another kind": (
        lambda folder: (folder / "identity.json").write_text("[]"),
        [],
        ["identity.json is damaged"],
    ),
    "behind the checkpoint": (
        None,
        ["num_iterations=3"],
        ["num_iterations=3 is behind", "(iteration 4)", "choose num_iterations=4 or more"],
    ),
    "damaged checkpoint": (
        damage_checkpoint,
        ["num_iterations=6"],
        ["checkpoints/4 is damaged", "delete that folder"],
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_not_this_runs_is_left_as_it_is(case, folder):
    damage, overrides, fragments = FOLDERS[case]
    if damage is not None:
        damage(folder)
    before = content(folder)
    message = message_of(lambda: run(config_of(*TINY_RUN, *overrides), folder))
    assert all(fragment in message for fragment in [*fragments, str(folder)]), message
    rewritten = {folder / name for name in ("config.json", "provenance.json")}
    after = content(folder)
    assert after.keys() == before.keys()
    assert {path for path in before if after[path] != before[path]} <= rewritten


def test_the_way_out_of_a_damaged_checkpoint_works(folder):
    expected = json.loads((folder / "result.json").read_text())
    damage_checkpoint(folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    assert run(config_of(*TINY_RUN), folder)["upper_variable"] == expected["upper_variable"]


@pytest.mark.parametrize("where", ["run", "run/below"])
def test_a_file_in_the_way_of_the_run_folder(where, tmp_path):
    (tmp_path / "run").write_text("not a folder")
    message = message_of(lambda: run(config_of(*TINY_RUN), tmp_path / where))
    assert f"hydra.run.dir={tmp_path / where} cannot be written" in message
    assert (tmp_path / "run").read_text() == "not a folder"


def test_two_processes_in_one_folder(folder):
    """The lock is another process's here, as it would be."""
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = content(folder)
        longer = config_of(*TINY_RUN, "num_iterations=6")
        message = message_of(lambda: run(longer, folder))
        assert f"another process is writing {folder}" in message
        assert content(folder) == before
        holder.communicate("")
    run(longer, folder)  # and free again


# The same as a person meets it: exit status, stderr, tracebacks on request only.

FILE_IN_THE_WAY = ["problem=counterexample", "hydra.run.dir={tmp}/file/run"]
PROGRAMS = {
    "hydra refuses": (["metod=bda"], {}, ["did you mean method?"], False),
    "we refuse": (
        ["problem=counterexample", "aggregation.alpha=2"],
        {},
        ["aggregation.alpha=2.0"],
        False,
    ),
    "no folder": (FILE_IN_THE_WAY, {}, ["cannot be written", "hydra.run.dir"], False),
    "traceback=true": (
        ["problem=counterexample", "aggregation.alpha=2", "traceback=true"],
        {},
        ["UserError: aggregation.alpha=2.0"],
        True,
    ),
    "HYDRA_FULL_ERROR": (["metod=bda"], {"HYDRA_FULL_ERROR": "1"}, ["metod"], True),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_as_a_program(case, tmp_path):
    overrides, environment, fragments, traceback = PROGRAMS[case]
    (tmp_path / "file").write_text("")
    overrides = [o.replace("{tmp}", str(tmp_path)) for o in overrides]
    done = python("-m", "src.train", *overrides, cwd=tmp_path, **environment)
    assert done.returncode == 1
    assert all(fragment in done.stderr for fragment in fragments), done.stderr
    assert ("Traceback" in done.stderr) == traceback
    assert done.stderr.startswith("error: ") == (not traceback)
    assert done.stdout == ""


def test_describe_refuses_as_train_does(tmp_path):
    done = python("-m", "src.describe", "method=bdaa", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "rhg" in done.stderr
    assert os.listdir(tmp_path) == []
    assert (ROOT / "conf").is_dir()
