"""Drawings: a letter's fields, seen through random affine and elastic maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from src.data.glyph_rendering import SIDE, Field

RECIPE_SEED = 20151211
SIZE = 28
MIDDLE = (SIZE - 1) / 2
EDGE = 1.5  # pixels that stay paper, but for elastic displacements
KNOTS = 5  # elastic displacements are given on KNOTS x KNOTS points and smooth in between

# Sizes in pixels of a drawing, as in Omniglot; standard deviations at distortion 1.
LONGER_SIDE = 18.5
STROKE = 1.6
FINEST = 1.0  # width that hairlines keep
ROTATION = 0.16  # radians
SHEAR = 0.15
LOG_SCALE = 0.10  # once for both axes, and once for each
SHIFT = 1.2
LOG_STROKE = 0.12
ELASTIC = 0.85


class Warp(NamedTuple):
    """How one drawing is made of one field."""

    matrix: np.ndarray  # (..., 2, 2): (row, column) offsets, drawing -> field
    shift: np.ndarray  # (..., 2): of the middle
    elastic: np.ndarray  # (..., 2, KNOTS, KNOTS): further shifts
    scale: np.ndarray  # (...,): pixels of the drawing for one of the field
    thinner: np.ndarray  # (...,): what strokes lose on each side


def choose_warps(
    fields: Sequence[Field], code: int, number: int, distortion: float
) -> tuple[np.ndarray, Warp]:
    """(number,) indices of fields, each in turn, and their warps; the code point is the seed."""
    generator = np.random.default_rng([RECIPE_SEED, code])
    choice = generator.permutation(len(fields))[np.arange(number) % len(fields)]
    # Cut off at two standard deviations: nobody draws a letter upside down.
    normal = distortion * np.clip(generator.standard_normal((number, 8)), -2, 2)
    elastic = ELASTIC * distortion * generator.standard_normal((number, 2, KNOTS, KNOTS))

    sizes = np.array([(field.height, field.width) for field in fields], float)[choice]
    stroke, hairline = np.array([(field.stroke, field.hairline) for field in fields])[choice].T
    scale = LONGER_SIDE / sizes.max(1) * np.exp(LOG_SCALE * normal[:, 0])
    cosine, sine = np.cos(ROTATION * normal[:, 1]), np.sin(ROTATION * normal[:, 1])
    rotation = np.stack([cosine, sine, -sine, cosine], 1).reshape(-1, 2, 2)
    shear = np.tile(np.eye(2), (number, 1, 1))
    shear[:, 1, 0] = SHEAR * normal[:, 2]
    axes = np.exp(LOG_SCALE * normal[:, 3:5])
    forward = rotation @ shear * (scale[:, None] * axes)[:, None, :]

    # Letters stay on the paper: shrink, then shift no further than there is room.
    reach = np.einsum("nij,nj->ni", np.abs(forward), sizes / 2)
    shrink = np.minimum(1, (MIDDLE - EDGE) / reach.max(1))
    forward = forward * shrink[:, None, None]
    room = np.maximum(MIDDLE - EDGE - reach * shrink[:, None], 0)
    shift = np.clip(SHIFT * normal[:, 5:7], -room, room)

    scale = np.sqrt(np.linalg.det(forward))
    thinner = (stroke * scale - STROKE * np.exp(LOG_STROKE * normal[:, 7])) / 2
    # Thin parts of a letter with thick and thin parts must not vanish, nor small holes close.
    thinner = np.maximum(np.minimum(thinner, (hairline * scale - FINEST) / 2), -0.35)
    return choice, Warp(np.linalg.inv(forward), shift, elastic, scale, thinner)


def draw(distances: np.ndarray, choice: np.ndarray, warp: Warp) -> np.ndarray:
    """uint8 (n, SIZE, SIZE), ink 255, of fields (m, SIDE, SIDE) chosen by `choice` (n,)."""
    basis = _basis()
    elastic = np.einsum("pk,nckl,ql->ncpq", basis, warp.elastic, basis, optimize=True)
    points = np.arange(SIZE) - MIDDLE
    target = np.stack(np.meshgrid(points, points, indexing="ij"))
    offsets = (target - warp.shift[:, :, None, None] + elastic).reshape(len(choice), 2, -1)
    source = (warp.matrix @ offsets + (SIDE - 1) / 2).astype(np.float32)
    # Bilinear sampling: beyond the field's border all is paper, as on the border itself.
    np.clip(source, 0, SIDE - 1.001, out=source)
    corner = source.astype(np.int32)
    part_row, part_column = np.moveaxis(source - corner, 1, 0)
    index = (choice[:, None] * SIDE + corner[:, 0]) * SIDE + corner[:, 1]
    flat = distances.ravel()
    upper = flat[index] * (1 - part_column) + flat[index + 1] * part_column
    lower = flat[index + SIDE] * (1 - part_column) + flat[index + SIDE + 1] * part_column
    sampled = upper * (1 - part_row) + lower * part_row
    # A pixel's coverage by ink, to first order in the distance of its middle to the outline.
    ink = np.clip(sampled * warp.scale[:, None] - warp.thinner[:, None] + 0.5, 0, 1)
    return np.rint(255 * ink).astype(np.uint8).reshape(-1, SIZE, SIZE)


def _basis() -> np.ndarray:
    """(SIZE, KNOTS): Gaussian bumps, of unit sum of squares so that a knot's size is a pixel's."""
    knots = np.linspace(0, SIZE - 1, KNOTS)
    spacing = knots[1] - knots[0]
    bumps = np.exp(-0.5 * ((np.arange(SIZE)[:, None] - knots) / (0.7 * spacing)) ** 2)
    return bumps / np.linalg.norm(bumps, axis=1, keepdims=True)
