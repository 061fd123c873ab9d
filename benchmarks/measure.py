"""Measure one row in a process of its own: `python -m benchmarks.measure ROW SECONDS [EXPORT]`.

Prints one JSON object. Times are of blocks of iterations, each one program that ends before the
clock is read. With EXPORT, writes what a peer needs to compute the same: the first x and y, and the
tasks of the first iterations, as an npz file.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = float(os.environ.get("BENCHMARK_STARTED", time.time()))  # before python itself
FIRST = 4  # iterations whose losses are compared


def main() -> None:
    name, seconds, *export = sys.argv[1:]
    import jax

    from benchmarks.rows import ROWS
    from src.settings.build import build
    from src.settings.cli import compose_config
    from src.settings.config import resolve

    row = next(row for rows in ROWS.values() for row in rows if row.name == name)
    overrides = [*row.overrides, f"log_every={max(row.block, FIRST)}", "logger=[]"]
    config = resolve(compose_config(overrides)[0])
    with jax.enable_x64(config["dtype"] == "float64"):
        experiment = build(config)
        if export:
            write_export(experiment, config, Path(export[0]))
            return
        print(json.dumps(measured(experiment, row.block, float(seconds))))


def measured(experiment: Any, block: int, seconds: float) -> dict[str, Any]:
    """First losses, seconds to the first iteration, wall and CPU seconds of blocks, peak memory."""
    import jax
    import jax.numpy as jnp

    from src.running.loop import initial_state, make_chunk
    from src.running.provenance import peak_memory_mib
    from src.running.seeds import seed_keys

    settings, source = experiment.settings, experiment.source
    chunk = make_chunk(experiment)
    keys = seed_keys(settings.seed, settings.seeds)
    state = initial_state(experiment)

    def run(state: Any, first: int, stop: int) -> Any:
        found = chunk(state, source.data, keys, jnp.int32(first), jnp.int32(stop))
        return jax.block_until_ready(found)

    state, columns = run(state, 0, 1)
    to_first = time.time() - STARTED
    losses = [float(columns["upper_loss"][0, 0])]
    state, columns = run(state, 1, FIRST)
    losses += columns["upper_loss"][0, : FIRST - 1].tolist()
    walls, cpus, step, began = [], [], FIRST, time.perf_counter()
    while len(walls) < 5 or time.perf_counter() - began < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        state, _ = run(state, step, step + block)
        walls.append((time.perf_counter() - wall) / block)
        cpus.append((time.process_time() - cpu) / block)
        step += block
    return {
        "losses": losses,
        "seconds_to_first": to_first,
        "wall": walls,
        "cpu": cpus,
        "peak_mib": peak_memory_mib(),
        "device": str(jax.devices()[0].device_kind),
    }


def write_export(experiment: Any, config: dict[str, Any], path: Path) -> None:
    """{"x/...", "y/...", "task<i>/...": arrays, "option/...": numbers of the configuration}."""
    import jax
    import numpy as np

    from src.running.loop import initial_state
    from src.running.seeds import seed_keys

    settings, source, problem = experiment.settings, experiment.source, experiment.problem
    state = jax.tree.map(lambda leaf: leaf[0], initial_state(experiment))
    key = seed_keys(settings.seed, 1)[0]
    seeded = source.seeded(source.data, key)
    x = state.variables["problem"]
    y = problem.init_lower(state.start, x)
    number = 1 if source.persistent else FIRST
    tasks = {}
    for n in range(number):
        task_key, _ = jax.random.split(jax.random.fold_in(key, n))
        tasks[f"task{n}"] = source.sample(seeded, task_key, "train", settings.meta_batch_size)
    named: dict[str, Any] = {
        "option/lower_step_size": config["lower_optimizer"]["step_size"],
        "option/upper_step_size": config["upper_optimizer"]["step_size"],
        "option/num_lower_steps": settings.num_lower_steps,
        "option/alpha": config["aggregation"].get("alpha", 0.0),
    }
    for path_of, leaf in jax.tree_util.tree_leaves_with_path({"x": x, "y": y, **tasks}):
        named["/".join(str(part.key) for part in path_of)] = np.asarray(leaf)
    np.savez(path, **named)


if __name__ == "__main__":
    main()
