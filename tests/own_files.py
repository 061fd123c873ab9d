"""Small files of one's own: class folders of images, archives of arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

FOLDER_OPTIONS = {
    "size": None,
    "width": None,
    "channels": None,
    "split_file": None,
    "split_sizes": None,
    "split_seed": 0,
    "streamed": "auto",
}


def write_images(folder: Path, classes, each=6, shape=(5, 4, 3), seed=0) -> dict[str, np.ndarray]:
    """folder/<class>/<i>.png, and {class: uint8 (each, *shape)}; each: a number, or one a class."""
    generator = np.random.default_rng(seed)
    found = {}
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        number = each if isinstance(each, int) else each[name]
        found[name] = generator.integers(0, 256, (number, *shape), np.uint8)
        for i, image in enumerate(found[name]):
            Image.fromarray(image.squeeze(-1) if shape[-1] == 1 else image).save(
                folder / name / f"{i}.png"
            )
    return found
