"""A small miniImageNet, in every form in which the real one is passed around."""

import csv
import pickle

import numpy as np
import pytest
from PIL import Image

from src.data.mini_imagenet import mini_imagenet

PARTS = ("train", "val", "test")
COUNT = 20  # images of a class


def photographs(classes=3, count=COUNT, size=84):
    """{part: {class: uint8 (count, size, size, 3)}}; every class has a colour of its own."""
    generator = np.random.default_rng(0)
    total = len(PARTS) * classes
    base = generator.integers(0, 200, (total, 1, 1, 1, 3))
    images = (base + generator.integers(0, 56, (total, count, size, size, 1))).astype(np.uint8)
    names = [f"n{i:08d}" for i in generator.permutation(total)]
    return {
        part: {names[i]: images[i] for i in range(classes * p, classes * (p + 1))}
        for p, part in enumerate(PARTS)
    }


def write_folders(folder, parts, suffix="png"):
    for part, classes in parts.items():
        for name, images in classes.items():
            (folder / part / name).mkdir(parents=True)
            for j, image in enumerate(images):
                Image.fromarray(image).save(folder / part / name / f"{name}{j:08d}.{suffix}")


def write_csv(folder, parts, suffix="png"):
    (folder / "images").mkdir(parents=True)
    for part, classes in parts.items():
        rows = []
        for name, images in classes.items():
            for j, image in enumerate(images):
                rows.append((f"{name}{j:08d}.{suffix}", name))
                Image.fromarray(image).save(folder / "images" / rows[-1][0])
        with open(folder / f"{part}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("filename", "label"), *reversed(rows)])


def cached(classes):
    """{"image_data", "class_dict"}, the classes' images one by one in turn."""
    images = np.stack(list(classes.values()), axis=1)
    number = len(classes)
    return {
        "image_data": images.reshape(-1, *images.shape[2:]),
        "class_dict": {
            name: list(range(i, images.shape[0] * number, number)) for i, name in enumerate(classes)
        },
    }


def write_pickles(folder, contents, protocol=2):
    """mini-imagenet-cache-*.pkl of {part: content}."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in contents.items():
        path = folder / f"mini-imagenet-cache-{part}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))


def refusal(folder):
    """The message with which the loader refuses what `folder` holds."""
    with pytest.raises(ValueError, match=r"^root") as refused:
        mini_imagenet(root=str(folder))
    return str(refused.value)
