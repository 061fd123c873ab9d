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
    *["problem=ridge", "lower_start=warm", "upper_optimizer=momentum", "num_iterations=6000"],
    *["aggregation.learn=[alpha,t]", "checkpoint_every=60", "log_every=30", "eval_every=50"],
    *QUIET,
]


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "src.train", *OPTIONS, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(folder: Path, kills: int, seed: int) -> None:
    """Print how many kills there were, in how many runs, and whether all agree with the first."""
    generator = np.random.default_rng(seed)
    began = time.monotonic()
    assert start(folder / "whole").wait() == 0
    life, done, runs = time.monotonic() - began, 0, 0
    while done < kills:
        runs += 1
        killed = folder / f"killed{runs}"
        while True:
            process = start(killed)
            try:
                assert process.wait(timeout=float(generator.uniform(0.1, 0.8)) * life) == 0
                break  # it has come to its end
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                done += 1
        assert outcome(killed) == outcome(folder / "whole"), killed
        assert not list(killed.glob(".*.tmp"))
    print(f"{done} kills of {runs} runs: all are the run that was left alone")


def outcome(folder: Path) -> tuple[dict, list[dict]]:
    """The result and the rows, without what the clock says."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return without_timings(result), [without_timings(row) for row in read_metrics(folder)]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        Path(arguments[0]),
        int(arguments[1]) if len(arguments) > 1 else 10,
        int(arguments[2]) if len(arguments) > 2 else 0,
    )
