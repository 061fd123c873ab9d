"""`python -m benchmarks [rows=main,larger] [out=FILE.json] [seconds=10] [torch=PYTHON]`.

Each row runs in fresh processes: with an empty compilation cache (cold), with a filled one (warm,
which is the one that is timed), and in PyTorch with 1 and 2 threads, where torch=PYTHON names a
python that has it. Prints a table, and writes all numbers, with machine and versions, to `out`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.inputs import write_inputs
from benchmarks.machine import machine
from benchmarks.rows import ROWS, Row
from src.output.tables import aligned
from src.settings.cli import key_value_arguments, refusals_as_messages
from src.settings.errors import UserError
from src.settings.key_values import read_pairs

ROOT = Path(__file__).resolve().parents[1]
KEYS = {
    "rows": f"which, with commas: {', '.join(ROWS)} (default: main)",
    "out": "the file for all numbers (default: benchmark.json)",
    "seconds": "how long each row is timed (default: 10)",
    "torch": "a python that has torch and numpy (default: no comparison)",
}
HEADER = [
    "row",
    "it/s",
    "spread",
    "CPU s",
    "cold s",
    "warm s",
    "MiB",
    "GFLOP",
    "roof",
    "torch it/s",
    "ratio",
]


def main() -> None:
    """Measure, print, store."""
    arguments = key_value_arguments("benchmarks", __doc__, KEYS, metavar="key=value", nargs="*")
    with refusals_as_messages(traceback=False):
        options = read_pairs(arguments, KEYS)
        rows = _chosen(options.get("rows", "main"))
        seconds, out = options.get("seconds", "10"), Path(options.get("out", "benchmark.json"))
        found: dict[str, Any] = {"machine": machine(), "rows": {}}
        roof = found["machine"]["gflop_per_second"]
        table = [HEADER]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_inputs(folder)
            for row in rows:
                numbers = measured(row, folder, seconds, options.get("torch"))
                found["rows"][row.name] = numbers
                table.append(as_row(row, numbers, roof))
                print("  ".join(table[-1]), file=sys.stderr)
                out.write_text(json.dumps(found, indent=1) + "\n")  # after each: a kill loses one
        print(f"matrix products: {roof:.0f} GFLOP/s; load {found['machine']['load'][0]:.1f}")
        print("\n".join(aligned(table)))
        print(out)


def measured(row: Row, folder: Path, seconds: str, torch: str | None) -> dict[str, Any]:
    """{"cold", "warm", "torch": {threads: ...}} as the processes print them."""
    ours = [sys.executable, "-m", "benchmarks.measure", row.name]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / f"cache-{row.name}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    numbers: dict[str, Any] = {
        "cold": _run([*ours, "0"], folder, cache),
        "warm": _run([*ours, seconds], folder, cache),
    }
    if torch is None or row.peer is None:
        return numbers
    export = folder / "export.npz"
    _run([*ours, "0", str(export)], folder, cache)
    program = str(ROOT / "benchmarks/torch_peers.py")
    peers = [row.peer, *([f"{row.peer}_func"] if row.peer == "few_shot_maml" else [])]
    numbers["torch"] = {
        f"{peer}, {threads} threads": _run(
            [torch, program, peer, str(export), str(threads), seconds],
            folder,
            {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)},
        )
        for peer in peers
        for threads in (1, 2)
    }
    return numbers


def as_row(row: Row, numbers: dict[str, Any], roof: float) -> list[str]:
    """Medians; the spread is that of the blocks, quarter to three quarters, in percent."""
    warm = numbers["warm"]
    rate = 1 / statistics.median(warm["wall"])
    low, _, high = statistics.quantiles(warm["wall"], n=4)
    cells = [row.name, f"{rate:.3g}", f"{100 * (high - low) * rate:.0f} %"]
    cells += [f"{statistics.median(warm['cpu']):.3g}"]
    cells += [f"{numbers[kind]['seconds_to_first']:.1f}" for kind in ("cold", "warm")]
    cells += [f"{warm['peak_mib']:.0f}"]
    cells += (
        ["-", "-"]
        if row.gflop is None
        else [f"{row.gflop:.3g}", f"{100 * row.gflop * rate / roof:.0f} %"]
    )
    peers = numbers.get("torch", {})
    if not peers:
        return [*cells, "-", "-"]
    best, of_best = max(
        ((1 / statistics.median(of["wall"]), of) for of in peers.values()), key=lambda pair: pair[0]
    )
    return [*cells, f"{best:.3g}", f"{rate / best:.2f}{_remark(warm['losses'], of_best['losses'])}"]


def _remark(ours: list[float], theirs: list[float]) -> str:
    """The first two losses agree to four digits; then Adam has divided rounding by rounding."""
    tolerances = (1e-4, 1e-4, 1e-3, 1e-3)
    alike = all(
        abs(a - b) <= limit * abs(b) for a, b, limit in zip(ours, theirs, tolerances, strict=False)
    )
    return "" if alike else " (other losses!)"


def _chosen(text: str) -> list[Row]:
    for name in text.split(","):
        if name not in ROWS:
            raise UserError(f"rows={name} is not known; choose some of {', '.join(ROWS)}")
    return [row for name in text.split(",") for row in ROWS[name]]


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The JSON object that a process prints last. Raises UserError with what it said."""
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    inherited["BENCHMARK_STARTED"] = repr(time.time())
    done = subprocess.run(
        command, cwd=folder, env=inherited, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


if __name__ == "__main__":
    main()
