# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading a sweep
#
# A sweep leaves a folder for each run. This notebook makes a small one (two methods, three seeds), and
# reads it: a table, the differences seed by seed, and the curves.

# %% tags=["hide-input"]
# Finds the project that this notebook is a part of. On Colab there is none yet: write the address of
# its git repository between the quotes, and this cell gets the project and installs it.
import os
import subprocess
import sys
from pathlib import Path

ADDRESS = ""
here = Path.cwd()
root = next((p for p in (here, *here.parents) if (p / "src/train.py").exists()), None)
if root is None:
    if not ADDRESS:
        sys.exit("this is not inside the project: write the address of its repository into ADDRESS")
    root = here / "bilevel-project"
    subprocess.run(["git", "clone", "--quiet", ADDRESS, str(root)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(root)], check=True)
os.chdir(root)
sys.path.insert(0, str(root))

# %% tags=["parameters"]
NUM_ITERATIONS = 100
SEEDS = "0,1,2"

# %%
import json
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from src.reporting.groups import paired, summary
from src.reporting.report import as_csv, as_lines, make_report
from src.reporting.stored import find_runs

# %% [markdown]
# ## A sweep
#
# Hyper-cleaning of 600 digits by RHG and by BDA. `-m` runs every combination; each leaves a folder.

# %%
folder = Path(tempfile.mkdtemp()) / "study"
command = [sys.executable, "-m", "src.train", "-m", "problem=hyper_cleaning", "method=rhg,bda"]
command += [f"seed={SEEDS}", f"num_iterations={NUM_ITERATIONS}", "lower_optimizer.step_size=0.5"]
command += ["eval_every=10", "logger=[jsonl]", f"hydra.sweep.dir={folder}"]
done = subprocess.run(command, capture_output=True, text=True, check=False)
print(done.stderr[-300:] if done.returncode else "all six ran")
print("\n".join(sorted(path.name for path in folder.iterdir())))

# %% [markdown]
# ## The table
#
# `find_runs` reads the folders, and `make_report` compares them: what differs becomes the columns, and
# runs that differ by their seed alone are one row. The same is `python -m src.report DIR
# baseline=method=rhg` on the command line.

# %%
runs = find_runs([folder])
report = make_report(runs, baseline="method=rhg")
print("\n".join(as_lines(report)))

# %% [markdown]
# ## Seed by seed
#
# Runs of one seed share their wrong labels, so the two methods are compared seed by seed. Three seeds
# give a wide interval (Student's t with two degrees of freedom): if it contains 0, nothing is shown.

# %%
by_method = {group.options[0]: group.values(report.metric) for group in report.groups}
for name, values in by_method.items():
    mean, half = summary(values)
    print(f"{name:<4} {mean:.4f} +- {half:.4f}")
mean, half, number = paired(by_method["bda"], by_method["rhg"])
print(f"bda - rhg {mean:+.4f} +- {half:.4f}, {number} seeds")

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for seed in by_method["rhg"]:
    axes.plot([0, 1], [by_method["rhg"][seed], by_method["bda"][seed]], "o-", label=f"seed {seed}")
axes.set(xticks=[0, 1], xticklabels=["rhg", "bda"], xlim=(-0.3, 1.3), ylabel=report.metric)
axes.set_title("Each line is one seed")
axes.legend()
axes.grid(axis="y", alpha=0.25)

# %% [markdown]
# ## The curves
#
# metrics.jsonl of each run has the scores along the way.


# %%
def curve(run, name):
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for colour, method in enumerate(("rhg", "bda")):
    chosen = [run for run in runs if run.config["method"]["name"] == method]
    steps = curve(chosen[0], "validation/accuracy")[0]
    values = np.array([curve(run, "validation/accuracy")[1] for run in chosen])
    axes.plot(steps, values.mean(axis=0), f"C{colour}", label=method)
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=f"C{colour}", alpha=0.2)
axes.set(xlabel="upper iteration", ylabel="validation accuracy")
axes.set_title(f"Mean and range of {len(chosen)} seeds")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# ## For other programs
#
# One row for each run, with all scores: for a spreadsheet, pandas or R.

# %%
text = as_csv(report)
print("\n".join(line[:100] for line in text.splitlines()[:4]))
