"""Image files as arrays, decoded once and then read from the user's cache folder."""

import hashlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.array_cache import default_folder, read_arrays, write_arrays
from src.data.image_files import Header, decode_all, shown_below

RECIPE = 4  # to be raised whenever other arrays come from the same files


def decode_once(
    name: str, paths: Sequence[Path], root: Path, header: Header, *, upright: bool = True
) -> np.ndarray:
    """`decode_all`, kept in the folder `name` of the user's cache.

    Another folder, other names, sizes or times of the files, and other headers, make another file.
    """
    folder = default_folder(name)
    path = None
    if folder is not None:
        path = folder / f"images-{_fingerprint(paths, root, header, upright)}.npz"
    arrays = None if path is None else read_arrays(path)
    if arrays is None:
        print(
            f"decoding {len(paths):,} images once; 60,000 take some minutes",
            file=sys.stderr,
        )
        arrays = {"images": decode_all(paths, root, header, upright=upright)}
        try:
            if path is None:
                raise OSError("there is no home folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Photographs hardly get smaller, and unpacking would take longer than reading.
            write_arrays(path, arrays, compress=False)
        except OSError as error:
            warnings.warn(f"the images are not kept for the next run: {error}", stacklevel=2)
    return arrays["images"]


def _fingerprint(paths: Sequence[Path], root: Path, header: Header, upright: bool) -> str:
    """Raises ValueError where one of the files is a link to one that is not there."""
    # The folder, too: archives and `cp -p` give files of another data set the same names and times.
    recipe = (RECIPE, str(root.resolve()), tuple(header), upright)
    total = hashlib.sha256(repr(recipe).encode("utf-8", "surrogateescape"))
    for path in paths:
        name = shown_below(path, root)
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(gone(path, name)) from error
        # ctime, which nobody sets: of pixels that were changed in place, with the old mtime.
        entry = (name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        total.update(repr(entry).encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def gone(path: Path, name: str) -> str:
    """Why a file that is listed cannot be found."""
    if not path.is_symlink():
        return f"{name} has gone; run the same command again"
    return f"{name} links to {path.readlink()}, which is not there; copy the data set itself"
