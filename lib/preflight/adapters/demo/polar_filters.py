"""The fixed filters of the weight-free backbone, as lists of numbers.

All values are computed with `math` in double precision and rounded to 12 decimals before they become float32. So the
last bits of the sine or exponential of a C library do not affect the bytes of the graph.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

__all__ = [
    "GRID",
    "ORIENTATIONS",
    "RINGS",
    "SECTORS",
    "gabor_bank",
    "gaussian_kernel",
    "polar_masks",
    "steering_order",
]

ORIENTATIONS = 8
RINGS = 5
SECTORS = 16
GRID = 28  # side of the maps that are pooled into rings and sectors

_GABOR_SIZE = 9
_WAVELENGTH = 4.0  # in pixels of the 112 px image; the sigma of the envelope is half a wavelength
_MASK_RADIUS = 0.98  # radius of the outermost ring, as a share of half the side
_DECIMALS = 12


def gabor_bank() -> list[float]:
    """Return Gabor filters as (2 * ORIENTATIONS, 1, 9, 9), row-major: all even filters, then all odd ones.

    Even filters have mean zero. Each pair is divided by the sum of magnitudes of its even filter. The wave of
    orientation k runs along 180 * k / ORIENTATIONS degrees, with x to the right and y down.
    """
    pairs = [_gabor_pair(math.pi * k / ORIENTATIONS) for k in range(ORIENTATIONS)]
    even = [value for pair in pairs for value in pair[0]]
    odd = [value for pair in pairs for value in pair[1]]
    return even + odd


def _gabor_pair(angle: float) -> tuple[list[float], list[float]]:
    half = _GABOR_SIZE // 2
    sigma = 0.5 * _WAVELENGTH
    envelope, along = [], []
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            envelope.append(math.exp(-(x * x + y * y) / (2 * sigma * sigma)))
            along.append(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / _WAVELENGTH)
    even = [g * math.cos(u) for g, u in zip(envelope, along, strict=True)]
    mean = math.fsum(even) / math.fsum(envelope)
    even = [e - g * mean for e, g in zip(even, envelope, strict=True)]
    odd = [g * math.sin(u) for g, u in zip(envelope, along, strict=True)]
    scale = math.fsum(abs(e) for e in even)
    return _rounded([e / scale for e in even]), _rounded([o / scale for o in odd])


def gaussian_kernel() -> list[float]:
    """Return a normalised Gaussian as (1, 1, 7, 7), row-major, with sigma 1 and cut off at three sigmas."""
    line = [math.exp(-x * x / 2) for x in range(-3, 4)]
    total = math.fsum(line) ** 2
    return _rounded([a * b / total for a in line for b in line])


def polar_masks() -> list[float]:
    """Return pooling masks as (GRID * GRID, RINGS * SECTORS), row-major: soft sectors of rings of equal area.

    The sum of each column is one. The centre of sector t is at 360 * t / SECTORS degrees from the x axis towards the y
    axis, with y down. The corners outside the inscribed circle belong to no ring, so that a rotation of the image moves
    no pixel into or out of the masks.
    """
    edges = [math.sqrt(i / RINGS) for i in range(RINGS + 1)]
    columns = []
    for inner, outer in itertools.pairwise(edges):
        for sector in range(SECTORS):
            column = [_ring(p, inner, outer) * _sector(p, sector) for p in range(GRID * GRID)]
            total = math.fsum(column) + 1e-9
            columns.append(_rounded([value / total for value in column]))
    return [column[p] for p in range(GRID * GRID) for column in columns]


def _offset(pixel: int) -> tuple[float, float]:
    centre = (GRID - 1) / 2
    return (pixel % GRID - centre) / centre, (pixel // GRID - centre) / centre


def _ring(pixel: int, inner: float, outer: float) -> float:
    radius = math.hypot(*_offset(pixel)) / _MASK_RADIUS
    if radius > 1:
        return 0.0
    return min(1.0, max(0.0, 1.25 - abs(radius - (inner + outer) / 2) / (outer - inner)))


def _sector(pixel: int, sector: int) -> float:
    x, y = _offset(pixel)
    width = 2 * math.pi / SECTORS
    angle = (math.atan2(y, x) - sector * width + math.pi) % (2 * math.pi) - math.pi
    return max(0.0, 1.0 - abs(angle) / width)


def steering_order() -> list[int]:
    """Return indices into (ORIENTATIONS, SECTORS), row-major, that make orientations relative to the sector.

    One step of the sectors (360 degrees / 16) is the same angle as one step of the orientations (180 degrees / 8).
    After this gather, a rotation of the image by one step is a cyclic shift along the sectors only.
    """
    return [((j + t) % ORIENTATIONS) * SECTORS + t for j in range(ORIENTATIONS) for t in range(SECTORS)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, _DECIMALS) for value in values]
