"""Omniglot's own drawings: the two official archives, zipped or unpacked, as arrays."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from src.data.checked_files import ZIP_ERRORS, open_file, read_bytes, remedy_of, shown_size
from src.data.image_files import ERRORS, is_shown, opened, shown_in, warnings_refused

SIDE = 28
# Side of the official drawings, and that of folders which hold them resized already.
SIDES = (105, SIDE)
OFFICIAL = ("images_background", "images_evaluation")
RESIZED = "omniglot_resized"  # where BOML keeps its copy
# Where the two are below a root: in a clone of the official repository, or as torchvision has them.
PLACES = (
    ".",
    "python",
    "omniglot-py",
    "omniglot",
    "omniglot/python",
    "omniglot-master/python",
)
LARGEST_DRAWING = 2**20  # bytes of a file; the official ones have some 300
MOST_DRAWINGS = 10**6
DEEPEST = 4  # folders below a source, so that a loop of links ends


def find_sources(root: Path) -> list[Path]:
    """The zip files or folders in `root` that make up the data set; [] where there is none.

    Raises ValueError where only one of the two official parts is there.
    """
    incomplete = ""
    for place in PLACES:
        base = root / place
        if (base / RESIZED).is_dir():
            return [base / RESIZED]
        candidates = [(base / f"{name}.zip", base / name) for name in OFFICIAL]
        found = [path for pair in candidates if (path := next(filter(Path.exists, pair), None))]
        if len(found) == len(OFFICIAL):
            return found
        if found and not incomplete:
            other = next(name for name in OFFICIAL if name not in found[0].name)
            incomplete = (
                f"it holds {found[0].relative_to(root)} but no {other}: put {other}.zip beside it, "
                "or the folder that it unpacks to"
            )
    if incomplete:
        raise ValueError(incomplete)
    return [root] if _holds_alphabets(root) else []


def read_images(sources: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """(uint8 (classes, drawings, 28, 28) with 0 for ink, names "alphabet/character", sorted).

    The same arrays from a zip file and from its folder, be it in another folder of its name or not.
    Drawings of a class are in the order of their file names. 105x105 drawings are averaged down.

    Raises ValueError where a file cannot be read, an image has another size, or classes have
    different numbers of drawings.
    """
    files: dict[str, dict[str, bytes]] = {}
    for source in sources:
        for name, of_class in (_from_folder if source.is_dir() else _from_zip)(source).items():
            files.setdefault(name, {}).update(of_class)
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
    with warnings_refused():
        images = [
            _decode(files[name][file], f"{name}/{file}")
            for name in names
            for file in sorted(files[name])
        ]
    return np.stack(images).reshape(len(names), usual, SIDE, SIDE), names


def _holds_alphabets(root: Path) -> bool:
    """Whether the alphabets are straight in it: alphabet/character01/*.png."""
    return any(path.suffix.lower() == ".png" for path in root.glob("*/character*/*"))


def _from_folder(source: Path) -> dict[str, dict[str, bytes]]:
    """{"alphabet/character": {"file.png": content}}, empty folders included."""
    files: dict[str, dict[str, bytes]] = {}
    for folder in _innermost(source, 0):
        pngs = [path for path in shown_in(folder) if path.suffix.lower() == ".png"]
        files["/".join(folder.parts[-2:])] = {
            path.name: read_bytes(path, LARGEST_DRAWING) for path in pngs
        }
    return files


def _innermost(folder: Path, depth: int) -> list[Path]:
    """The folders without folders in them, at least two below the source."""
    inner = [path for path in shown_in(folder) if path.is_dir()] if depth < DEEPEST else []
    if not inner:
        return [folder] if depth >= 2 else []
    return [path for one in inner for path in _innermost(one, depth + 1)]


def _from_zip(source: Path) -> dict[str, dict[str, bytes]]:
    """The same from an archive."""
    files: dict[str, dict[str, bytes]] = {}
    with open_file(source) as file:
        start = file.read(64)
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                _refuse_large(source, archive)
                # Archivers add folders of their own, such as __MACOSX.
                entries = {info: PurePosixPath(info.filename) for info in archive.infolist()}
                entries = {i: path for i, path in entries.items() if all(map(is_shown, path.parts))}
                outer = {parent for path in entries.values() for parent in path.parents}
                for info, path in entries.items():
                    name = "/".join(path.parts[-3:-1])
                    if len(path.parts) > 2 and path.suffix.lower() == ".png":
                        files.setdefault(name, {})[path.name] = archive.read(info)
                    elif info.is_dir() and len(path.parts) > 2 and path not in outer:
                        files.setdefault("/".join(path.parts[-2:]), {})
        except ZIP_ERRORS as error:
            what = remedy_of(start) if not start.startswith(b"PK") else "download it again"
            raise ValueError(f"{source} is not a whole zip file ({error}); {what}") from error
    return files


def _refuse_large(source: Path, archive: zipfile.ZipFile) -> None:
    """Before anything is unpacked: a small archive can unpack to anything."""
    entries = archive.infolist()
    if len(entries) > MOST_DRAWINGS:
        raise ValueError(f"{source} has {len(entries):,} files, Omniglot 32,460; download it again")
    for info in entries:
        if info.file_size > LARGEST_DRAWING and info.filename.lower().endswith(".png"):
            raise ValueError(
                f"{info.filename} in {source} unpacks to {shown_size(info.file_size)}, but a "
                f"drawing has at most {shown_size(LARGEST_DRAWING)}; download it again"
            )


def _decode(content: bytes, where: str) -> np.ndarray:
    with opened(io.BytesIO(content), where) as image:
        # Before a pixel is decoded.
        if image.width != image.height or image.width not in SIDES:
            raise ValueError(
                f"{where} is {image.width}x{image.height}; Omniglot's drawings are 105x105 "
                f"(or {SIDE}x{SIDE} where they were resized)"
            )
        try:
            grey = image.convert("L")
        except ERRORS as error:
            raise ValueError(f"{where} is not a whole image ({error}); unpack it again") from error
    if grey.width != SIDE:
        grey = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(grey)
