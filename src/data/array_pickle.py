"""Pickles of arrays and plain containers read as data: whatever else they name is refused.

A pickle is a program that calls what it names. Here it can name nothing but the stand-ins below:
no import takes place, and numpy's own constructors, which trust what they are given, see checked
arguments only.
"""

import pickle
import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from src.data.checked_files import LARGEST, kind_of, open_file, remedy_of, shown_size

NUMBERS_AND_TEXTS = re.compile(r"[|<>=]?[biufSU]\d{1,5}")
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
PLAIN = (dict, list, tuple, str, bytes, int, float)


class _Foreign(pickle.UnpicklingError):
    """A pickle that names something else."""


class _Type:
    """What stands for a dtype until its byte order is known, which comes after its name."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        _, order, subarray, names, fields = state[:5]
        if subarray or names or fields or order not in ("|", "<", ">", "="):
            raise _Foreign("a structured dtype")
        self.code = order + self.code.lstrip("|<>=")

    def known(self) -> np.dtype:
        return np.dtype(self.code)


class _Array(np.ndarray):
    """An array whose contents come after it; bytes of the right length, never objects."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, in_columns, data = state
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise _Foreign(f"the shape {shape!r}")
        checked: Any = (1, tuple(shape), _known(kind), bool(in_columns), _bytes_of(data))
        super().__setstate__(checked)


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        admitted = _admitted()
        if (module_name, global_name) not in admitted:
            raise _Foreign(f"{module_name}.{global_name}")
        return admitted[module_name, global_name]


def read_pickle(path: Path) -> Any:
    """What a pickle of protocol 0 to 5 holds, be it written by Python 2 or 3.

    Numpy arrays and scalars of booleans, whole numbers, floats, str and bytes; None, bool, int,
    float, str, bytes, list, tuple, dict, OrderedDict, defaultdict; and what protocols write without
    naming it: set and frozenset (4 and 5), bytearray (5). Texts and bytes of Python 2 become str
    (latin1). A file may also name for its own sake what is named to make these: then the value is
    one of the types of PLAIN, OrderedDict, defaultdict, or a stand-in of this file (a function, an
    unfinished dtype, the text "ndarray"). No data set has these, so the caller refuses them.

    Raises ValueError where it names anything else, none of which is imported or called, or where it
    is damaged, larger than LARGEST bytes, no regular file or cannot be opened.
    """
    with open_file(path) as file:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(
                f"{path.name} has {shown_size(size)}, over the limit of {shown_size(LARGEST)}; is "
                "it the file that is meant?"
            )
        try:
            return _Reader(file, encoding="latin1").load()
        except _Foreign as error:
            raise ValueError(
                f"{path.name} is refused, nothing of it was executed: it names {error}, which is "
                "neither an array nor a plain container; take the file from a source you trust, or "
                "save it again with numpy arrays, dicts and lists alone"
            ) from error
        # Damaged bytes can look like any program, hence fail in any way.
        except Exception as error:
            file.seek(0)
            start = file.read(64)
            if kind_of(start):
                raise ValueError(f"{path.name} is no pickle; {remedy_of(start)}") from error
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path.name} is damaged or not a pickle ({reason}); copy or download it again"
            ) from error


def _admitted() -> dict[tuple[str, str], Any]:
    """{(module, name): what stands for it}, made anew each time: a pickle can set attributes."""

    def reconstruct(kind: str, shape: tuple, code: bytes) -> np.ndarray:
        del kind, shape, code  # placeholders: the contents follow
        return _Array((0,), np.uint8)

    def from_buffer(
        buffer: bytes, kind: _Type, shape: tuple, order: str, axes: tuple | None = None
    ) -> np.ndarray:
        flat = np.frombuffer(buffer, _known(kind))
        if order == "K" and axes is not None:
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order="F" if order == "F" else "C")

    def scalar(kind: _Type, data: bytes | str) -> Any:
        return np.frombuffer(_bytes_of(data), _known(kind))[0]

    def dtype(code: str, *options: bool) -> _Type:
        del options  # align and copy, of structured types
        if not isinstance(code, str) or not NUMBERS_AND_TEXTS.fullmatch(code):
            raise _Foreign(f"the dtype {code!r}")
        return _Type(code)

    def encode(text: str, encoding: str) -> bytes:
        del encoding  # latin1: how Python 3 writes bytes for Python 2
        return text.encode("latin1")

    def as_bytes(*content: bytes) -> bytes:
        # bytes(n) would be n zeros, however large n is.
        if not all(isinstance(of, bytes) for of in content):
            raise _Foreign("bytes of something else than bytes")
        return b"".join(content)

    plain = {(place, k.__name__): k for place in ("builtins", "__builtin__") for k in PLAIN}
    return {
        **plain,
        ("builtins", "bytes"): as_bytes,
        ("__builtin__", "bytes"): as_bytes,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): defaultdict,
        ("_codecs", "encode"): encode,
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): dtype,
        **{(place, "_reconstruct"): reconstruct for place in MULTIARRAY},
        **{(place, "scalar"): scalar for place in MULTIARRAY},
        **{(place, "_frombuffer"): from_buffer for place in NUMERIC},
    }


def _known(kind: Any) -> np.dtype:
    if not isinstance(kind, _Type):
        raise _Foreign("an array without a dtype")
    return kind.known()


def _bytes_of(data: Any) -> bytes:
    """Contents of an array; Python 2 wrote them as a text. Arrays of objects have a list."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise _Foreign("an array of Python objects")
    return data
