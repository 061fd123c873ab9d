"""Omniglot's own drawings: the two official archives, zipped or unpacked, as arrays."""

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

SIDE = 28
# Side of the official drawings, and that of folders which hold them resized already.
SIDES = (105, SIDE)
OFFICIAL = ("images_background", "images_evaluation")
RESIZED = "omniglot_resized"  # where BOML keeps its copy


def find_sources(root: Path) -> list[Path]:
    """The zip files or folders in `root` that make up the data set; [] where there is none.

    Raises ValueError where only one of the two official parts is there.
    """
    if (root / RESIZED).is_dir():
        return [root / RESIZED]
    found = []
    for name in OFFICIAL:
        candidates = (root / f"{name}.zip", root / name)
        found += [path for path in candidates if path.exists()][:1]
    if len(found) == 1:
        other = next(name for name in OFFICIAL if name not in found[0].name)
        raise ValueError(
            f"it holds {found[0].name} but no {other}: put {other}.zip beside it, or the "
            "folder that it unpacks to"
        )
    return found


def read_images(sources: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """(uint8 (classes, drawings, 28, 28) with 0 for ink, names "alphabet/character", sorted).

    The same arrays from a zip file and from its folder. Drawings of a class are in the order of
    their file names. 105x105 drawings are averaged down.

    Raises ValueError where a file cannot be read, an image has another size, or classes have
    different numbers of drawings.
    """
    files: dict[str, dict[str, bytes]] = {}
    for source in sources:
        files |= _from_folder(source) if source.is_dir() else _from_zip(source)
    usual = max(map(len, files.values()), default=0)
    if not usual:
        listed = " and ".join(str(source) for source in sources)
        raise ValueError(f"no alphabet/character/*.png in {listed}; unpack the archive again")
    for character, of_class in sorted(files.items()):
        if len(of_class) != usual:
            raise ValueError(
                f"the class {character} has {len(of_class)} drawings where others have "
                f"{usual}; unpack the archive again"
            )
    names = sorted(files)
    images = [
        _decode(files[name][file], f"{name}/{file}")
        for name in names
        for file in sorted(files[name])
    ]
    return np.stack(images).reshape(len(names), usual, SIDE, SIDE), names


def _from_folder(source: Path) -> dict[str, dict[str, bytes]]:
    """{"alphabet/character": {"file.png": content}}, empty folders included."""
    return {
        folder.relative_to(source).as_posix(): {
            path.name: path.read_bytes() for path in folder.glob("*.png")
        }
        for folder in source.glob("*/*/")
        if not any(part.startswith(".") for part in folder.relative_to(source).parts)
    }


def _from_zip(source: Path) -> dict[str, dict[str, bytes]]:
    """The same from an archive whose first level is one folder."""
    files: dict[str, dict[str, bytes]] = {}
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                parts = PurePosixPath(name).parts
                # Archivers add folders of their own, such as __MACOSX.
                if len(parts) < 3 or parts[0].startswith(("_", ".")):
                    continue
                of_class = files.setdefault("/".join(parts[1:3]), {})
                if len(parts) == 4 and name.endswith(".png") and not parts[3].startswith("."):
                    of_class[parts[3]] = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{source} is not a whole zip file ({error}); download it again"
        ) from error
    return files


def _decode(content: bytes, where: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            grey = image.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where} is not an image ({error}); unpack it again") from error
    if grey.width != grey.height or grey.width not in SIDES:
        raise ValueError(
            f"{where} is {grey.width}x{grey.height}; Omniglot's drawings are 105x105 "
            f"(or {SIDE}x{SIDE} where they were resized)"
        )
    if grey.width != SIDE:
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey)
