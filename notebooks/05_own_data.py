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
# # Your own problem, from your own files
#
# First a CSV file, then a folder of images. In both cases: f on training data, F on validation data,
# and a test on data that nothing has seen. To have files at all, the notebook writes some; put in your
# own.

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
NUM_ITERATIONS = 150
NUM_IMAGES = 600

# %%
import csv
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

import bilevel

folder = Path(tempfile.mkdtemp())
table = load_diabetes()
with open(folder / "mine.csv", "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow([*table.feature_names, "progress"])
    writer.writerows(np.column_stack([table.data, table.target]))
print((folder / "mine.csv").read_text(encoding="utf-8").splitlines()[0])

# %% [markdown]
# ## From a CSV file
#
# Read it, draw which rows are for training, validation and test, and bring the columns to mean 0 and
# deviation 1. The means are those of the training rows: nothing of the other rows may be used. For a file
# of your own, change `FILE` and `TARGET`; all columns must be numbers.

# %%
FILE, TARGET = folder / "mine.csv", "progress"
with open(FILE, newline="", encoding="utf-8") as file:
    names, *lines = csv.reader(file)
values = np.array(lines, dtype=float)
target = names.index(TARGET)
order = np.random.default_rng(0).permutation(len(values))
cuts = (len(values) * np.array([0.4, 0.7])).astype(int)  # 40, 30 and 30 percent
parts = dict(zip(("train", "validation", "test"), np.split(order, cuts), strict=True))
mean, deviation = values[parts["train"]].mean(axis=0), values[parts["train"]].std(axis=0)
values = (values - mean) / deviation
data = {
    part: {"inputs": np.delete(values[rows], target, axis=1), "targets": values[rows, target]}
    for part, rows in parts.items()
}
print({part: rows["inputs"].shape for part, rows in data.items()})

# %% [markdown]
# The question: how strongly should each weight of a linear model be penalised? x is the logarithm of
# one penalty for each column. f fits the training rows with these penalties; F is the error on the validation rows.


# %%
def error(w, rows):
    return jnp.mean((rows["inputs"] @ w - rows["targets"]) ** 2)


def f(x, w, rows):
    return error(w, rows) + jnp.sum(jnp.exp(x) * w**2)


def F(x, w, rows):
    return error(w, rows)


num_features = data["train"]["inputs"].shape[1]
problem = bilevel.problem(
    f,
    F,
    upper_start=jnp.full(num_features, -1.0),
    lower_start=jnp.zeros(num_features),
    **data,
    project=lambda x: jnp.clip(x, -8.0, 2.0),
)
result = bilevel.minimize(
    problem,
    bilevel.methods.hoag(step_size=0.05, num_lower_steps=300),
    optimizer=optax.adam(0.1),
    num_iterations=NUM_ITERATIONS,
)
first = bilevel.value_function(problem, bilevel.methods.rhg(step_size=0.05, num_lower_steps=300))
print(f"validation, equal penalties  {float(first(jnp.full(num_features, -1.0))):.3f}")
print(f"validation, learned          {result.scores['validation/upper_loss']:.3f}")
with_equal = bilevel.minimize(  # x stays where it starts
    problem,
    bilevel.methods.hoag(step_size=0.05, num_lower_steps=300),
    optimizer=optax.sgd(0.0),
    num_iterations=1,
)
print(f"test, equal penalties        {with_equal.scores['test/upper_loss']:.3f}")
print(f"test, learned                {result.scores['test/upper_loss']:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
features = [name for name in names if name != TARGET]
left.barh(features, np.exp(result.x), color="C0")
left.set(xlabel="penalty exp(x)", xscale="log", title="Which features are penalised")
right.barh(features, result.y, color="C1")
right.set(xlabel="weight", title="The weights that remain")
right.grid(axis="x", alpha=0.25)

# %% [markdown]
# ## From a folder of images
#
# One folder for each class. The loader reads and checks them, as `data=image_folder` does on the command
# line.

# %%
from src.data.forms import convert
from src.data.image_folder import image_folder
from src.data.labelled import LabelledImages

pixels, labels = load_digits(return_X_y=True)
for number, (image, label) in enumerate(zip(pixels[:NUM_IMAGES], labels, strict=False)):
    place = folder / "photos" / f"digit {label}"
    place.mkdir(parents=True, exist_ok=True)
    array = np.rint(image.reshape(8, 8) * 255 / 16).astype(np.uint8)
    Image.fromarray(array).save(place / f"{number}.png")

PHOTOS = folder / "photos"  # or a folder of your own; size=28 then brings all to 28x28
pool = image_folder(
    root=str(PHOTOS),
    size=None,
    width=None,
    channels=None,
    split_file=None,
    split_sizes=None,
    split_seed=0,
    streamed=False,
)
images = convert(pool, LabelledImages)  # 40, 30 and 30 percent of each class
rows = {
    part: {
        "inputs": images.images[part].reshape(len(images.labels[part]), -1) / 255.0,
        "labels": images.labels[part],
    }
    for part in ("train", "validation", "test")
}
print(images.num_classes, "classes")
print({part: values["inputs"].shape for part, values in rows.items()})

# %% [markdown]
# The model is a softmax classifier of pixels. x is one number per pixel: its penalty. F also returns
# the accuracy, which is reported along with the loss.


# %%
def cross_entropy(y, rows):
    logits = rows["inputs"] @ y["weights"] + y["bias"]
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), rows["labels"][:, None], axis=1)
    return -jnp.mean(picked), jnp.mean(logits.argmax(axis=1) == rows["labels"])


def lower(x, y, rows):
    return cross_entropy(y, rows)[0] + jnp.mean(jnp.exp(x)[:, None] * y["weights"] ** 2)


def upper(x, y, rows):
    loss, accuracy = cross_entropy(y, rows)
    return loss, {"accuracy": accuracy}


num_pixels, num_classes = rows["train"]["inputs"].shape[1], images.num_classes
problem = bilevel.problem(
    lower,
    upper,
    upper_start=jnp.full(num_pixels, 0.0),
    lower_start={"weights": jnp.zeros((num_pixels, num_classes)), "bias": jnp.zeros(num_classes)},
    **rows,
)
result = bilevel.minimize(
    problem,
    bilevel.methods.rhg(step_size=0.5, num_lower_steps=100),
    optimizer=optax.adam(0.1),
    num_iterations=NUM_ITERATIONS // 3,
)
for name in ("validation/accuracy", "test/accuracy", "test/upper_loss"):
    print(f"{name:<20} {result.scores[name]:.3f}")

# %%
shape = images.images["train"].shape[1:]
figure, axes = plt.subplots(figsize=(3.6, 3), layout="constrained")
picture = axes.imshow(result.x.reshape(shape).mean(axis=-1), cmap="viridis")
axes.set(xticks=[], yticks=[], title="log penalty of each pixel, mean over colours")
_ = figure.colorbar(picture)

# %% [markdown]
# The scores of the test were looked at once, at the end. If you choose between settings, choose by the
# validation scores.
#
# On the command line, the same files are `data=table data.path=mine.csv data.target=progress` and
# `data=image_folder data.root=photos`.
