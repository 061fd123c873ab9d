"""One run on 1, 2 and 4 devices: `python -m tests.devices_script FOLDER OMNIGLOT bda|hoag|seeds`.

Prints {how: largest difference of a number from one device}, of final states, losses and scores.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from src.running.run import run
from src.running.stored_run import stored_run, stored_state
from tests.conftest import QUIET, config_of, linear_few_shot, read_metrics

OFTEN = ["dtype=float64", "log_every=2", "eval_every=4", "checkpoint_every=4"]
NAMES = ("train/upper_loss", "validation/upper_loss", "validation/upper_loss_ci95")


def numbers(folder: Path, config: dict) -> list[np.ndarray]:
    """x and what is learned at the end, the logged losses, and the scores of the test."""
    result = run(config, folder)
    with stored_run(folder) as stored:
        state = stored_state(stored, "last").state.variables
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    rows = [row[name] for row in read_metrics(folder) for name in NAMES if name in row]
    scores = [value for name, value in result.items() if name.startswith(("test/", "best/v"))]
    return [*leaves, np.array(rows), np.array(scores)]


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    folder, omniglot, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    few_shot = [*linear_few_shot(omniglot), *OFTEN, "meta_batch_size=4", "num_validation_tasks=5"]
    overrides = {
        "bda": [*few_shot, "method=bda", "lower_optimizer.learn=scalar"],
        "hoag": [*few_shot, "method=hoag", "problem.lower_l2=0.1"],
        "seeds": ["problem=ridge", *QUIET, *OFTEN, "seeds=4"],
    }[name]

    def on(devices: int, folder: Path, iterations: int = 8) -> list[np.ndarray]:
        chosen = [f"devices={devices}", f"num_iterations={iterations}"]
        return numbers(folder, config_of(*overrides, *chosen))

    alone = on(1, folder / "1")
    found = {"4 devices": difference(on(4, folder / "4"), alone)}
    moved = folder / "moved"
    on(2, moved, iterations=4)
    found["2 devices and then 1"] = difference(on(1, moved), alone)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
