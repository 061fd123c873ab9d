"""The tables that come with scikit-learn."""

import numpy as np
import pytest

from src.data.bundled_table import bundled_table
from src.data.image_classes import SPLITS

BUNDLED = {"split_sizes": None, "split_seed": 0, "standardise": True}


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [
        ("diabetes", (176, 132, 134), 10, 0),
        ("breast_cancer", (227, 170, 172), 30, 2),
        ("wine", (71, 53, 54), 13, 3),
        ("iris", (60, 45, 45), 4, 3),
        ("digits", (718, 539, 540), 64, 10),
    ],
)
def test_bundled_tables(name, rows, features, classes):
    table = bundled_table(name=name, **BUNDLED)
    assert tuple(table.inputs[split].shape for split in SPLITS) == tuple(
        (n, features) for n in rows
    )
    assert table.num_classes == classes
    for split, number in zip(SPLITS, rows, strict=True):
        assert table.inputs[split].dtype == np.float64
        assert table.targets[split].shape == (number,)
        assert table.targets[split].dtype == (np.int32 if classes else np.float64)
    if classes:
        assert np.unique(table.targets["train"]).tolist() == list(range(classes))
    # Standardised by the training rows, and by these alone.
    plain = bundled_table(name=name, **{**BUNDLED, "standardise": False})
    mean, deviation = plain.inputs["train"].mean(axis=0), plain.inputs["train"].std(axis=0)
    moving = np.ptp(plain.inputs["train"], axis=0) > 0
    for split in SPLITS:
        expected = (plain.inputs[split] - mean)[:, moving] / deviation[moving]
        np.testing.assert_allclose(table.inputs[split][:, moving], expected, rtol=1e-12)
        assert (table.inputs[split][:, ~moving] == 0).all()
    assert (name == "digits") != moving.all()
    if not classes:
        np.testing.assert_allclose(table.targets["train"].mean(), 0, atol=1e-12)
        np.testing.assert_allclose(table.targets["train"].std(), 1)
        assert abs(table.targets["test"].mean()) > 1e-6
        assert plain.targets["train"].min() >= 25


def test_bundled_sizes_are_checked():
    with pytest.raises(ValueError, match=r"^split_sizes=\[100,50,null\].* there are 150; choose"):
        bundled_table(name="iris", **{**BUNDLED, "split_sizes": (100, 50, None)})
