"""Files that are either there whole or not at all."""

import json
import os
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
STALE_SECONDS = 24 * 3600  # nobody writes one file for longer


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary)` in the same folder, synced to the disk, then renamed over `path`.

    Raises OSError with the file's name, also where the disk is full.
    """
    remove_temporaries(path.parent, STALE_SECONDS)
    # A name of its own, so that whoever else writes the same file is not disturbed.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes have left of `write_atomically`; older_than: in seconds."""
    for path in folder.glob(".*.tmp"):
        try:
            if TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()
        except OSError:  # somebody else has removed it, or owns it
            continue


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: _write(temporary, text))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
