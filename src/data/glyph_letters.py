"""Which letters the glyphs data set is made of: base letters, look-alikes merged."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from src.data.glyph_rendering import SIDE, Face, Field, render

# First words of the Unicode names. Others ("TURNED SMALL F", "ROMAN NUMERAL ...") are few.
SCRIPTS = {
    "ARABIC": "arabic",
    "ARMENIAN": "armenian",
    "CANADIAN SYLLABICS": "canadian syllabics",
    "COPTIC": "coptic",
    "CYRILLIC": "cyrillic",
    "GEORGIAN": "georgian",
    "GREEK": "greek",
    "HEBREW": "hebrew",
    "LAO": "lao",
    "LATIN": "latin",
    "LISU": "lisu",
    "NKO": "nko",
    "OGHAM": "ogham",
    "OLD ITALIC": "old italic",
    "TIFINAGH": "tifinagh",
}
SAME = 0.955  # two letters whose clean renderings have a larger cosine are one class
GRID = 32  # side of the renderings that are compared; the letter's longer side is 20
PEN = 1.6  # width of their strokes


class Letter(NamedTuple):
    """A class: a code point and what it is called."""

    code: int
    name: str  # "script/letter"


def base_letters(faces: Sequence[Face]) -> list[Letter]:
    """Letters by code point, without decorated, styled or presentation forms and small capitals.

    A form of another letter has a decomposition in Unicode, be it canonical (accents) or for
    compatibility (mathematical, full width, ligatures, initial and final forms).
    """
    letters = []
    for code in sorted(set().union(*(face.codes for face in faces))):
        name = unicodedata.name(chr(code), "")
        script = next((s for s in SCRIPTS if name.startswith(f"{s} ")), None)
        if (
            script is not None
            and unicodedata.category(chr(code)) in ("Lu", "Ll", "Lo")
            and not unicodedata.decomposition(chr(code))
            and "SMALL CAPITAL" not in name
        ):
            rest = name.removeprefix(f"{script} ").lower()
            letters.append(Letter(code, f"{SCRIPTS[script]}/{rest}"))
    return letters


def distinct_letters(faces: Sequence[Face]) -> list[Letter]:
    """Base letters of which no two look the same; of look-alikes, the lowest code point stays.

    Latin A, Greek Alpha and Cyrillic A are one class, and so are capitals and small letters that
    differ in size or a little in proportion only.
    """
    fields: dict[Letter, Field] = {}
    for letter in base_letters(faces):
        shapes = (render(face, letter.code) for face in faces if letter.code in face.codes)
        first = next((shape for shape in shapes if shape is not None), None)
        if first is not None:
            fields[letter] = first
    similar = _similarity(fields)
    kept: list[int] = []
    for index in range(len(fields)):
        if similar[index, kept].max(initial=0) < SAME:
            kept.append(index)
    letters = list(fields)
    return [letters[index] for index in kept]


def _similarity(fields: Mapping[Letter, Field]) -> np.ndarray:
    """(n, n): the larger of two cosines, of letters as they are and stretched to a square."""
    sizes = np.array([(field.height, field.width) for field in fields.values()], float)
    longest = sizes.max(1, keepdims=True)
    stretched = np.minimum(20 / sizes, 3 * 20 / longest)
    plain = _cosines(fields, np.repeat(20 / longest, 2, axis=1))
    slimness = np.log(sizes[:, 0] / sizes[:, 1])
    comparable = np.abs(slimness[:, None] - slimness) < 0.25
    return np.maximum(plain, comparable * _cosines(fields, stretched))


def _cosines(fields: Mapping[Letter, Field], scales: np.ndarray) -> np.ndarray:
    """Of renderings with strokes of `PEN` pixels and blurred edges; scales: (down, across)."""
    points = np.arange(GRID) - (GRID - 1) / 2
    vectors = []
    for field, (down, across) in zip(fields.values(), scales, strict=True):
        grid = np.meshgrid(points / down, points / across, indexing="ij")
        middle = (SIDE - 1) / 2
        scale = np.sqrt(down * across)
        distances = scale * map_coordinates(
            field.distances, np.stack(grid) + middle, order=1, mode="nearest"
        )
        # Solid shapes keep their edges: only what looks like a stroke is made thinner.
        distances -= (min(scale * field.stroke, 12) - PEN) / 2
        vectors.append(np.clip(distances / 3 + 0.5, 0, 1).ravel())
    stacked = np.stack(vectors)
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    return stacked @ stacked.T
