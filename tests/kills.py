"""Kill a run at random moments until it is finished: `python -m tests.kills FOLDER [kills] [seed]`.

Compares its rows and its result with those of a run that was left alone, bit for bit but for the
clock. The moments are drawn from the whole life of the process, imports and pictures included.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.conftest import QUIET, ROOT, read_metrics, without_timings

OPTIONS = [
    *["problem=ridge", "lower_start=warm", "upper_optimizer=momentum", "num_iterations=12000"],
    *["aggregation.learn=[alpha,t]", "checkpoint_every=60", "log_every=30", "eval_every=50"],
    *QUIET,
]


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "src.train", *OPTIONS, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(folder: Path, kills: int, seed: int) -> None:
    """Print how many kills there were, and whether the two runs agree."""
    generator = np.random.default_rng(seed)
    began = time.monotonic()
    assert start(folder / "whole").wait() == 0
    life, done = time.monotonic() - began, 0  # seconds; a restored run has less to do
    while done < kills:
        process = start(folder / "killed")
        try:
            process.wait(timeout=float(generator.uniform(0.3, 0.7)) * life)
            break  # it has ended by itself
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
    assert start(folder / "killed").wait() == 0
    results = [
        without_timings(json.loads((folder / name / "result.json").read_text()))
        for name in ("whole", "killed")
    ]
    rows = [list(map(without_timings, read_metrics(folder / n))) for n in ("whole", "killed")]
    left = [path.name for path in (folder / "killed").glob(".*.tmp")]
    same = results[0] == results[1] and rows[0] == rows[1]
    print(f"{done} kills, {len(rows[0])} rows: {'the same' if same else 'DIFFERENT'}; left: {left}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]),
        int(arguments[1]) if len(arguments) > 1 else 10,
        int(arguments[2]) if len(arguments) > 2 else 0,
    )
