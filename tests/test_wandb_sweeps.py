"""wandb's own sweeps: the command of an agent runs, as the run that the server handed out."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import ROOT, python
from tests.test_writers import items_of, wandb_records

FILES = sorted((ROOT / "wandb_sweeps").glob("*.yaml"))
# Of a parameter, what a server may hand out.
HANDED_OUT = {
    "lower_optimizer.step_size": 0.31,
    "upper_optimizer.step_size": 0.021,
    "method": "bda",
    "seed": 2,
}


def agents_command(file, cwd):
    """The command line that wandb's agent makes of a sweep and the parameters of one run."""
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = OmegaConf.to_container(OmegaConf.load(file))
    args = {name: {"value": HANDED_OUT[name]} for name in sweep["parameters"]}
    made = sweeps.create_sweep_command_args({"args": args})
    made |= {"env": [], "interpreter": []}
    command = []
    for chunk in sweeps.create_sweep_command(list(sweep["command"])):
        whole = chunk.startswith("${") and chunk.endswith("}")
        command += made[chunk[2:-1]] if whole else [chunk]
    parameters = cwd / "parameters.yaml"
    parameters.write_text(OmegaConf.to_yaml({"wandb_version": 1, **args}))
    return command, parameters


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_of_an_agent_runs(file, tmp_path):
    sweep = OmegaConf.load(file)
    assert sweep.method in ("grid", "random", "bayes")
    assert sweep.metric.name.startswith("best/validation/")
    assert Path(ROOT, sweep.program).exists()
    command, parameters = agents_command(file, tmp_path)
    done = python(
        *command,
        *["num_iterations=4", "num_lower_steps=5", "compilation_cache=false"],
        cwd=tmp_path,
        WANDB_SWEEP_ID="sweep1",
        WANDB_RUN_ID="run1",
        WANDB_PROJECT="bilevel",  # as an agent sets it: of a sweep, no other project counts
        WANDB_SWEEP_PARAM_PATH=str(parameters),
        WANDB_MODE="offline",
        PATH=os.environ["PATH"],
    )
    assert done.returncode == 0, done.stderr
    (records,) = tmp_path.glob("runs/wandb/sweep1/run1/wandb/offline-run-*/*.wandb")
    (run,) = (r.run for r in wandb_records(records) if r.HasField("run"))
    assert (run.run_id, run.sweep_id, run.project) == ("run1", "sweep1", "bilevel")
    for name in sweep.parameters:
        assert f"{name}={HANDED_OUT[name]}" in run.display_name
    assert "problem=" not in run.display_name  # it is the same in all runs
    config = items_of(run.config.update)
    assert config["num_iterations"] == 4
