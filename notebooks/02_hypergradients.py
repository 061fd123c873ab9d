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
# # How wrong is each hypergradient?
#
# An estimate of the hypergradient has an error, because y\*(x) is not known. Here is a problem whose
# true hypergradient can be computed, so the error can be measured: ridge regression with one penalty
# per feature.

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
LOWER_STEPS = (1, 3, 10, 30, 100, 300)
SOLVER_STEPS = (1, 2, 4, 8, 16)
NUM_FEATURES = 20

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import bilevel

jax.config.update("jax_enable_x64", True)  # small errors need more than seven digits

# %% [markdown]
# ## The problem and its closed form
#
# f is the mean squared error on training rows plus a penalty exp(x_i) w_i² for each weight. F is the
# error on validation rows. The lower solution solves a linear system, and JAX differentiates through
# it: that is the truth.

# %%
random = np.random.default_rng(0)
inputs = random.normal(size=(120, NUM_FEATURES)) * np.linspace(0.5, 1.5, NUM_FEATURES)
targets = inputs[:, :5].sum(axis=1) + random.normal(size=120)
train = {"inputs": jnp.array(inputs[:60]), "targets": jnp.array(targets[:60])}
validation = {"inputs": jnp.array(inputs[60:]), "targets": jnp.array(targets[60:])}


def error(w, rows):
    return jnp.mean((rows["inputs"] @ w - rows["targets"]) ** 2)


def f(x, w, rows):
    return error(w, rows) + jnp.sum(jnp.exp(x) * w**2)


def F(x, w, rows):
    return error(w, rows)


problem = bilevel.problem(
    f,
    F,
    upper_start=jnp.full(NUM_FEATURES, -2.0),
    lower_start=jnp.zeros(NUM_FEATURES),
    train=train,
    validation=validation,
)


def truth(x):
    a, n = train["inputs"], len(train["targets"])
    w = jnp.linalg.solve(a.T @ a / n + jnp.diag(jnp.exp(x)), a.T @ train["targets"] / n)
    return error(w, validation)


x = jnp.full(NUM_FEATURES, -2.0)
exact = jax.grad(truth)(x)


def relative_error(method):
    gradient = jax.jit(lambda x: bilevel.hypergradient(problem, method, x).gradient)(x)
    return float(jnp.linalg.norm(gradient - exact) / jnp.linalg.norm(exact))


# %% [markdown]
# ## By the number of lower steps K
#
# - `rhg` differentiates through all steps. Its error is that of y_K: it falls as long as y_K improves.
# - `trhg` differentiates through the last steps only. Its error stops falling: what the dropped steps
#   would have added is missing for good.
# - `hoag` (implicit) uses y_K alone, and keeps no lower steps in memory. Far from a lower solution it
#   is wrong as well. Here it is nearer than `rhg` at every K: the derivative of y_K converges more
#   slowly than y_K itself.
# - `darts` is the last step by a finite difference: the same as `trhg` with one step, without second
#   derivatives.

# %%
step = {"step_size": 0.1}
by_steps = {
    "rhg": lambda K: bilevel.methods.rhg(num_lower_steps=K, **step),
    "trhg, last 10": lambda K: bilevel.methods.trhg(
        keep_last=min(10, K), num_lower_steps=K, **step
    ),
    "trhg, last 1": lambda K: bilevel.methods.trhg(keep_last=1, num_lower_steps=K, **step),
    "darts": lambda K: bilevel.methods.darts(num_lower_steps=K, **step),
    "hoag": lambda K: bilevel.methods.hoag(tolerance=1e-12, num_lower_steps=K, **step),
}
errors = {name: [relative_error(make(K)) for K in LOWER_STEPS] for name, make in by_steps.items()}
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
styles = ("-o", "-s", "-^", "--x", "-d")
for (name, values), style in zip(errors.items(), styles, strict=True):
    axes.loglog(LOWER_STEPS, values, style, label=name)
axes.set(xlabel="lower steps K", ylabel="relative error of the hypergradient")
axes.set_title("Error against the closed form")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# ## By the number of solver steps
#
# Implicit methods solve a linear system in the Hessian of f. Conjugate gradients need few steps; the
# Neumann series needs more terms, since each is one plain gradient step. (GMRES does as conjugate
# gradients here; it also works where the Hessian is indefinite.)

# %%
solvers = {
    "conjugate gradients": lambda m: bilevel.linear_solvers.cg(tolerance=1e-12, max_steps=m),
    "Neumann series": lambda m: bilevel.linear_solvers.neumann(num_terms=m),
}


def implicit(solver):
    estimator = bilevel.hypergradients.implicit(solver=solver, max_residual=None)
    return bilevel.method("implicit", estimator, num_lower_steps=LOWER_STEPS[-1], **step)


figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, make in solvers.items():
    values = [relative_error(implicit(make(m))) for m in SOLVER_STEPS]
    axes.semilogy(SOLVER_STEPS, values, "-o", label=name)
no_solve = relative_error(implicit(bilevel.linear_solvers.identity()))
axes.axhline(no_solve, color="0.5", linestyle=":", label="the identity: no solve at all")
axes.set(xlabel="steps of the solver", ylabel="relative error of the hypergradient")
axes.set_title(f"Implicit estimators after K = {LOWER_STEPS[-1]} lower steps")
axes.legend()
axes.grid(alpha=0.25)

# %% [markdown]
# ## The error that you can see without the truth
#
# In a real problem there is no closed form. An implicit estimator then reports how well its system is
# solved, and how far y_K is from a lower solution.

# %%
for K in LOWER_STEPS[1::2]:
    method = bilevel.methods.hoag(tolerance=1e-12, num_lower_steps=K, **step)
    found = bilevel.hypergradient(problem, method, x)
    report = "  ".join(f"{name} {float(value):.1e}" for name, value in found.diagnostics.items())
    print(f"K = {K:<4} error {relative_error(method):.1e}   reported: {report}")

# %% [markdown]
# `python -m src.certify` makes such a comparison for every estimator of the project, on several
# problems.
