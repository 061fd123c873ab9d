"""Data for the benchmark, drawn from a seed: speed does not depend on what the numbers are."""

from pathlib import Path

import numpy as np

from benchmarks.rows import IMAGES, TABLE


def write_inputs(folder: Path) -> None:
    """images.npz (5,000 images for each split) and rows.svm, where they are missing."""
    draw = np.random.default_rng(0)
    if not (folder / IMAGES).exists():
        labels = np.tile(np.arange(10), 1500)
        means = draw.integers(0, 200, (10, 28, 28))
        images = (means[labels] + draw.integers(0, 56, (15_000, 28, 28))).astype(np.uint8)
        split = np.repeat(["train", "validation", "test"], 5000)
        np.savez(folder / IMAGES, images=images, labels=labels, split=split)
    if not (folder / TABLE).exists():
        lines = []
        for label in draw.integers(0, 2, 20_000):
            columns = np.unique(draw.integers(1, 100_001, 50))
            entries = " ".join(
                f"{c}:{v:.3f}" for c, v in zip(columns, draw.random(50), strict=False)
            )
            lines.append(f"{label} {entries}\n")
        (folder / TABLE).write_text("".join(lines))
