"""An Omniglot-like data set that needs no download: letters of matplotlib's own fonts."""

import hashlib
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from matplotlib import ft2font

from src.data.array_cache import default_folder, read_arrays, write_arrays
from src.data.glyph_distortion import choose_warps, draw
from src.data.glyph_letters import distinct_letters
from src.data.glyph_rendering import font_files, open_faces, render
from src.data.image_classes import ImageClasses, split_classes

RECIPE = 1  # to be raised whenever the images change: it is part of the cache file's name


def glyphs(
    *,
    root: str | None = None,
    split_sizes: tuple[int, int, int],
    split_seed: int = 0,
    split_by_script: bool = False,
    num_drawings: int = 20,
    distortion: float = 1.0,
) -> ImageClasses:
    """More than 1,300 letters of fifteen scripts, each drawn `num_drawings` times in 28x28.

    Faces of the DejaVu fonts, then random affine and elastic maps and stroke widths, whose strength
    is `distortion` (0: only the faces differ). A function of the options and the font files alone,
    built once and then read from `root`, or from the user's cache folder.

    Raises ValueError on options out of range and on a `root` that cannot be written.
    """
    if num_drawings < 2:
        raise ValueError(
            f"num_drawings={num_drawings} must be at least 2, one drawing to learn from and one to "
            "be tested on; choose num_drawings=20, as Omniglot has"
        )
    if not 0 <= distortion <= 2:
        raise ValueError(
            f"distortion={distortion} is outside 0..2, and letters get unreadable beyond 2; "
            "choose distortion=1"
        )
    folder = default_folder("glyphs") if root is None else Path(root)
    path = None if folder is None else folder / _file_name(num_drawings, distortion)
    arrays = None if path is None else read_arrays(path)
    if arrays is None:
        problem = _prepare(folder)
        if problem and root is not None:
            raise ValueError(
                f"root={root} cannot be written ({problem}); name a folder that can, or root=null "
                "for the user's cache folder"
            )
        print("drawing the glyphs data set once, some seconds", file=sys.stderr)
        arrays = _build(num_drawings, distortion)
        if path is not None and not problem:
            problem = _write(path, arrays)
        if problem:
            warnings.warn(f"the glyphs are not kept for the next run: {problem}", stacklevel=2)
    names = tuple(str(name) for name in arrays["names"])
    splits = split_classes(names, split_sizes, split_seed, by_group=split_by_script)
    return ImageClasses(arrays["images"], names, splits)


def _build(num_drawings: int, distortion: float) -> dict[str, np.ndarray]:
    """{"images": uint8 (classes, drawings, 28, 28, 1), "names": sorted}."""
    faces = open_faces()
    letters = sorted(distinct_letters(faces), key=lambda letter: letter.name)
    images = []
    for letter in letters:
        rendered = (render(face, letter.code) for face in faces if letter.code in face.codes)
        fields = [field for field in rendered if field is not None]
        choice, warp = choose_warps(fields, letter.code, num_drawings, distortion)
        images.append(draw(np.stack([field.distances for field in fields]), choice, warp))
    return {
        "images": np.stack(images)[..., None],
        "names": np.array([letter.name for letter in letters]),
    }


def _file_name(num_drawings: int, distortion: float) -> str:
    """A name that changes with whatever the images depend on."""
    total = hashlib.sha256(
        repr((RECIPE, num_drawings, float(distortion), ft2font.__freetype_version__)).encode()
    )
    for file in font_files():
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return f"glyphs-{total.hexdigest()[:16]}.npz"


def _prepare(folder: Path | None) -> str:
    """Make the folder; what is wrong with it, or nothing."""
    if folder is None:
        return "there is no home folder; name one with data.root=FOLDER"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return str(error)
    return "" if os.access(folder, os.W_OK) else f"{folder} is read-only"


def _write(path: Path, arrays: dict[str, np.ndarray]) -> str:
    try:
        write_arrays(path, arrays)
    except OSError as error:
        return str(error)
    return ""
