"""The IDX format, in which MNIST and its successors are published, plain or packed."""

import math
from pathlib import Path

import numpy as np

from src.data.checked_files import read_bytes, remedy_of

LIMIT = 2**30  # bytes that are read of a file: MNIST's largest has 47 million
UINT8 = 0x08  # the code of the one element type that is read
REMEDY = "get the file again"


def read_idx(path: Path, num_dimensions: int | None = None) -> np.ndarray:
    """uint8, read-only, of the shape that the file says; of `num_dimensions` where given.

    Raises ValueError where the file cannot be read or unpacked, is not IDX, has other elements
    than uint8 or another number of dimensions, or is shorter or longer than its header says.
    http://yann.lecun.com/exdb/mnist (THE IDX FILE FORMAT).
    """
    return parse_idx(read_content(path), path, num_dimensions)


def read_content(path: Path) -> bytes:
    """What the file holds, unpacked where it is packed, whatever its name. Raises ValueError."""
    return read_bytes(path, LIMIT)


def parse_idx(content: bytes, path: Path, num_dimensions: int | None = None) -> np.ndarray:
    """`read_idx` of what `read_content` returned."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise ValueError(
            f"{path} is not an IDX file: it starts with {content[:4]!r}, but two zero bytes, the "
            "element type and the number of dimensions are needed; "
            f"{remedy_of(content[:64])}"
        )
    kind, dimensions = content[2], content[3]
    if kind != UINT8:
        raise ValueError(
            f"{path} has elements of type 0x{kind:02x}, but 0x08 (uint8) is needed; {REMEDY}"
        )
    if num_dimensions is not None and dimensions != num_dimensions:
        raise ValueError(
            f"{path} has {dimensions} dimensions, but {num_dimensions} are needed: "
            f"is it another file under this name? {REMEDY}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(
            f"{path} is truncated: it ends within the header, after {len(content)} of {start} "
            f"bytes; {REMEDY}"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected, found = math.prod(shape), len(content) - start
    if found != expected:
        trouble = "is truncated" if found < expected else "has surplus bytes"
        raise ValueError(
            f"{path} {trouble}: its header says {'x'.join(map(str, shape))}, which is "
            f"{expected} bytes, but {found} follow; {REMEDY}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
