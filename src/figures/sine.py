"""MAML's first figure: predictions of sine curves before and after adaptation."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from src.files import write_atomically
from src.problems.adapting_network import Roles, adapting_network
from src.problems.sine import INPUTS
from src.running.loop import train_in_memory
from src.settings.build import build
from src.settings.cli import compose_config
from src.settings.config import call, check_node, resolve

SHOWN = (0, 1, 10)  # lower steps


def sine_figure(path: Path, num_iterations: int | None = None, num_curves: int = 3) -> None:
    """Train `problem=sine method=maml` and draw its predictions for some test curves.

    num_iterations: None for what conf/problem/sine.yaml recommends.
    """
    from matplotlib.figure import Figure

    shortened = [] if num_iterations is None else [f"num_iterations={num_iterations}"]
    config = resolve(compose_config(["problem=sine", "method=maml", *shortened])[0])
    tasks, grid, predictions = _predictions(config, num_curves)
    figure = Figure(figsize=(4.2 * num_curves, 3.4), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, num_curves, squeeze=False, sharey=True)[0]):
        curve = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
        truth = curve["curve"]["amplitude"] * np.sin(grid - curve["curve"]["phase"])
        axes.plot(grid, truth, color="C3", linewidth=2, label="truth")
        support = curve["support"]
        axes.plot(support["inputs"], support["targets"], "^", color="C4", label="support points")
        for k, style in zip(SHOWN, (":", "--", "-"), strict=True):
            label = "the start" if k == 0 else f"after {k} lower step{'s' * (k > 1)}"
            axes.plot(grid, predictions[i, k], style, color="C2", label=label)
        axes.set(xlabel="input", title=f"test curve {i + 1}")
        axes.grid(alpha=0.25)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        fontsize="small",
        frameon=False,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def _predictions(config: dict[str, Any], number: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Test curves, a grid of inputs, and (curves, lower steps, inputs) of predictions on it."""
    experiment = build(config)
    algorithm, source, settings = experiment.algorithm, experiment.source, experiment.settings
    key = jax.random.key(settings.seed)
    state = train_in_memory(experiment)
    tasks = source.sample(source.data, jax.random.fold_in(key, 1), "test", number)
    grid = np.linspace(*INPUTS, 200)

    node = check_node("model", config["model"])
    assert node is not None
    network = adapting_network(call(node), Roles("all", True), jnp.zeros((1, 1)), 1, "xavier")

    inputs = jnp.asarray(grid)[:, None]

    def adapted(task: Any) -> Any:
        def predict(y: Any) -> Any:
            return network.outputs({}, y, "query", {"query": inputs})[:, 0]

        return algorithm.adapt(state, key, task, max(SHOWN), predict)

    return jax.device_get(tasks), grid, np.asarray(jax.jit(jax.vmap(adapted))(tasks))
