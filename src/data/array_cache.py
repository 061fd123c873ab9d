"""Arrays on disk that can be made again: whole and unchanged, or built anew."""

import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.files import write_atomically

DIGEST = "sha256"


def default_folder(name: str) -> Path | None:
    """$XDG_CACHE_HOME/bilevel/`name`, or under ~/.cache; None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()
    except RuntimeError:
        return None
    return base / "bilevel" / name


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of `path`; None where there is no such file, or, with a warning, a damaged one."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays.pop(DIGEST)) != digest(arrays):
            raise ValueError("its contents do not have the sha256 that was stored with them")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        warnings.warn(f"{path} is damaged and is made anew: {error}", stacklevel=2)
        return None
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Whole or not at all, whoever else writes the same file. Raises OSError."""
    save = np.savez_compressed if compress else np.savez

    def write(temporary: Path) -> None:
        # An open file, since numpy appends .npz to a name without it.
        with open(temporary, "xb") as file:
            save(file, allow_pickle=False, **{**arrays, DIGEST: np.array(digest(arrays))})

    write_atomically(path, write)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, shapes and contents, in hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)  # its bytes, not a copy of them
    return total.hexdigest()
