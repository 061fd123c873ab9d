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
# # Few-shot learning, step by step
#
# A task: five letters that were never seen before, one drawing of each with its label (the *support*
# set). Which letter is each of 75 other drawings, 15 of each letter (the *query* set)?
#
# - Lower level: a small classifier y is trained on the support set of one task.
# - Upper level: a feature network x, shared by all tasks, is trained so that this works.

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
FILTERS = 16
NUM_TEST_TASKS = 100

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import bilevel
from src.data.glyphs import glyphs
from src.models.conv4 import conv4
from src.problems.adapting_network import Roles
from src.problems.few_shot import few_shot

# %% [markdown]
# ## The tasks
#
# The data are letters of fifteen scripts, drawn from fonts on your machine; no download. 1,000 letters
# are for training, 100 for validation, 200 for the test.

# %%
data = glyphs(split_sizes=(1000, 100, 200))
problem, source = few_shot(
    data, conv4(filters=FILTERS), Roles("head", learn_start=False), ways=5, shots=1, queries=15
)
tasks = source.sample(source.data, jax.random.key(0), "test", 2)
task = jax.tree.map(lambda leaf: leaf[0], tasks)
print({part: task[part]["images"].shape for part in task})


def show(axes, image, title="", colour="black"):
    axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, color=colour)
    axes.set(xticks=[], yticks=[])


def draw_task(task, predicted=None, title=""):
    """The support set above; below, three queries of each class with what is said of them."""
    figure, rows = plt.subplots(4, 5, figsize=(6, 5.4), layout="constrained")
    support, query = task["support"], task["query"]
    for label in range(5):
        (place,) = np.flatnonzero(np.asarray(support["labels"]) == label)
        show(rows[0, label], support["images"][place], f"class {label}")
        places = np.flatnonzero(np.asarray(query["labels"]) == label)[:3]
        for row, place in enumerate(places, start=1):
            if predicted is None:
                show(rows[row, label], query["images"][place])
                continue
            said = int(predicted[place])
            colour = "tab:green" if said == label else "tab:red"
            show(rows[row, label], query["images"][place], f"said: {said}", colour)
    rows[0, 0].set_ylabel("support")
    rows[1, 0].set_ylabel("query")
    figure.suptitle(title or "One task: five classes, one labelled drawing each")


draw_task(task)

# %% [markdown]
# ## What the lower level does
#
# y is a linear classifier on the features, and starts from zeros. Each lower step moves it along the
# gradient of f, the cross-entropy on the support set. Here it is by hand, with an untrained network.


# %%
@partial(jax.jit, static_argnames="num_steps")
def adapt(x, task, num_steps=10):
    """What is said of the queries after 0, 1, ..., num_steps lower steps: (num_steps + 1, 75)."""
    features = problem.prepare(x, task)  # of all images: computed once
    y = problem.init_lower(jax.random.key(0), x)
    gradient = jax.grad(problem.lower_objective, argnums=2)
    said = []
    for _ in range(num_steps + 1):
        logits = features["query"] @ y["weights"] + y["bias"]
        said.append(logits.argmax(axis=1))
        along = gradient(features, task, y)
        y = jax.tree.map(lambda leaf, move: leaf - 0.1 * move, y, along)
    return jnp.stack(said)


def accuracies(x, task):
    return np.asarray(adapt(x, task) == task["query"]["labels"]).mean(axis=1)


untrained = problem.init_upper(jax.random.key(0))
print("accuracy on the queries after 0..10 lower steps:", accuracies(untrained, task).round(2))
draw_task(task, adapt(untrained, task)[-1], "Untrained features, after ten lower steps")

# %% [markdown]
# ## Training the features: RHG and BDA
#
# Both take five lower steps on each of eight tasks, and differentiate through them. RHG's steps
# descend f alone. BDA's descend a mix of f and F: in training, the labels of the queries help the lower
# level as well. In a test they are not used.

# %%
lower = {"step_size": 0.1, "num_lower_steps": 5}
methods = {
    "rhg": bilevel.methods.rhg(**lower),
    "bda": bilevel.methods.bda(law="harmonic", alpha=0.4, **lower),
}
trained, curves = {}, {}
for name, method in methods.items():
    minimizer = bilevel.minimizer(
        bilevel.Problem(problem, source),
        method,
        optax.adam(1e-3),
        meta_batch_size=8,
        num_scored_tasks=NUM_TEST_TASKS,
    )
    state, step = minimizer.init(jax.random.key(0)), jax.jit(minimizer.step)
    score = jax.jit(minimizer.score, static_argnames="split")
    curves[name] = []
    for n in range(NUM_ITERATIONS + 1):
        if n % (NUM_ITERATIONS // 3) == 0:
            scores = score(state, jax.random.key(1), split="validation")
            curves[name].append((n, float(scores["accuracy"])))
        state, _ = step(state, jax.random.key(n))
    trained[name] = minimizer.x(state), score(state, jax.random.key(2), split="test")
    print(f"{name}: test accuracy {float(trained[name][1]['accuracy']):.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for colour, name in enumerate(methods):
    left.plot(*zip(*curves[name], strict=True), f"C{colour}-o", label=name)
left.set(xlabel="upper iteration", ylabel="validation accuracy", title="Learning the features")
left.legend()
drawn = source.sample(source.data, jax.random.key(3), "test", NUM_TEST_TASKS)
examples = [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(NUM_TEST_TASKS)]
known = {"untrained": untrained, **{name: x for name, (x, _) in trained.items()}}
for name, x in known.items():
    colour = {"untrained": "0.5", "rhg": "C0", "bda": "C1"}[name]
    right.plot(np.mean([accuracies(x, one) for one in examples], axis=0), color=colour, label=name)
right.axvline(5, color="0.8", linestyle=":")
right.set(xlabel="lower step", ylabel=f"accuracy, mean of {NUM_TEST_TASKS} test tasks")
right.set_title("Adapting to a new task (dotted: K = 5)")
right.legend()
for axes in (left, right):
    axes.grid(alpha=0.25)

# %% [markdown]
# ## The same task with trained features

# %%
draw_task(task, adapt(trained["bda"][0], task)[-1], "Features trained by BDA, ten lower steps")

# %% [markdown]
# The difference between two methods is known best task by task: both are tested on the same ones.

# %%
paired = [
    accuracies(trained["bda"][0], one)[5] - accuracies(trained["rhg"][0], one)[5]
    for one in examples
]
print(f"bda - rhg: {np.mean(paired):+.3f} +- {2 * np.std(paired) / np.sqrt(len(paired)):.3f}")

# %% [markdown]
# This is a short training with one seed: do not conclude from it which method is better. The command
# `python -m src.train method=bda` trains for longer and reports intervals; notebook 06 compares several
# seeds.
