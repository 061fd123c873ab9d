"""What a stranger does with `import bilevel`: run from another folder, against an installed wheel.

tests/test_library.py runs this file as a program; it prints one line of JSON.
"""

import json
import sys
import warnings

warnings.simplefilter("error")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import bilevel  # noqa: E402

results = {"file": bilevel.__file__}
# Nothing of what surrounds the library is imported with it, nor what takes seconds.
results["imported"] = sorted({"hydra", "omegaconf", "wandb", "jaxopt", "haiku"} & set(sys.modules))


def f(x, y):
    return 0.5 * y["a"] ** 2 - x * y["a"]


def F(x, y):
    return 0.5 * (x - y["b"]) ** 2 + 0.5 * (y["a"] - 1) ** 2


problem = bilevel.problem(f, F, upper_start=0.0, lower_start={"a": 0.0, "b": 0.0})
for method in (
    bilevel.methods.rhg(step_size=0.5, num_lower_steps=40),
    bilevel.methods.bda(alpha=0.5, law="constant", step_size=0.5, num_lower_steps=40),
):
    found = bilevel.minimize(problem, method, optimizer=optax.sgd(0.5), num_iterations=100)
    results[method.name] = [float(found.x), found.upper_loss]
    results[f"{method.name} scores"] = sorted(found.scores)

# Ridge regression with a learned penalty, mini-batches below, and rows that nothing has seen.
key = jax.random.key(0)
inputs = jax.random.normal(key, (90, 5))
targets = inputs @ jnp.arange(5.0) + jax.random.normal(jax.random.key(1), (90,))
parts = {
    name: {"inputs": inputs[rows], "targets": targets[rows]}
    for name, rows in (
        ("train", slice(0, 30)),
        ("validation", slice(30, 60)),
        ("test", slice(60, 90)),
    )
}


def error(y, rows):
    return jnp.mean((rows["inputs"] @ y - rows["targets"]) ** 2)


def penalised(x, y, rows):
    return error(y, rows) + jnp.exp(x) * jnp.sum(y**2)


def held_out(x, y, rows):
    return error(y, rows), {"largest": jnp.max(jnp.abs(y))}


ridge = bilevel.problem(
    penalised,
    held_out,
    upper_start=0.0,
    lower_start=jnp.zeros(5),
    **parts,
    batch_size=10,
    project=lambda x: jnp.minimum(x, 1.0),
)
found = bilevel.minimize(
    ridge,
    bilevel.methods.rhg(step_size=0.05, num_lower_steps=50),
    optimizer=optax.adam(0.1),
    num_iterations=50,
)
results["ridge"] = found.scores
results["ridge history"] = [float(v) for v in found.history["upper_loss"][[0, -1]]]

# One estimate, under jit, vmap and grad.
whole = bilevel.problem(penalised, held_out, upper_start=0.0, lower_start=jnp.zeros(5), **parts)
hoag = bilevel.methods.hoag(tolerance=1e-6, step_size=0.05, num_lower_steps=300)
phi = bilevel.value_function(whole, hoag)
xs = jnp.array([-1.0, 0.0])
one = [float(bilevel.hypergradient(whole, hoag, x).gradient) for x in xs]
results["estimates"] = one
results["vmap"] = jax.vmap(lambda x: bilevel.hypergradient(whole, hoag, x).gradient)(xs).tolist()
results["grad"] = [float(jax.jit(jax.grad(phi))(x)) for x in xs]
results["difference"] = [float((phi(x + 1e-2) - phi(x - 1e-2)) / 2e-2) for x in xs]

# Everything may be made inside jit.
by_bda = jax.jit(
    lambda x: (
        bilevel.hypergradient(
            problem, bilevel.methods.bda(law="constant", num_lower_steps=40, step_size=0.5), x
        ).gradient
    )
)
results["bda at the solution"] = float(by_bda(1.0))

# A loop of one's own.
minimizer = bilevel.minimizer(whole, hoag, optax.sgd(0.1))
state = minimizer.init(key)
step = jax.jit(minimizer.step)
for n in range(3):
    state, metrics = step(state, jax.random.fold_in(key, n))
results["own loop"] = [float(minimizer.x(state)), float(metrics["upper_loss"])]
print(json.dumps(results))
