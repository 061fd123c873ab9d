"""Labelled images of one's own: support/class/image, and query/image or query/class/image."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from src.data.checked_files import user_path
from src.data.image_files import Header, decode_all, shown_in

MAX_IMAGES = 10_000  # in one folder: all pass through the network at once
# Median grey values of the outermost pixels: below, they are dark, and beyond, light.
DARK, LIGHT = 85, 170

T = TypeVar("T")

INVERT = ("auto", "true", "false")


class Images(NamedTuple):
    """files: their paths below the folder; images: uint8 (n, height, width, channels).

    labels: int (n,), indices of `Folders.classes`; None where the folder does not say.
    """

    files: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray | None


class Folders(NamedTuple):
    """What the two folders hold; classes in the order of their names."""

    classes: tuple[str, ...]
    support: Images
    query: Images


def read_folders(support: str, query: str, header: Header) -> Folders:
    """The images of both folders, stretched to the size of `header`, grey or in colour as it says.

    Raises ValueError that starts with support= or query=: a folder without classes or images, a
    class that support does not have, a file that is no whole image or too large.
    """
    classes, of_support = _about("support", support, _list_support)
    _, of_query = _about("query", query, lambda root: ((), _list_query(root, classes)))
    return Folders(
        classes,
        _about("support", support, lambda root: _read(root, of_support, header)),
        _about("query", query, lambda root: _read(root, of_query, header)),
    )


def are_inverted(own: np.ndarray, trained: np.ndarray, invert: str) -> bool:
    """Whether images of one's own must be inverted to look like those that the run was trained on.

    Both uint8 (n, height, width, channels). auto: where they are grey, and the edges (the paper) of
    one are light and those of the other dark; photographs in colour never.
    """
    if invert != "auto":
        return invert == "true"
    if own.shape[-1] != 1:
        return False
    ours, theirs = _paper(own), _paper(trained)
    return (ours > LIGHT and theirs < DARK) or (ours < DARK and theirs > LIGHT)


def shared_images(folders: Folders) -> int:
    """How many query images are also in the support set, pixel by pixel."""
    known = {image.tobytes() for image in folders.support.images}
    return sum(image.tobytes() in known for image in folders.query.images)


def _paper(images: np.ndarray) -> float:
    top, bottom, left, right = images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]
    return float(np.median(np.concatenate([top, bottom, left, right], axis=1)))


def _about(name: str, folder: str, read: Callable[[Path], T]) -> T:
    try:
        root = user_path(folder)
        if not root.is_dir():
            kind = "a file" if root.is_file() else "not there"
            raise ValueError(f"it is {kind}, but a folder is needed")
        return read(root)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}={folder}: {error}") from error


def _list_support(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int | None]]]:
    shown = shown_in(root)
    beside = [path for path in shown if not path.is_dir()]
    classes = [path for path in shown if path.is_dir()]
    if not classes:
        raise ValueError("it holds no folders; put there one folder of images for each class")
    if beside:
        raise ValueError(
            f"{beside[0].name} stands beside the folders of the classes, so its class is not "
            "known; put it into one of them, or remove it"
        )
    if len(classes) < 2:
        raise ValueError(
            f"it holds one class, {classes[0].name}, which leaves nothing to tell apart; put there "
            "another folder of images"
        )
    listed: list[tuple[Path, int | None]] = []
    for label, folder in enumerate(classes):
        files = _files_in(folder)
        if not files:
            raise ValueError(f"the class {folder.name} has no images; put one into its folder")
        listed += [(file, label) for file in files]
    return tuple(folder.name for folder in classes), listed


def _list_query(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int | None]]:
    shown = shown_in(root)
    folders = [path for path in shown if path.is_dir()]
    if not folders:
        if not shown:
            raise ValueError("it holds no images")
        return [(path, None) for path in shown]
    if len(folders) < len(shown):
        beside = next(path for path in shown if not path.is_dir())
        raise ValueError(
            f"it holds images ({beside.name}) and folders ({folders[0].name}); put all images into "
            "folders named as their class, or none"
        )
    listed: list[tuple[Path, int | None]] = []
    for folder in folders:
        if folder.name not in classes:
            near = get_close_matches(folder.name, classes, n=1)
            hint = f"did you mean {near[0]}?" if near else f"support has {', '.join(classes[:10])}"
            raise ValueError(f"{folder.name} is not a class of support: {hint}")
        listed += [(file, classes.index(folder.name)) for file in _files_in(folder)]
    if not listed:
        raise ValueError("its folders hold no images")
    return listed


def _files_in(folder: Path) -> list[Path]:
    shown = shown_in(folder)
    inside = [path for path in shown if path.is_dir()]
    if inside:
        raise ValueError(
            f"{folder.name} holds a folder, {inside[0].name}, where images are expected; put its "
            "images into the folder of their class"
        )
    return shown


def _read(root: Path, listed: list[tuple[Path, int | None]], header: Header) -> Images:
    if len(listed) > MAX_IMAGES:
        raise ValueError(
            f"it holds {len(listed):,} images, over the limit of {MAX_IMAGES:,}; split it into "
            "several folders"
        )
    paths = [path for path, _ in listed]
    labels = [label for _, label in listed if label is not None]
    return Images(
        tuple(path.relative_to(root).as_posix() for path in paths),
        decode_all(paths, root, header),
        np.array(labels, dtype=np.int32) if labels else None,
    )
