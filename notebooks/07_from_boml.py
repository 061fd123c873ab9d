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
# # For people from BOML: its example.py, line by line
#
# [BOML](https://github.com/dut-media-lab/BOML) is a library for TensorFlow 1. Its `example.py` trains
# MAML on Omniglot. Here each of its steps stands next to ours. BOML builds a graph and runs it in a
# session; here everything is a function that is called.

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
NUM_ITERATIONS = 200
FILTERS = 16

# %%
import jax
import optax

import bilevel
from src.data.glyphs import glyphs
from src.models.conv4 import conv4
from src.problems.adapting_network import Roles
from src.problems.few_shot import cross_entropy, few_shot

# %% [markdown]
# ## 1. The data
#
# BOML: `boml.load_data.meta_omniglot(std_num_classes, examples_train, examples_test)`
#
# BOML reads a folder of pictures. Its defaults are five classes, one support and 15 query drawings of
# each. Here the letters are drawn from fonts, so that the notebook needs no download; with Omniglot the
# line would be `omniglot(root=FOLDER, split_sizes=(1200, 100, 323), split_seed=0, rotations=False)`.

# %%
data = glyphs(split_sizes=(1000, 100, 200))
print(data.images.shape, {split: len(classes) for split, classes in data.splits.items()})

# %% [markdown]
# ## 2. The experiment
#
# BOML: `ex = boml.BOMLExperiment(dataset)`
#
# In BOML an experiment is a set of placeholders: `ex.x`, `ex.y` for the support set, `ex.x_`, `ex.y_`
# for the query set. A batch is fed into them. Here a task is a value: two parts, each with images and
# labels. `few_shot` returns the problem (f, F and the starts) and the source of tasks.
#
# ## 3. The method
#
# BOML: `BOMLOptimizer(method="MetaInit", inner_method="Simple", outer_method="Simple")`
#
# | BOML | here |
# | --- | --- |
# | `method="MetaInit"`: the start of all weights is learned | `Roles("all", learn_start=True)` |
# | `method="MetaFeat"` (older: `MetaRepr`): features above, a head below | `Roles("head", learn_start=False)` |
# | `inner_method="Simple"`: gradient steps | no aggregation: `bilevel.lower_only()`, the default |
# | `outer_method="Simple"`: differentiated through all steps | `bilevel.hypergradients.unrolled()` |

# %%
roles = Roles("all", learn_start=True)
model = conv4(filters=FILTERS)

# %% [markdown]
# ## 4. The networks
#
# BOML: `meta_learner(_input, dataset, meta_model="V1")` and `base_learner(_input, meta_learner)`
#
# `meta_model="V1"` is `conv4`. BOML makes two networks in one graph, whose variables are the upper and
# the lower ones. Here a network is two functions, and the roles decide which weights are x and which
# are y.

# %%
problem, source = few_shot(data, model, roles, ways=5, shots=1, queries=15)
x = problem.init_upper(jax.random.key(0))
y0 = problem.init_lower(jax.random.key(0), x)
count = {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in (("x", x), ("y0", y0))
}
print("numbers in the upper and in the lower variable:", count)

# %% [markdown]
# `ex.model.out` and `ex.model.re_forward(ex.x_).out` are the outputs for support and query. Here:

# %%
# BOML: BatchQueueMock(...).get_single_batch()
tasks = source.sample(source.data, jax.random.key(0), "train", 2)
task = jax.tree.map(lambda leaf: leaf[0], tasks)
outputs = problem.predict(x, task, y0)
print({part: logits.shape for part, logits in outputs.items()})

# %% [markdown]
# ## 5. The lower problem
#
# BOML: `ll_problem(inner_objective, learning_rate, T, experiment, var_list)`
#
# `utils.cross_entropy(pred, label)` on the support set is f. T steps of size `learning_rate` follow.
# Here f belongs to the problem, the steps to the method.

# %%
context = problem.prepare(x, task)
by_hand = cross_entropy(outputs["support"], task["support"]["labels"])
print("f:", problem.lower_objective(context, task, y0), "=", by_hand)
method = bilevel.method("maml", bilevel.hypergradients.unrolled(), num_lower_steps=3, step_size=0.1)

# %% [markdown]
# ## 6. The upper problem
#
# BOML: `ul_problem(outer_objective, meta_learning_rate, inner_grad, meta_param)`
#
# F is the cross-entropy on the query set. `inner_grad` connects the two levels in BOML, and `meta_param`
# lists what is learned: here both follow from the problem and the method. The upper optimizer is any of
# optax. (BOML's Adam with its decay is `optax.adam` with a schedule.)

# %%
print("F:", problem.upper_objective(context, task, y0)[0])
optimizer = optax.adam(0.001)

# %% [markdown]
# ## 7. The mean over the tasks of a batch
#
# BOML: `aggregate_all()`
#
# In BOML this closes the graph. Here `minimizer` puts everything together; `meta_batch_size` is BOML's
# `meta_batch_size`, and the hypergradient is the mean over these tasks.

# %%
minimizer = bilevel.minimizer(
    bilevel.Problem(problem, source), method, optimizer, meta_batch_size=2, num_scored_tasks=50
)

# %% [markdown]
# ## 8. The loop
#
# BOML: `run(tr_fd, v_fd)` in a `tf.Session`
#
# `init` is `global_variables_initializer`, `step` is `run`. Two differences:
#
# - BOML's example makes its batch from the same random state in each iteration, so it trains on one and
#   the same batch. Here each key draws new tasks.
# - The losses that BOML prints are those of the training batch. Here the test accuracy of new tasks is
#   printed as well.

# %%
state, step = minimizer.init(jax.random.key(0)), jax.jit(minimizer.step)
score = jax.jit(minimizer.score, static_argnames="split")
for itr in range(NUM_ITERATIONS + 1):
    if itr % max(NUM_ITERATIONS // 4, 1) == 0:
        scores = score(state, jax.random.key(1), split="test")
        inner, outer = float(scores["lower_loss"]), float(scores["upper_loss"])
        print(
            f"Iteration {itr}: Inner_loss {inner:.3f} , Outer_loss {outer:.3f}, "
            f"test accuracy {float(scores['accuracy']):.3f}"
        )
    state, metrics = step(state, jax.random.fold_in(jax.random.key(0), itr))

# %% [markdown]
# ## The same as one command
#
# `python -m src.train method=maml num_lower_steps=3 meta_batch_size=2 num_iterations=2000` does all of
# the above, with checkpoints, logs and pictures. `python -m src.boml FILE.json` translates a file of
# BOML's own into such a command.
#
# Other methods are other choices:

# %%
others = {
    "BDA (Aggr + Reverse)": bilevel.methods.bda(law="harmonic", alpha=0.5),
    "RHG (Trad + Reverse)": bilevel.methods.rhg(),
    "TRHG (truncate_iter=1)": bilevel.methods.trhg(keep_last=1),
    "HOAG (Trad + Implicit)": bilevel.methods.hoag(),
    "DARTS (Trad + Darts)": bilevel.methods.darts(),
    "FOMAML (first_order=True)": bilevel.methods.fomaml(),
}
for name, other in others.items():
    print(f"{name:<28} {other.hypergradient.formula}")
