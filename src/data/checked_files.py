"""Files of others: what they are, and how much they would take, is known before they are read."""

import bz2
import gzip
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

LARGEST = 4 * 2**30  # bytes of a file, and of what it unpacks to
LONGEST_LINE = 2**26  # bytes
CHUNK = 2**24  # bytes that are read at once

# How files start that are found under the names of others.
STARTS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "a web page or another XML text",
    b"version https://git-lfs": "a pointer of Git LFS, which only stands for the file",
    b"pk\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"bzh": "a bzip2 file",
    b"\xfd7zxz\0": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"rar!": "a RAR archive",
    b"%pdf": "a PDF",
    b"\x89png": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93numpy": "a .npy file, one array of numpy",
    b"\x89hdf": "an HDF5 file",
    b"par1": "a parquet file",
}
UNPACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
UNPACKING_ERRORS = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
# What zipfile raises on a damaged archive, on one that is packed in a way that it does not know
# (NotImplementedError), and on an encrypted one (RuntimeError).
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


@contextmanager
def about(option: str, value: str | None) -> Iterator[None]:
    """What is wrong with files, as a ValueError that starts with the option that names them."""
    try:
        yield
    except (ValueError, OSError) as error:
        named = value is not None and value.rstrip("/") in str(error)
        raise ValueError(f"{option}{'' if named else f'={value}'}: {error}") from error


def user_path(path: str) -> Path:
    """The path that a person typed; ~ is the home folder. Raises ValueError without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: the home folder is not known; write the whole path") from error


def refuse_shared(options: Mapping[str, str]) -> None:
    """Raises ValueError where two of {option: file} are one file.

    Rows of training that are tested on make every score too good.
    """
    first: dict[Path, str] = {}
    for option, file in options.items():
        other = first.setdefault(user_path(file).resolve(), option)
        if other != option:
            raise ValueError(
                f"{option}={file} is the file of {other} too, so scores would mean nothing; leave "
                f"{option} out (null), and the split is cut from path"
            )


def refuse_special(path: Path) -> None:
    """Raises ValueError where this is no regular file: reading another might never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a character that no path has
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(mode), "no regular file")
    raise ValueError(f"{path} is {kind}, but a file is needed")


def open_file(path: Path) -> IO[bytes]:
    """The file, opened for reading. Raises ValueError where it cannot be, or is no regular file."""
    refuse_special(path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """The whole file, unpacked where it is a gzip, bzip2 or xz file, whatever its name.

    Raises ValueError where it is no regular file, is damaged, or has more than `limit` bytes.
    """
    parts, total = [], 0
    with open_file(path) as file, unpacked(file) as content:
        # Whatever its size is said to be: it may grow, or unpack to anything.
        while True:
            try:
                part = content.read(CHUNK)
            except (OSError, *UNPACKING_ERRORS) as error:
                raise ValueError(_damaged(path, error)) from error
            if not part:
                return b"".join(parts)
            parts.append(part)
            total += len(part)
            if total > limit:
                raise ValueError(
                    f"{path} holds more than {shown_size(limit)}, the most that is read"
                )


def read_lines(path: Path, limit: int = LARGEST) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end) of a text in UTF-8, unpacked as in `read_bytes`.

    Raises ValueError where it is no regular file, is damaged or has more than `limit` bytes, and,
    with its number, where a line is not UTF-8 or longer than LONGEST_LINE.
    """
    total = 0
    with open_file(path) as file, unpacked(file) as content:
        for number in count(1):
            try:
                raw = content.readline(LONGEST_LINE + 1)
            except (OSError, *UNPACKING_ERRORS) as error:
                raise ValueError(_damaged(path, error)) from error
            if not raw:
                return
            total += len(raw)
            if len(raw) > LONGEST_LINE:
                raise ValueError(
                    f"line {number} of {path} has more than {shown_size(LONGEST_LINE)}"
                    f"{_in_words(raw)}; a text with shorter lines is needed"
                )
            if total > limit:
                raise ValueError(
                    f"{path} holds more than {shown_size(limit)}, the most that is read"
                )
            yield number, _decoded(raw, path, number)


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The file, or what it unpacks to."""
    start = file.read(6)
    file.seek(0)
    for magic, opened in UNPACKERS.items():
        if start.startswith(magic):
            return opened(file, "rb")
    return file


def kind_of(start: bytes) -> str:
    """What a file is that starts so, in words; "" where that is not known."""
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:40].lower()
    for magic, words in STARTS.items():
        if bare.startswith(magic):
            return words
    printable = bytes(range(32, 127)) + b"\t\r\n"
    return "a text" if start and not start[:40].strip(printable) else ""


def remedy_of(start: bytes) -> str:
    """What to do about a file that is something else: another one under its name, or damaged."""
    kind = kind_of(start)
    if kind == "a web page":
        return f"it is {kind}, saved under this name: download the file itself"
    if kind.startswith("a pointer"):
        return f"it is {kind}: run `git lfs pull` where it came from, and copy the file again"
    return f"it is {kind} under this name: get the file again" if kind else "get the file again"


def shown_size(size: float) -> str:
    """A number of bytes, for people."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}".replace(".0 ", " ")
    return f"{size:.0f} bytes"


def _decoded(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"line {number} of {path} is not UTF-8 (byte 0x{raw[error.start]:02x} at "
            f"{error.start + 1}){_in_words(raw)}; save the file again as a text in UTF-8"
        ) from error


def _in_words(raw: bytes) -> str:
    kind = kind_of(raw)
    return f": it is {kind}" if kind not in ("", "a text") else ""


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged ({error}); get the file again"
