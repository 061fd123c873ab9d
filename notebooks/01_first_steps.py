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
# # A bilevel problem in twelve lines
#
# min over x of F(x, y\*(x)), where y\*(x) minimises f(x, .) over y.
#
# You will see a problem that a common method cannot solve, why, and how BDA (Bi-level Descent
# Aggregation) solves it. It takes a minute and no data.

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
NUM_POINTS = 81  # of each curve

# %% [markdown]
# ## The problem
#
# x is one number; y has two parts, a and b. b does not occur in f, so every b minimises f. F prefers
# b = x and a = 1. The solution is x = a = b = 1, with F = 0.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import bilevel


def f(x, y):
    return 0.5 * y["a"] ** 2 - x * y["a"]


def F(x, y):
    return 0.5 * (x - y["b"]) ** 2 + 0.5 * (y["a"] - 1) ** 2


problem = bilevel.problem(f, F, upper_start=0.0, lower_start={"a": 0.0, "b": 0.0})

# %% [markdown]
# ## Three methods
#
# A method says in which direction the lower level moves, how it moves, and how the result is
# differentiated. RHG (reverse hypergradient) descends f alone. BDA descends a mix of F and f; the *law*
# says how much of each a step takes.

# %%
lower = {"step_size": 0.5, "num_lower_steps": 40}
methods = {
    "RHG": bilevel.methods.rhg(**lower),
    "BDA, constant law": bilevel.methods.bda(law="constant", alpha=0.5, **lower),
    "BDA, harmonic law": bilevel.methods.bda(law="harmonic", alpha=0.5, **lower),
}
results = {}
for name, method in methods.items():
    results[name] = bilevel.minimize(
        problem, method, optimizer=optax.sgd(0.5), num_iterations=NUM_ITERATIONS
    )
    print(f"{name:<18} x = {results[name].x:.4f}   F = {results[name].upper_loss:.2e}")

# %% [markdown]
# RHG ends at x = 1/2. It is not the upper level that is wrong: it does minimise what it sees.
#
# ## The landscape that each method sees
#
# The upper level does not see F(x, y\*(x)), but F(x, y_K(x)), where y_K is what K lower steps reach.
# `value_function` is that function of x.

# %%
xs = jnp.linspace(-0.2, 1.8, NUM_POINTS)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot(xs, 0.5 * (xs - 1) ** 2, "k:", label="best lower solution: (x - 1)²/2")
for colour, (name, method) in enumerate(methods.items()):
    seen = jax.jit(jax.vmap(bilevel.value_function(problem, method)))
    end = results[name].x
    axes.plot(xs, seen(xs), f"C{colour}", label=name)
    axes.plot(end, seen(jnp.array([end]))[0], f"C{colour}o")
axes.set(xlabel="x", ylabel="F(x, y_K(x))", ylim=(-0.03, 0.9))
axes.set_title("What each method minimises; a dot is where it ended")
figure.legend(loc="outside lower center", ncols=2, frameon=False)
axes.grid(alpha=0.25)

# %% [markdown]
# RHG's lower steps never move b: it stays at 0, so RHG sees x²/2 + (x - 1)²/2, whose minimum is at
# 1/2. BDA's steps move b towards x as well.
#
# The harmonic law is not exact at K = 40. Its weights of F go to zero like 1/k, so it comes nearer as
# K grows:

# %%
for steps in (10, 40, 160, 640):
    method = bilevel.methods.bda(law="harmonic", alpha=0.5, step_size=0.5, num_lower_steps=steps)
    result = bilevel.minimize(
        problem, method, optimizer=optax.sgd(0.5), num_iterations=NUM_ITERATIONS
    )
    print(f"K = {steps:<4} x = {result.x:.4f}   F = {result.upper_loss:.1e}")

# %% [markdown]
# ## One gradient
#
# An estimate of the hypergradient is a pure function: it can be compiled, mapped over x, and used as
# the gradient of a function.

# %%
estimate = jax.jit(lambda x: bilevel.hypergradient(problem, methods["BDA, constant law"], x))
found = estimate(0.5)
print("F:", found.value, " gradient:", found.gradient, " y_K:", found.y)

gradient = jax.vmap(jax.grad(bilevel.value_function(problem, methods["RHG"])))
print("RHG's gradient at x = 0, 1/2, 1:", gradient(jnp.array([0.0, 0.5, 1.0])))

# %% [markdown]
# ## A loop of your own
#
# `minimize` is a loop over `minimizer`'s `step`.

# %%
minimizer = bilevel.minimizer(problem, methods["BDA, constant law"], optax.sgd(0.5))
state, step = minimizer.init(jax.random.key(0)), jax.jit(minimizer.step)
for n in range(NUM_ITERATIONS):
    state, metrics = step(state, jax.random.key(n))
    if n % 50 == 0:
        print(n, minimizer.x(state), metrics["upper_loss"])

# %% [markdown]
# Next: how exact the gradients are (02), and your own data (05).
