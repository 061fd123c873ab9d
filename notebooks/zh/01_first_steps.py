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
# # 十二行代码的双层问题
#
# min over x of F(x, y\*(x))，其中 y\*(x) 是 f(x, .) 关于 y 的极小点。
#
# 你将看到一个常用方法解不了的问题，明白原因，并看到 BDA（Bi-level Descent Aggregation，双层下降聚合）如何解决它。整个过程约需一分钟，不需要任何数据。

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
# ## 问题
#
# x 是一个数；y 有两个部分 a 和 b。b 不出现在 f 中，所以任何 b 都使 f 最小。F 希望 b = x 且 a = 1。解是 x = a = b = 1，此时 F = 0。

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
# ## 三种方法
#
# 一个方法规定：下层沿哪个方向走，怎样走，以及如何对结果求导。RHG（reverse hypergradient，反向超梯度）只沿 f 下降；BDA 沿 F 与 f 的混合下降，其*规则*（law）规定每一步中两者各占多少。

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
# RHG 停在 x = 1/2。错的不是上层：它确实把它所看到的函数最小化了。
#
# ## 每种方法看到的地形
#
# 上层看到的不是 F(x, y\*(x))，而是 F(x, y_K(x))，其中 y_K 是 K 个下层步之后的结果。`value_function` 就是这个关于 x 的函数。

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
# RHG 的下层步从不移动 b：b 一直是 0，所以 RHG 看到的是 x²/2 + (x - 1)²/2，它的极小点在 1/2。BDA 的下层步则会让 b 也向 x 移动。
#
# harmonic 规则在 K = 40 时并不精确。其中 F 的权重像 1/k 一样趋于零，因此 K 越大，结果越接近真解：

# %%
for steps in (10, 40, 160, 640):
    method = bilevel.methods.bda(law="harmonic", alpha=0.5, step_size=0.5, num_lower_steps=steps)
    result = bilevel.minimize(
        problem, method, optimizer=optax.sgd(0.5), num_iterations=NUM_ITERATIONS
    )
    print(f"K = {steps:<4} x = {result.x:.4f}   F = {result.upper_loss:.1e}")

# %% [markdown]
# ## 一个梯度
#
# 超梯度的估计是一个纯函数：可以编译，可以对 x 做批量映射，也可以作为某个函数的梯度来用。

# %%
estimate = jax.jit(lambda x: bilevel.hypergradient(problem, methods["BDA, constant law"], x))
found = estimate(0.5)
print("F:", found.value, " gradient:", found.gradient, " y_K:", found.y)

gradient = jax.vmap(jax.grad(bilevel.value_function(problem, methods["RHG"])))
print("RHG's gradient at x = 0, 1/2, 1:", gradient(jnp.array([0.0, 0.5, 1.0])))

# %% [markdown]
# ## 自己写循环
#
# `minimize` 就是对 `minimizer` 的 `step` 的循环。

# %%
minimizer = bilevel.minimizer(problem, methods["BDA, constant law"], optax.sgd(0.5))
state, step = minimizer.init(jax.random.key(0)), jax.jit(minimizer.step)
for n in range(NUM_ITERATIONS):
    state, metrics = step(state, jax.random.key(n))
    if n % 50 == 0:
        print(n, minimizer.x(state), metrics["upper_loss"])

# %% [markdown]
# 接下来：各种梯度有多准（02），以及使用你自己的数据（05）。
