"""What a loader has read from files of a person, as a digest: files change behind a run's back."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import jax
import numpy as np

from src.data.array_cache import digest
from src.data.labelled import Table

MADE = "src.data.glyphs"  # its root is a cache of what it draws
MANY = 100_000  # files: to look at each takes about a second
STEPS = 4096  # of a deviation: far above the rounding of a mean, far below what people change


def files_of(loader: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that say where files are; {} of data that are made or come along."""
    if loader.__module__ == MADE:
        return {}
    return {
        option: value
        for option, value in options.items()
        if (option in ("path", "root") or option.endswith("_path")) and value is not None
    }


def stamp_of_files(paths: Iterable[Any]) -> str | None:
    """Names, sizes and times of all files there, as a digest: the same while nobody writes one.

    None where that is not known: a file cannot be looked at, a folder is a link, there are many.
    """
    total = hashlib.sha256()
    try:
        names = sorted(islice(_files_below(paths), MANY + 1))
        if len(names) > MANY:
            return None
        for name in names:
            known = os.stat(name)
            # ctime, which nobody sets: of a file that was put in its place with an old mtime.
            total.update(f"{known.st_size} {known.st_mtime_ns} {known.st_ctime_ns} ".encode())
            total.update(os.fsencode(name) + b"\0")
    except OSError:
        return None
    return total.hexdigest()


def _files_below(paths: Iterable[Any]) -> Iterator[str]:
    """Raises OSError where a folder cannot be read, or is a link below one of `paths`."""
    for path in map(str, paths):
        if not os.path.isdir(path):
            yield path
            continue
        for folder, folders, files in os.walk(path, onerror=_raise):
            if any(os.path.islink(os.path.join(folder, name)) for name in folders):
                raise OSError(f"{folder} has a link to a folder, which may lead anywhere")
            yield from (os.path.join(folder, name) for name in files)


def _raise(error: OSError) -> None:
    raise error


def digest_of_data(data: Any) -> str:
    """A digest of the numbers that a loader returns, and of the names of classes and columns.

    The same on every machine: what was standardised, by means that another processor may round in
    another way, counts in steps of 1 / STEPS. Where each row was found does not count.
    """
    rounded = isinstance(data, Table) and data.standardised
    if isinstance(data, Table):
        data = data._replace(scaling=None, target_scaling=None)
    names = "\0".join(map(str, getattr(data, "names", None) or ())).encode(
        "utf-8", "surrogateescape"
    )
    found = {"names": np.frombuffer(names, np.uint8)}
    features = "\0".join(getattr(data, "features", ()))
    if features:  # two columns whose names were exchanged are other data
        found["features"] = np.frombuffer(features.encode("utf-8", "surrogateescape"), np.uint8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
            steps = rounded and leaf.dtype.kind == "f"
            found[jax.tree_util.keystr(path)] = _in_steps(leaf) if steps else leaf
    return digest(found)


def _in_steps(values: np.ndarray) -> np.ndarray:
    # The third: so that 0 and other values that tables often have lie between two bounds of steps.
    return np.rint(values * STEPS + 1 / 3) + 0.0  # not -0.0, which has other bytes
