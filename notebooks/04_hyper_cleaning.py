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
# # Data hyper-cleaning, with pictures
#
# Half of the training labels are wrong, and nobody says which. The upper level learns one weight for
# each training sample; the lower level trains a classifier with these weights. F is the loss on 600
# validation samples whose labels are right. Wrong labels then get small weights.

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
NUM_LOWER_STEPS = 100
SIZES = (600, 600, None)  # images for training, validation, test; None: all that is left

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import bilevel
from src.data.digits import digits
from src.models.mlp import flat
from src.problems.hyper_cleaning import hyper_cleaning

# %% [markdown]
# ## The data
#
# Handwritten digits that come with scikit-learn, 8 x 8 pixels. Half of the training labels are replaced
# by another digit.

# %%
options = {
    "noise": 0.5,
    "pollution": "exact",
    "weighting": "sigmoid",
    "initial": 0.0,
    "lower_l2": 0.0,
    "head_init": "zeros",
    "batch_size": None,
}
data = digits(split_sizes=SIZES, split_seed=0)
problem, source = hyper_cleaning(data, flat(), baseline="none", **options)
seeded = source.seeded(source.data, jax.random.key(0))
task = jax.tree.map(lambda leaf: leaf[0], source.sample(seeded, jax.random.key(0), "train", 1))
before = problem.inspect(problem.init_upper(jax.random.key(0)), task)


def draw(samples, places, title):
    figure, all_axes = plt.subplots(2, 10, figsize=(9, 2.3), layout="constrained")
    for axes, place in zip(all_axes.flat, places, strict=True):
        axes.imshow(samples.images[place, ..., 0], cmap="gray_r")
        colour = "tab:red" if samples.wrong[place] else "black"
        label, weight = int(samples.labels[place]), float(samples.weights[place])
        axes.set_title(f"{label} ({weight:.2f})", fontsize=8, color=colour)
        axes.set(xticks=[], yticks=[])
    figure.suptitle(title)


draw(before, range(20), "Training samples: label (weight), wrong labels in red")

# %% [markdown]
# ## Learning the weights
#
# x has one number per training sample, and sigmoid(x) is its weight. RHG differentiates F through the
# training of the classifier, with respect to all weights at once.

# %%
result = bilevel.minimize(
    bilevel.Problem(problem, source),
    bilevel.methods.rhg(step_size=0.5, num_lower_steps=NUM_LOWER_STEPS),
    optimizer=optax.adam(0.1),
    num_iterations=NUM_ITERATIONS,
)
after = problem.inspect(result.x, task)
for name, value in result.scores.items():
    if name.startswith("test/"):
        print(f"{name:<32} {value:.3f}")

# %%
weights, wrong = np.asarray(after.weights), np.asarray(after.wrong)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
bins = np.linspace(0, 1, 31)
left.hist(weights[~wrong], bins, color="C0", alpha=0.7, label="right labels")
left.hist(weights[wrong], bins, color="C3", alpha=0.7, label="wrong labels")
left.axvline(0.5, color="0.5", linestyle=":", label="weight at the start")
left.set(xlabel="learned weight", ylabel="training samples", title="The weights tell them apart")
left.legend(loc="upper center")
right.plot(result.history["upper_loss"], color="C0")
right.set(xlabel="upper iteration", ylabel="F, loss on validation data", title="Learning")
right.grid(alpha=0.25)

# %%
order = np.argsort(weights)
draw(after, [*order[:10], *order[-10:]], "The ten smallest and the ten largest weights")

# %% [markdown]
# ## Was it worth it?
#
# The same classifier, trained on all 600 training samples with equal weights; on the 600 validation
# samples alone; and (which nobody could do) on the training samples with a right label alone:

# %%
print(f"learned weights        {result.scores['test/accuracy']:.3f}")
for baseline in ("everything", "validation", "clean"):
    plain, rows = hyper_cleaning(data, flat(), baseline=baseline, **options)
    x, key = plain.init_upper(jax.random.key(0)), jax.random.key(0)
    one = rows.sample(rows.seeded(rows.data, key), key, "test", 1)
    one = jax.tree.map(lambda leaf: leaf[0], one)
    context = plain.prepare(x, one)

    def step(_, y, plain=plain, context=context, one=one):
        along = jax.grad(plain.lower_objective, argnums=2)(context, one, y)
        return jax.tree.map(lambda leaf, move: leaf - 0.5 * move, y, along)

    y = jax.lax.fori_loop(0, NUM_LOWER_STEPS, step, plain.init_lower(key, x))
    print(f"trained on {baseline:<11} {float(plain.evaluate(x, context, one, y)['accuracy']):.3f}")

# %% [markdown]
# The weights gain over training on everything. But the validation samples alone are the better training
# set here: they are as many, and all their labels are right. With fewer of them (the second number of
# `SIZES`) this changes: with 200, the weights and the validation samples alone both have 0.909; with 50,
# the weights have 0.874 and the validation samples alone 0.786, but then training on everything is as
# good (0.875). (One split and one seed.)
#
# For your own data, `python -m src.train problem=hyper_cleaning data=image_folder ...` and then
# `python -m src.predict run=DIR` write a table of suspected labels.
