"""miniImageNet from cached pickles, in the two forms in which they are passed around."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data.array_pickle import read_pickle
from src.data.image_classes import SPLITS
from src.data.image_files import pixels_of
from src.data.mini_imagenet_files import HEADER, PARTS

# (training, validation, test), each by all its names: of Ren et al., ICLR 2018, and of Gidaris and
# Komodakis, CVPR 2018.
PICKLES = (
    tuple(tuple(f"mini-imagenet-cache-{name}.pkl" for name in names) for names in PARTS.values()),
    tuple(
        (f"miniImageNet_category_split_{part}.pickle",)
        for part in ("train_phase_train", "val", "test")
    ),
)
UNNAMED = "label "  # begins the name of a class of which the file says a number only


def read_pickles(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """{"split/class": uint8 (images, height, width, 3)} of the three files, in their order.

    A file is {"image_data": uint8 (n, height, width, 3), "class_dict": {class: indices}}, or
    {"data": the same, "labels": n of them, "catname2label": {class: label} or absent}.

    Raises ValueError where a file is damaged, names code, or has another form.
    """
    classes: dict[str, np.ndarray] = {}
    for split, path in zip(SPLITS, paths, strict=True):
        content = read_pickle(path)
        try:
            images, members = _parts(content)
            for name in sorted(members):
                classes[f"{split}/{name}"] = images[members[name]]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name} {error}; download it again") from error
        del content, images  # an array of the size of a split
    return classes


def resized_classes(classes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 (images, 84, 84, 3) of each class."""
    return [
        images
        if images.shape[1:] == HEADER
        else np.stack([pixels_of(Image.fromarray(image), HEADER) for image in images])
        for images in classes
    ]


def _parts(content: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(images, {class: their indices})."""
    keys = set(content) if isinstance(content, dict) else set()
    if {"image_data", "class_dict"} <= keys:
        images = _images(content["image_data"], "image_data")
        if not isinstance(content["class_dict"], dict):
            raise ValueError("has a class_dict that is no dict of classes")
        by_name = _one_to_one({k: _name(k) for k in content["class_dict"]}, "class_dict")
        members = {n: _whole(content["class_dict"][k], "class_dict") for n, k in by_name.items()}
    elif {"data", "labels"} <= keys:
        images = _images(content["data"], "data")
        members = _by_label(content["labels"], len(images), content.get("catname2label"))
    else:
        found = f"the keys {sorted(map(str, keys))}" if keys else f"a {type(content).__name__}"
        raise ValueError(
            f"holds {found}, but image_data and class_dict are needed, or data and labels"
        )
    if not members:
        raise ValueError("has no classes")
    used = np.concatenate(list(members.values()))
    if len(used) and not 0 <= used.min() <= used.max() < len(images):
        raise ValueError(
            f"counts images from {used.min()} to {used.max()}, but has {len(images)}, which are 0 "
            f"to {len(images) - 1}"
        )
    if len(np.unique(used)) < len(used):
        raise ValueError("has an image in two classes, or twice in one")
    return images, members


def _images(value: Any, key: str) -> np.ndarray:
    images = np.asarray(value) if isinstance(value, np.ndarray) else None
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = type(value).__name__ if images is None else f"{images.dtype} {images.shape}"
        raise ValueError(f"has {found} as {key}, but uint8 (images, height, width, 3) is needed")
    if 0 in images.shape[1:]:
        raise ValueError(f"has images without pixels as {key}: {images.shape}")
    return images


def _whole(value: Any, key: str) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"has something else than lists of whole numbers in {key}")
    return numbers.astype(np.int64)


def _by_label(labels: Any, count: int, label_of: Any) -> dict[str, np.ndarray]:
    """{class: indices}; the names are in `label_of`, or are the labels where these are texts."""
    given = np.asarray(labels)
    if given.shape != (count,):
        raise ValueError(f"has {given.dtype} {given.shape} as labels, but {count} are needed")
    if given.dtype.kind not in "iuU":
        raise ValueError(
            f"has labels of dtype {given.dtype}, but whole numbers or texts are needed"
        )
    if isinstance(label_of, dict):
        by_name = _one_to_one({name: str(name) for name in label_of}, "catname2label")
        labels = {name: label_of[key] for name, key in by_name.items()}
        name_of = _one_to_one(labels, "catname2label")
    else:
        name_of = {label: _name(label) for label in given.tolist()}
    found = np.unique(given).tolist()
    unknown = [label for label in found if label not in name_of]
    if unknown:
        raise ValueError(f"has the label {unknown[0]}, which catname2label does not name")
    return {name_of[label]: np.flatnonzero(given == label) for label in found}


def _one_to_one(mapping: Mapping[Any, Any], key: str) -> dict[Any, Any]:
    """{value: key of `mapping`}; of two with the same value, one class would be lost."""
    inverse: dict[Any, Any] = {}
    for name, value in mapping.items():
        if value in inverse:
            both = f"{inverse[value]!r} and {name!r}"
            raise ValueError(f"has the same {value!r} for two classes, {both}, in {key}")
        inverse[value] = name
    return inverse


def _name(key: Any) -> str:
    return f"{UNNAMED}{key:03d}" if isinstance(key, int | np.integer) else str(key)
