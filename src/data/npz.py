"""Archives of arrays (.npz): every header is checked before the memory for its array is taken."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from src.data.checked_files import CHUNK, LARGEST, ZIP_ERRORS, open_file, remedy_of, shown_size

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
REMEDY = "save it again with numpy.savez, plain arrays alone"


def read_npz(
    path: Path, names: Collection[str] | None = None, limit: int = LARGEST
) -> dict[str, np.ndarray]:
    """{name: array} of an archive that numpy.savez wrote; of `names` alone where they are given.

    Raises ValueError where it is no regular file, no whole archive, has a member that is no array
    or one of Python objects, or arrays of more than `limit` bytes together.
    """
    with open_file(path) as file:
        start = file.read(64)
        file.seek(0)
        if not start.startswith(b"PK"):
            raise ValueError(f"{path} is no npz archive; {remedy_of(start)}")
        try:
            with zipfile.ZipFile(file) as archive:
                return _members(archive, path, names, limit)
        except ZIP_ERRORS as error:
            raise ValueError(f"{path} is damaged ({error}); get the file again") from error


def names_in(path: Path) -> list[str]:
    """The names of the arrays of an archive. Raises ValueError where it is none."""
    with open_file(path) as file:
        start = file.read(64)
        file.seek(0)
        try:
            with zipfile.ZipFile(file) as archive:
                return [_name(info) for info in archive.infolist()]
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise ValueError(f"{path} is no npz archive ({error}); {remedy_of(start)}") from error


def _members(
    archive: zipfile.ZipFile, path: Path, names: Collection[str] | None, limit: int
) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    total = 0
    for info in archive.infolist():
        name = _name(info)
        if names is not None and name not in names:
            continue
        where = f"the member {info.filename} of {path}"
        if name in arrays:
            raise ValueError(f"{where} is there twice; {REMEDY}")
        with archive.open(info) as member:
            shape, in_columns, kind, length = _header(member, where)
            size = math.prod(shape) * kind.itemsize
            total += size
            if total > limit:
                raise ValueError(
                    f"{path} holds arrays of {shown_size(total)} or more, over the limit of "
                    f"{shown_size(limit)}; save a part of them"
                )
            if info.file_size != length + size:
                raise ValueError(
                    f"{where} is damaged: its header says {'x'.join(map(str, shape))} of {kind}, "
                    f"which is {size} bytes, but {info.file_size - length} follow; get the file "
                    "again"
                )
            content = _content(member, size, where)
        arrays[name] = np.ndarray(shape, kind, content, order="F" if in_columns else "C")
    return arrays


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _header(member: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether column by column, type, bytes of the header)."""
    try:
        version = npy.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f"the version {version} of the format is not known")
        shape, in_columns, kind = HEADERS[version](member)
    # Damaged bytes can fail in any way in the parser of the header.
    except Exception as error:
        raise ValueError(f"{where} is no array ({error}); {REMEDY}") from error
    if kind.hasobject:
        raise ValueError(f"{where} holds Python objects, which are not read; {REMEDY}")
    if min(shape, default=0) < 0:
        raise ValueError(f"{where} has the shape {shape}; {REMEDY}")
    return shape, in_columns, kind, member.tell()


def _content(member: IO[bytes], size: int, where: str) -> np.ndarray:
    content = np.empty(size, np.uint8)
    for start in range(0, size, CHUNK):
        piece = content[start : start + CHUNK]
        found = member.read(len(piece))
        if len(found) != len(piece):
            raise ValueError(f"{where} is cut short; get the file again")
        piece[:] = np.frombuffer(found, np.uint8)
    # Read to its end, where zipfile compares the checksum.
    member.read(1)
    return content
