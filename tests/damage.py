"""Flip single bits of a checkpoint: `python -m tests.damage RUN_FOLDER [number] [seed]`.

Each flip is undone before the next. Counts what `evaluate` and a continued run would do: give the
same numbers, refuse with a message, give other numbers (a defect), or fail otherwise (a defect).
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from src.running.checkpoint import Checkpoints, open_checkpoints
from src.running.loop import fresh_snapshot
from src.running.snapshot import Snapshot, digest_of
from src.running.stored_run import stored_run
from src.settings.errors import UserError


def outcome(checkpoints: Checkpoints, like: Snapshot, digest: str) -> str:
    """What restoring the last checkpoint gives, beside the digest of what was written."""
    try:
        restored = checkpoints.restore(like)
    except UserError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    assert restored is not None
    return "same numbers" if digest_of(restored) == digest else "other numbers"


def flips(folder: Path, number: int, seed: int) -> Counter[str]:
    """How often each outcome was met. Bits are drawn evenly from all files of the checkpoint."""
    generator = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    with stored_run(folder) as run:
        like, step = fresh_snapshot(run.experiment), run.checkpoints.latest()
        whole = run.checkpoints.restore(like)
        assert whole is not None
        files = sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())
        ends = np.cumsum([path.stat().st_size for path in files])
        for _ in range(number):
            where = int(generator.integers(ends[-1]))
            index = int(np.searchsorted(ends, where, side="right"))
            path = files[index]
            content = path.read_bytes()
            damaged = bytearray(content)
            damaged[where - int(ends[index]) + len(content)] ^= 1 << int(generator.integers(8))
            path.write_bytes(bytes(damaged))
            try:
                # Opened anew: orbax remembers what it has read.
                checkpoints = open_checkpoints(folder, read_only=True)
                counts[outcome(checkpoints, like, digest_of(whole))] += 1
                checkpoints.close()
            finally:
                path.write_bytes(content)
    return counts


if __name__ == "__main__":
    folder, number, seed = (*sys.argv[1:], *("100", "0")[len(sys.argv) - 2 :])
    print(dict(flips(Path(folder), int(number), int(seed))))
