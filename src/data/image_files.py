"""Image files: which there are in a folder, their sizes before they are decoded, their pixels."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from src.data.checked_files import kind_of, refuse_special

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # of one image: 192 MB once it is decoded
# What systems and archivers leave beside the files of people.
LEFT_BY_SYSTEMS = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
ERRORS = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
TURNED = range(5, 9)  # values of the EXIF orientation that exchange height and width
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 0x0102


class Header(NamedTuple):
    """Height, width, channels (1: grey, 3: colour) of an image, as it is shown."""

    height: int
    width: int
    channels: Literal[1, 3]


def is_shown(name: str) -> bool:
    """Whether a file or folder is a person's own: neither hidden nor left by a system."""
    return not name.startswith(".") and name.lower() not in LEFT_BY_SYSTEMS


def shown_in(folder: Path) -> list[Path]:
    """The shown files and folders in it, sorted. Raises ValueError where it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if is_shown(path.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed: {error.strerror}") from error


def image_names(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """The names of the images in a folder, sorted."""
    names = os.listdir(folder)
    return sorted(name for name in names if name.lower().endswith(suffixes) and is_shown(name))


def read_header(path: Path, where: str) -> Header:
    """From its first bytes; no pixel is decoded. Raises ValueError as `decode`."""
    with opened(path, where) as image:
        try:
            turned = image.getexif().get(ORIENTATION) in TURNED
        except ERRORS as error:
            raise ValueError(_not_whole(path, where, error)) from error
        width, height = image.size[::-1] if turned else image.size
        return Header(height, width, 1 if _is_grey(image) else 3)


def decode(path: Path, where: str, header: Header, upright: bool = True) -> np.ndarray:
    """uint8 (height, width, channels) of `header`: stretched to this size where it has another.

    upright: turned as its EXIF entry says, and what is transparent becomes white; else the pixels
    as they are stored. Raises ValueError, which names it as `where`, where it is no whole image,
    has over MAX_PIXELS pixels, several pictures or more than 8 bits per channel.
    """
    with opened(path, where) as image:
        try:
            # Phones store a second, larger or deeper picture behind the photograph (MPO).
            number = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if number == 1:
                shown = _on_white(ImageOps.exif_transpose(image)) if upright else image
                return pixels_of(shown, header)
        except ERRORS as error:
            raise ValueError(_not_whole(path, where, error)) from error
    raise ValueError(
        f"{where} holds {number} pictures (an animation or several pages), and which one is meant "
        "is not known; save the one that is"
    )


def pixels_of(image: Image.Image, header: Header) -> np.ndarray:
    """`decode` of an opened image: converted, then stretched by Lanczos' filter."""
    image = image.convert("L" if header.channels == 1 else "RGB")
    if image.size != (header.width, header.height):
        image = image.resize((header.width, header.height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(header.height, header.width, header.channels)


def read_headers(paths: Sequence[Path], root: Path) -> list[Header]:
    """`read_header` of each; named as they are below `root`."""
    return _map(lambda path: read_header(path, shown_below(path, root)), paths)


def decode_all(
    paths: Sequence[Path], root: Path, header: Header, *, upright: bool = True
) -> np.ndarray:
    """uint8 (paths, height, width, channels)."""
    images = np.empty((len(paths), *header), np.uint8)

    def put(item: tuple[int, Path]) -> None:
        index, path = item
        images[index] = decode(path, shown_below(path, root), header, upright)

    _map(put, list(enumerate(paths)))
    return images


def shown_below(path: Path, root: Path) -> str:
    """A path as people know it: class/file."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def opened(source: Path | IO[bytes], where: str) -> Image.Image:
    """An image of which the header alone has been read. Raises ValueError as `decode`."""
    if isinstance(source, Path):
        refuse_special(source)
    try:
        # Of these formats alone: Pillow hands others to programs such as Ghostscript.
        image = Image.open(source, formats=FORMATS)
    except ERRORS as error:
        raise ValueError(_not_whole(source, where, error)) from error
    reason = _refusal(image)
    if reason:
        image.close()
        raise ValueError(f"{where} {reason}")
    return image


def _refusal(image: Image.Image) -> str:
    """Why an image is not decoded; "" where it is."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        return (
            f"has {width}x{height} pixels, over the limit of {MAX_PIXELS:,}; save it again with "
            "fewer"
        )
    # Of grey pixels of 16 or 32 bits, or floats, convert makes white all beyond 255; of colours of
    # 16 bits Pillow cuts the low byte off.
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        return (
            f"has pixels of more than 8 bits (Pillow's mode {image.mode}), and which value is "
            "white is not known; save it again with 8 bits per channel"
        )
    return ""


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits per channel, where Pillow's mode does not say so."""
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2").get(BITS_PER_SAMPLE, (1,))) > 8  # noqa: B009 (typing)
    # Of PNG: "RGB;16B", of PPM: ("RGB", largest value).
    stored = [tile[3] for tile in getattr(image, "tile", ())]
    if image.format == "PNG":
        return any(isinstance(mode, str) and ";16" in mode for mode in stored)
    return image.format == "PPM" and any(
        isinstance(of, tuple) and isinstance(of[-1], int) and of[-1] > 255 for of in stored
    )


@contextmanager
def warnings_refused() -> Iterator[None]:
    """While images are opened: Pillow warns of large ones, which `opened` refuses.

    What else it warns of are oddities of files that it reads all the same. The filters belong to
    the process, so one such block is for all threads in it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _map(function: Callable[[Any], Any], items: Iterable) -> list:
    # Decoding leaves Python's lock, so threads are enough.
    with warnings_refused(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La")


def _on_white(image: Image.Image) -> Image.Image:
    """Without transparency, where it has any."""
    if "A" not in image.mode.upper() and "transparency" not in image.info:
        return image
    colour = image.convert("RGBA")
    white = Image.new("RGBA", colour.size, "white")
    return Image.alpha_composite(white, colour).convert("L" if _is_grey(image) else "RGB")


def _not_whole(source: Path | IO[bytes], where: str, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{where} has more than {MAX_PIXELS:,} pixels; save it again with fewer"
    with nullcontext(source) if not isinstance(source, Path) else open(source, "rb") as file:
        file.seek(0)
        kind = kind_of(file.read(64))
        if kind and not kind.endswith("image"):
            return f"{where} is {kind}, not an image; copy it again, or remove it"
    return f"{where} is not a whole image ({error}); copy it again, or remove it"
