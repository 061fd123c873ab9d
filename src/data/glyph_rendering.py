"""Letters of matplotlib's own fonts as fields of signed distances to their outline."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import ft2font
from matplotlib.ft2font import FT2Font
from scipy.ndimage import distance_transform_edt, maximum_filter

FACES = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
)
EM = 48  # pixels; capital letters are some 35 pixels high
SIDE = 80  # of a field
MARGIN = 7  # distances are exact up to here from the letter, and constant beyond
# Hinting would move outlines to whole pixels. Called LoadFlags from matplotlib 3.10 on.
UNHINTED = (
    ft2font.LoadFlags.NO_HINTING
    if hasattr(ft2font, "LoadFlags")
    else getattr(ft2font, "LOAD_NO_HINTING")  # noqa: B009
)
LARGEST = SIDE - 2 * MARGIN - 1


class Face(NamedTuple):
    """An open font and the code points that it can draw."""

    font: FT2Font
    codes: frozenset[int]


class Field(NamedTuple):
    """Signed distances to a letter's outline, inside positive, with the letter in the middle."""

    distances: np.ndarray  # (SIDE, SIDE), in pixels of the field
    height: int  # of the letter's bounding box
    width: int
    stroke: float  # mean width of the strokes
    hairline: float  # width of the thinnest, but for a fiftieth


def font_files() -> tuple[Path, ...]:
    """The files of `FACES`, which come with matplotlib."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(folder / f"{face}.ttf" for face in FACES)


def open_faces() -> tuple[Face, ...]:
    fonts = [FT2Font(str(path)) for path in font_files()]
    return tuple(Face(font, frozenset(font.get_charmap())) for font in fonts)


def render(face: Face, code: int) -> Field | None:
    """The letter's field in this face; None where the face leaves the letter empty."""
    ink = _ink(face, code, EM)
    if ink is not None and max(ink.shape) > LARGEST:
        ink = _ink(face, code, EM * (LARGEST - 1) / max(ink.shape))
    if ink is None:
        return None
    padded = np.zeros((ink.shape[0] + 2 * MARGIN, ink.shape[1] + 2 * MARGIN), np.uint8)
    padded[MARGIN:-MARGIN, MARGIN:-MARGIN] = ink
    inside = padded > 127
    distances = np.asarray(distance_transform_edt(inside))
    distances -= np.asarray(distance_transform_edt(~inside))
    # Pixels next to the outline are at a distance of half a pixel, not one; the antialiased
    # rendering says more exactly how far.
    edge = np.abs(distances) == 1
    distances = np.where(edge, padded / 255 - 0.5, distances - 0.5 * np.sign(distances))
    # Middles of strokes are the ridges of the distance.
    ridges = distances[inside & (distances == maximum_filter(distances, 3))]
    field = np.full((SIDE, SIDE), -MARGIN, np.float32)
    top, left = (SIDE - padded.shape[0]) // 2, (SIDE - padded.shape[1]) // 2
    # The letter's middle comes to lie on the field's, to half a pixel of the field.
    field[top : top + padded.shape[0], left : left + padded.shape[1]] = distances
    # Over a stroke of width w the distance rises from 0 to w/2 and falls again: its mean is w/4.
    stroke = 4 * float(distances[inside].mean())
    thinnest = np.partition(ridges, len(ridges) // 50)[len(ridges) // 50]
    return Field(field, ink.shape[0], ink.shape[1], stroke, hairline=2 * float(thinnest))


def _ink(face: Face, code: int, size: float) -> np.ndarray | None:
    face.font.clear()
    face.font.set_size(size, 72)
    face.font.set_text(chr(code), flags=UNHINTED)
    face.font.draw_glyphs_to_bitmap(antialiased=True)
    image = np.asarray(face.font.get_image())
    rows, columns = (np.flatnonzero((image > 127).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
