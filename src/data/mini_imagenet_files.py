"""miniImageNet from image files: class folders, or one folder with the splits in CSV files."""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from src.data.image_classes import SPLITS

SIDE = 84
SUFFIXES = (".jpg", ".jpeg", ".png")
RECIPE = 2  # to be raised whenever other arrays come from the same files


def list_folders(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """{"split/class": images, sorted by name} of three folders of class folders, in their order.

    Raises ValueError where one is no folder, has no class folders or links to one that is not
    there; OSError where one cannot be read.
    """
    files: dict[str, list[Path]] = {}
    for split, part in zip(SPLITS, parts, strict=True):
        _refuse_file(part)
        shown = [path for path in sorted(part.iterdir()) if _shown(path.name)]
        for path in shown:
            # Left out in silence, a class would be missing.
            if not path.exists():
                raise ValueError(_dangling(path))
        folders = [path for path in shown if path.is_dir()]
        if not folders:
            raise ValueError(
                f"{part.name} holds no class folders; put there one folder of images for each class"
            )
        for folder in folders:
            files[f"{split}/{folder.name}"] = [folder / name for name in _image_names(folder)]
    return files


def list_csv(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """The same from [images/, train.csv, val.csv, test.csv], which have columns filename, label.

    The splits of Ravi and Larochelle, ICLR 2017. Raises ValueError where a CSV file has another
    form, or names an image twice or one that is not there.
    """
    folder, *tables = parts
    _refuse_file(folder)
    present = set(_image_names(folder))
    files: dict[str, list[Path]] = {}
    for split, table in zip(SPLITS, tables, strict=True):
        rows = _rows(table)
        for line, name, label in rows:
            where = f"line {line} of {table.name}"
            if name not in present:
                again = any(folder / name in of_class for of_class in files.values())
                problem = "a second time" if again else f"which is not an image in {folder.name}/"
                raise ValueError(
                    f"{where} names {name} {problem}; copy {folder.name}/ and the CSV files again"
                )
            present.remove(name)
            files.setdefault(f"{split}/{label}", []).append(folder / name)
    return {name: sorted(files[name]) for name in sorted(files)}


def fingerprint(files: Mapping[str, Sequence[Path]], count: int) -> str:
    """Changes with the classes, and with names, sizes or times of the files that are read.

    Raises ValueError where one of them is a link to a file that is not there.
    """
    total = hashlib.sha256(repr((RECIPE, SIDE)).encode())
    for name, paths in files.items():
        for path in paths[:count]:
            try:
                status = path.stat()
            except FileNotFoundError as error:
                raise ValueError(_dangling(path)) from error
            total.update(repr((name, path.name, status.st_size, status.st_mtime_ns)).encode())
    return total.hexdigest()[:16]


def decode_files(files: Mapping[str, Sequence[Path]], count: int) -> np.ndarray:
    """uint8 (classes, count, SIDE, SIDE, 3): the first `count` images of each class.

    Raises ValueError on a file that is no whole image, or whose pixels have more than 8 bits.
    """
    images = np.empty((len(files), count, SIDE, SIDE, 3), np.uint8)
    # Decoding leaves Python's lock, so threads are enough.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for target, paths in zip(images, files.values(), strict=True):
            for i, image in enumerate(pool.map(_decode, paths[:count])):
                target[i] = image
    return images


def resized(image: Image.Image) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3); Lanczos without regard to the proportions, as the literature does."""
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _decode(path: Path) -> np.ndarray:
    where = f"{path.parent.name}/{path.name}"
    try:
        with Image.open(path) as image:
            mode = image.mode
            # Of grey pixels of 16 or 32 bits, or floats, convert makes white all beyond 255.
            pixels = None if mode.startswith(("I", "F")) else resized(image.convert("RGB"))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{where} is not a whole image ({error}); copy it again") from error
    if pixels is None:
        raise ValueError(
            f"{where} has pixels of more than 8 bits (Pillow's mode {mode}), and which value is "
            "white is not known; save it again with 8 bits per channel"
        )
    return pixels


def _rows(table: Path) -> list[tuple[int, str, str]]:
    """(line, filename, label) of each row."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table.name} is not a CSV file ({error}); copy it again") from error
    except OSError as error:
        raise ValueError(
            f"{table.name} cannot be read ({error.strerror}): a CSV file is needed; copy it again"
        ) from error
    if not rows or any(not row.get(key) for _, row in rows for key in ("filename", "label")):
        raise ValueError(
            f"{table.name} needs the columns filename and label, both filled in every row; copy it "
            "again"
        )
    return [(line, row["filename"], row["label"]) for line, row in rows]


def _refuse_file(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"{folder.name} is a file, but a folder is needed; copy the data set again"
        )


def _dangling(path: Path) -> str:
    where = f"{path.parent.name}/{path.name}"
    if not path.is_symlink():
        return f"{where} has gone; run the same command again"
    return f"{where} links to {path.readlink()}, which is not there; copy the data set itself"


def _image_names(folder: Path) -> list[str]:
    names = os.listdir(folder)
    return sorted(name for name in names if name.lower().endswith(SUFFIXES) and _shown(name))


def _shown(name: str) -> bool:
    """Archivers and systems leave hidden files beside the images."""
    return not name.startswith(".")
