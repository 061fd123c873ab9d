"""Folders of class folders of images: which classes and files there are, and in which split."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.csv_text import read_csv
from src.data.decoded_once import gone
from src.data.image_classes import SPLIT_NAMES, SPLITS
from src.data.image_files import SUFFIXES, image_names, is_shown, shown_below, shown_in
from src.data.labelled import serves_of

DEEPEST = 4  # folders between a split and an image, so that a loop of links ends
LAYOUT = "put the images of each class into a folder of its own, as in root/cat/1.jpg"


class ClassFiles(NamedTuple):
    """Image files with their classes: labels[i] is the class of paths[i], parts[i] its part.

    serves: of each part, the splits that are cut from it
    """

    paths: list[Path]
    labels: list[str]
    parts: list[int]
    serves: tuple[tuple[str, ...], ...]


def list_images(root: Path) -> tuple[Path, ClassFiles]:
    """(where the class folders start, their images): `root`, or the one folder in it.

    A class is a folder that holds images, and its name the path to it. With folders train/,
    validation/ (or val/) and test/ the classes are in these; a split without one is cut from
    train/. Raises ValueError where there are no classes, one has no image, or images and folders
    are mixed.
    """
    base = _unwrapped(root)
    folders = _split_folders(base)
    if folders is None:
        found = _classes(base, base, 0)
        return base, _joined([found], (SPLITS,))
    served = [split for split in SPLITS if split in folders]
    found = [_classes(folders[split], folders[split], 0) for split in served]
    return base, _joined(found, serves_of(folders))


def split_by_file(files: ClassFiles, root: Path, table: Path) -> ClassFiles:
    """The same files, with the splits that a CSV file gives them.

    Its columns are class (or label) and split, or filename (below `root`) and split. Raises
    ValueError where it has other columns or splits, names what is not there or leaves out what is.
    """
    if len(files.serves) > 1:
        raise ValueError(
            "the folders train/ and others give the splits already; leave split_file out (null)"
        )
    names, rows = read_csv(table)
    columns = {name.lower(): i for i, name in enumerate(names)}
    by_class = next((columns[n] for n in ("class", "label") if n in columns), None)
    by_name = next((columns[n] for n in ("filename", "file", "path") if n in columns), None)
    key = by_class if by_name is None else by_name
    if key is None or "split" not in columns:
        raise ValueError(
            f"it has the columns {', '.join(names)}, but class and split are needed, or filename "
            "and split"
        )
    keys = files.labels
    if by_name is not None:
        keys = [shown_below(path, root) for path in files.paths]
    split_of: dict[str, str] = {}
    present = set(keys)
    for line, cells in rows:
        name, split = cells[key].strip().removeprefix("./"), cells[columns["split"]].strip()
        where = f"line {line}"
        if name not in present:
            kind = "class" if by_name is None else "image"
            raise ValueError(f"{where} names {name}, which is no {kind} in {root}; mend the line")
        if split.lower() not in SPLIT_NAMES:
            raise ValueError(f"{where} has the split {split!r}; write train, validation or test")
        if split_of.setdefault(name, SPLIT_NAMES[split.lower()]) != SPLIT_NAMES[split.lower()]:
            raise ValueError(f"{where} gives {name} a second split; remove one of the lines")
    absent = sorted(present - split_of.keys())
    if absent:
        raise ValueError(
            f"it does not name {_listed(absent)}; add a line for each, or move it out of the folder"
        )
    served = [split for split in SPLITS if split in split_of.values()]
    if "train" not in served:
        raise ValueError("it has no line with the split train; add some")
    parts = [served.index(split_of[name]) for name in keys]
    return files._replace(parts=parts, serves=serves_of(served))


def _unwrapped(root: Path) -> Path:
    """The folder itself, or what is in it where that is a single folder of folders."""
    base = root
    for _ in range(DEEPEST):
        shown = shown_in(base)
        inner = [path for path in shown if path.is_dir()]
        if len(inner) != 1 or image_names(base) or image_names(inner[0]):
            return base
        if inner[0].name.lower() in SPLIT_NAMES:
            return base
        base = inner[0]
    return base


def _split_folders(base: Path) -> dict[str, Path] | None:
    """{split: folder}, where the folders in `base` are splits; None where they are classes."""
    # A folder of images is a class, even if it is called train.
    folders = [path for path in shown_in(base) if path.is_dir()]
    splits = [path for path in folders if path.name.lower() in SPLIT_NAMES]
    splits = [path for path in splits if not image_names(path)]
    if not splits:
        return None
    found: dict[str, Path] = {}
    for path in splits:
        split = SPLIT_NAMES[path.name.lower()]
        if split in found:
            raise ValueError(
                f"{base} holds {found[split].name} and {path.name}, both for {split}; remove one"
            )
        found[split] = path
    others = [path.name for path in folders if path not in splits]
    if others:
        raise ValueError(
            f"{base} holds {splits[0].name}/ and {_listed(others)}: are they splits or classes? "
            f"Leave only {', '.join(path.name + '/' for path in splits)} there, or only classes"
        )
    if "train" not in found:
        raise ValueError(f"{base} holds {splits[0].name}/ but no train/; put it beside it")
    return found


def _classes(folder: Path, base: Path, depth: int) -> dict[str, list[Path]]:
    """{class: its images, sorted by name} of all folders below that hold images."""
    shown = shown_in(folder)
    for path in shown:
        if not path.exists():
            # Left out in silence, a class would be missing.
            raise ValueError(gone(path, shown_below(path, base.parent)))
    images = [folder / name for name in image_names(folder)]
    folders = [path for path in shown if path.is_dir()]
    name = "." if folder == base else shown_below(folder, base)
    if folder == base and images:
        raise ValueError(f"{base} holds images that are in no class ({images[0].name}); {LAYOUT}")
    if images and folders:
        raise ValueError(
            f"{folder} holds images and folders ({images[0].name}, {folders[0].name}/), and which "
            "of them are classes is not known; move the images, or the folders, elsewhere"
        )
    if images:
        _tell_left_out(name, [path for path in shown if path not in set(images)])
        return {name: images}
    if not folders and folder != base:
        files = f" but {_listed([path.name for path in shown])}" if shown else ""
        raise ValueError(
            f"the class folder {name} holds no images{files}: files that end in "
            f"{', '.join(SUFFIXES)} are read; add some, or remove the folder"
        )
    if not folders:
        raise ValueError(f"{base} holds no class folders; {LAYOUT}")
    if depth == DEEPEST:
        raise ValueError(f"{folder} is too deep below {base}; {LAYOUT}")
    found: dict[str, list[Path]] = {}
    for inner in folders:
        found |= _classes(inner, base, depth + 1)
    return found


def _tell_left_out(name: str, others: Sequence[Path]) -> None:
    left = [path.name for path in others if is_shown(path.name)]
    if left:
        warnings.warn(
            f"the class {name} holds {_listed(left)}, not read: images end in "
            f"{', '.join(SUFFIXES)}",
            stacklevel=2,
        )


def _joined(
    found: Sequence[dict[str, list[Path]]], serves: tuple[tuple[str, ...], ...]
) -> ClassFiles:
    entries = [
        (path, name, part)
        for part, classes in enumerate(found)
        for name, paths in sorted(classes.items())
        for path in paths
    ]
    paths, labels, parts = (list(column) for column in zip(*entries, strict=True))
    return ClassFiles(paths, labels, parts, serves)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
