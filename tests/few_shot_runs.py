"""Runs of few-shot classification, and images to classify by them."""

import numpy as np
from PIL import Image

from src.running.run import run
from tests.conftest import SHORT, config_of, linear_few_shot

MLP = ["model=mlp", "model.hidden_sizes=[6]"]


def few_shot_run(omniglot_folder, folder, *options):
    base = linear_few_shot(omniglot_folder)
    if any(option.startswith("model=") for option in options):
        base = [option for option in base if not option.startswith("model")]
    run(config_of(*base, *SHORT, *options), folder)
    return folder


def some_images(classes, of_each, seed=0):
    """uint8 images like those of the run: each class a pattern; and their labels."""
    generator = np.random.default_rng(seed)
    patterns = np.random.default_rng(5).random((classes, 1, 28, 28, 1)) < 0.3
    flips = generator.random((classes, of_each, 28, 28, 1)) < 0.05
    images = np.where(patterns ^ flips, 255, 0).astype(np.uint8)
    return images.reshape(-1, 28, 28, 1), np.repeat(np.arange(classes), of_each)


def put_images(root, classes, of_each, seed=0, ink=0, by_class=True):
    """Dark ink on light paper, as people have it (ink=0), or the other way round (ink=255)."""
    images, labels = some_images(classes, of_each, seed)
    names = [f"class {label}, $x^" for label in range(classes)]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / names[label] / f"{i:02d}.png" if by_class else root / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = image if ink == 255 else 255 - image
        # A frame of paper, as in any drawing.
        pixels[:1], pixels[-1:], pixels[:, :1], pixels[:, -1:] = (255 - ink,) * 4
        Image.fromarray(pixels[..., 0]).save(path)
    return root
