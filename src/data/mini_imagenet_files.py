"""miniImageNet from image files: class folders, or one folder with the splits in CSV files."""

from collections.abc import Sequence
from pathlib import Path

from src.data.csv_text import read_csv
from src.data.decoded_once import gone
from src.data.image_classes import SPLITS
from src.data.image_files import Header, image_names, shown_below, shown_in

HEADER = Header(84, 84, 3)
SUFFIXES = (".jpg", ".jpeg", ".png")
# Of each split, what its folder, CSV file or pickle is called.
PARTS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


def list_folders(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """{"split/class": images, sorted by name} of three folders of class folders, in their order.

    Raises ValueError where one is no folder, has no class folders or links to one that is not
    there; OSError where one cannot be read.
    """
    files: dict[str, list[Path]] = {}
    for split, part in zip(SPLITS, parts, strict=True):
        _refuse_file(part)
        for folder in _class_folders(part):
            files[f"{split}/{folder.name}"] = _images_in(folder)
        if not any(name.startswith(f"{split}/") for name in files):
            raise ValueError(
                f"{part.name} holds no class folders; put there one folder of images for each class"
            )
    return files


def list_csv(parts: Sequence[Path]) -> dict[str, list[Path]]:
    """The same from [images/, train.csv, val.csv, test.csv], which have columns filename, label.

    images/ holds the files, or a folder of them for each class. The splits of Ravi and Larochelle,
    ICLR 2017. Raises ValueError where a CSV file has another form, or names an image twice or one
    that is not there.
    """
    folder, *tables = parts
    _refuse_file(folder)
    paths = [*_images_in(folder), *(p for f in _class_folders(folder) for p in _images_in(f))]
    # By its name, or with the folder of its class before it.
    path_of = {shown_below(path, folder): path for path in paths}
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(path.name, []).append(path)
    files: dict[str, list[Path]] = {}
    taken: set[Path] = set()
    for split, table in zip(SPLITS, tables, strict=True):
        for line, name, label in _rows(table):
            where = f"line {line} of {table.name} names {name}"
            again = f"copy {folder.name}/ and the CSV files again"
            path = path_of.get(name) or path_of.get(f"{label}/{name}")
            if path is None:
                found = by_name.get(name, [])
                if len(found) != 1:
                    places = " and ".join(shown_below(path, folder) for path in found[:2])
                    trouble = f"which is both {places}" if found else "which is not an image"
                    raise ValueError(f"{where} {trouble} in {folder.name}/; {again}")
                path = found[0]
            if path in taken:
                raise ValueError(f"{where} a second time; {again}")
            taken.add(path)
            files.setdefault(f"{split}/{label}", []).append(path)
    return {name: sorted(files[name]) for name in sorted(files)}


def _class_folders(folder: Path) -> list[Path]:
    shown = shown_in(folder)
    for path in shown:
        # Left out in silence, a class would be missing.
        if not path.exists() and not path.name.lower().endswith(SUFFIXES):
            raise ValueError(gone(path, f"{folder.name}/{path.name}"))
    return [path for path in shown if path.is_dir()]


def _images_in(folder: Path) -> list[Path]:
    return [folder / name for name in image_names(folder, SUFFIXES)]


def _rows(table: Path) -> list[tuple[int, str, str]]:
    """(line, filename, label) of each row."""
    names, lines = read_csv(table)
    if not {"filename", "label"} <= set(names):
        raise ValueError(
            f"{table.name} has the columns {', '.join(names)}, but filename and label are needed; "
            "copy it again"
        )
    places = names.index("filename"), names.index("label")
    rows = [(line, cells[places[0]], cells[places[1]]) for line, cells in lines]
    for line, name, label in rows:
        if not name or not label:
            raise ValueError(f"line {line} of {table.name} has an empty cell; copy it again")
    if not rows:
        raise ValueError(f"{table.name} has no rows; copy it again")
    return rows


def _refuse_file(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"{folder.name} is a file, but a folder is needed; copy the data set again"
        )
