"""Images of one's own: a folder for each class."""

import warnings
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np

from src.data.checked_files import LARGEST, about, shown_size, user_path
from src.data.data_root import data_root
from src.data.decoded_once import decode_once
from src.data.image_files import Header, decode_all, read_headers, shown_below
from src.data.image_folder_files import LAYOUT, list_images, split_by_file
from src.data.labelled import Sizes
from src.data.pool import Pool

KEPT_FROM = 2000  # images; fewer are decoded in seconds


def image_folder(
    *,
    root: str | None,
    size: int | None,
    width: int | None,
    channels: Literal[1, 3] | None,
    split_file: str | None,
    split_sizes: Sizes | None,
    split_seed: int | None,
    streamed: Literal["auto", True, False],
) -> Pool:
    """The images of class folders: uint8 (n, height, width, channels), a class for each folder.

    Splits by folders train/, validation/ (or val/), test/ in `root`; or by split_file, a CSV file
    with the columns class (or filename) and split; or drawn from split_seed. split_sizes: of
    classes where a problem splits these (few_shot), else of the images of each class; null: 40, 30,
    30 percent. size: height (and width, where width=null) to which images are stretched; null: that
    of the files, which must then have one. channels: 1 grey, 3 colour; null: 1 where all files are
    grey. Images are turned as their EXIF entry says; what is transparent becomes white.

    Raises ValueError where nothing is found, a class has no image, a file is no whole image, sizes
    differ without `size`, or all would fill more than 4 GiB.
    """
    folder = data_root(root, LAYOUT)
    with about("root", root):
        base, files = list_images(folder)
    if split_file is not None:
        with about("split_file", split_file):
            files = split_by_file(files, base, user_path(split_file))
    with about("root", root):
        headers = read_headers(files.paths, base)
    origins = tuple(shown_below(path, base) for path in files.paths)
    header = _common(headers, origins, size, width, channels)
    with about("root", root):
        if len(files.paths) < KEPT_FROM:
            images = decode_all(files.paths, base, header)
        else:
            images = decode_once("image_folder", files.paths, base, header)
    _tell_copies(images, origins)
    names = sorted(set(files.labels))
    number_of = {name: number for number, name in enumerate(names)}
    return Pool(
        images,
        np.array([number_of[name] for name in files.labels], np.int32),
        tuple(names),
        files.serves,
        np.array(files.parts),
        origins,
        split_sizes,
        split_seed,
        streamed=streamed,
    )


def _common(
    headers: Sequence[Header],
    names: Sequence[str],
    size: int | None,
    width: int | None,
    channels: Literal[1, 3] | None,
) -> Header:
    """The one size of all images, and memory enough for them."""
    for option, value in (("size", size), ("width", width)):
        if value is not None and value < 1:
            raise ValueError(f"{option}={value} must be at least 1; choose for example size=84")
    if size is None:
        height, across = _size_of_files(headers, names)
        if width is not None:
            raise ValueError(f"width={width} needs the height too; choose data.size={height}")
    else:
        height, across = size, size if width is None else width
    grey = all(header.channels == 1 for header in headers)
    header = Header(height, across, channels or (1 if grey else 3))
    total = len(headers) * height * across * header.channels
    if total > LARGEST:
        raise ValueError(
            f"size={'null' if size is None else size}: {len(headers):,} images of "
            f"{height}x{across}x{header.channels} would fill {shown_size(total)}, over the limit "
            f"of {shown_size(LARGEST)}; choose a smaller size, as in data.size=84, or fewer images"
        )
    return header


def _size_of_files(headers: Sequence[Header], names: Sequence[str]) -> tuple[int, int]:
    found = Counter((header.height, header.width) for header in headers)
    (height, width), _ = found.most_common(1)[0]
    if len(found) == 1:
        return height, width
    usual, other = (
        next(i for i, header in enumerate(headers) if (header[:2] == (height, width)) is same)
        for same in (True, False)
    )
    raise ValueError(
        f"size=null, but the images have {len(found)} sizes ({names[usual]} is {height}x{width}, "
        f"{names[other]} {headers[other].height}x{headers[other].width}), and a network needs one: "
        "choose the height and width to which all are stretched, for example "
        f"data.size={min(height, width, 84)}"
    )


def _tell_copies(images: np.ndarray, names: Sequence[str]) -> None:
    first: dict[bytes, int] = {}
    copies = []
    for i, image in enumerate(images):
        other = first.setdefault(blake2b(image, digest_size=8).digest(), i)
        if other != i:
            copies.append((other, i))
    if copies:
        one, other = copies[0]
        number = "an image is" if len(copies) == 1 else f"{len(copies)} images are"
        warnings.warn(
            f"{number} there more than once ({names[other]} is the same as {names[one]}), so a "
            "test may hold what was trained on; remove the copies",
            stacklevel=2,
        )
