"""What a run was made of: versions, revision, machine, command."""

import json
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from src.files import write_json

PACKAGES = (
    "bilevel",
    "jax",
    "jaxlib",
    "jaxopt",
    "dm-haiku",
    "optax",
    "orbax-checkpoint",
    "hydra-core",
)


def provenance() -> dict[str, Any]:
    """Versions, git revision (and whether the tree was dirty), platform, devices, command."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **versions(),
        "git": {
            "revision": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain")),
        },
        "platform": platform.platform(),
        "devices": [str(device.device_kind) for device in jax.devices()],
    }


def versions() -> dict[str, Any]:
    """{python: ..., packages: {name: version}}."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def record_provenance(path: Path, first_iteration: int) -> None:
    """Append this process to the list of those that worked on a run."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))["processes"]
    except (OSError, ValueError, KeyError, TypeError):
        earlier = []
    write_json(
        path, {"processes": [*earlier, {"first_iteration": first_iteration, **provenance()}]}
    )


def peak_memory_mib() -> float:
    """Peak memory of this process in MiB: of the accelerator where there is one, else resident."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
