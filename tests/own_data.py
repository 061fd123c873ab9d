"""Arrays and tables of one's own, and what reads them."""

import numpy as np
import pytest

from src.data.arrays import arrays
from src.data.table import table

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (60, 6, 5), np.uint8)
COLOUR = GENERATOR.integers(0, 256, (60, 6, 5, 3), np.uint8)
ROWS = GENERATOR.standard_normal((60, 4))
LABELS = np.arange(60) % 6
WORDS = np.array(["train", "val", "test"])

ARRAYS = {
    "inputs": None,
    "labels": None,
    "split": None,
    "split_sizes": None,
    "split_seed": 0,
    "targets": "auto",
    "standardise": False,
    "streamed": "auto",
}
TABLE = {
    "validation_path": None,
    "test_path": None,
    "target": "y",
    "split": None,
    "drop": (),
    "split_sizes": None,
    "split_seed": None,
    "targets": "auto",
    "standardise": False,
}


def load(folder, members, **options):
    np.savez(folder / "a.npz", **members)
    return arrays(path=str(folder / "a.npz"), **{**ARRAYS, **options})


def refusal(call, *args, **options):
    with pytest.raises(
        ValueError, match=r"^(path|test_path|inputs|labels|split|target|drop)"
    ) as refused:
        call(*args, **options)
    return str(refused.value)


def read(folder, text, **options):
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return table(path=str(folder / "a.csv"), **{**TABLE, **options})


def csv_of(cells, header="a,b,y", rows=10):
    return "\n".join([header, *(cells(i) for i in range(rows))]) + "\n"


NUMBERS = csv_of(lambda i: f"{i},{i % 3}.5,{i % 2}")
