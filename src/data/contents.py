"""What a loader has read from files of a person, as a digest: files change behind a run's back."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from src.data.array_cache import digest
from src.data.labelled import Table

MADE = "src.data.glyphs"  # its root is a cache of what it draws
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


def digest_of_data(data: Any) -> str:
    """A digest of the numbers that a loader returns, and of the names of classes.

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
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
            steps = rounded and leaf.dtype.kind == "f"
            found[jax.tree_util.keystr(path)] = _in_steps(leaf) if steps else leaf
    return digest(found)


def _in_steps(values: np.ndarray) -> np.ndarray:
    # The third: so that 0 and other values that tables often have lie between two bounds of steps.
    return np.rint(values * STEPS + 1 / 3) + 0.0  # not -0.0, which has other bytes
