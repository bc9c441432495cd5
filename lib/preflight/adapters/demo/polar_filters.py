"""The fixed filters of the weight-free backbone, as plain numbers.

Everything is computed with `math` in double precision and rounded to 12 decimals before it becomes float32, so that the
last bit of a C library's sine or exponential does not reach the bytes of the graph.
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
_WAVELENGTH = 4.0  # pixels of the 112 px image; its envelope has a sigma of half a wavelength
_MASK_RADIUS = 0.98  # share of the half side that the outermost ring reaches
_DECIMALS = 12


def gabor_bank() -> list[float]:
    """(2 * ORIENTATIONS, 1, 9, 9) row-major: the even filters of all orientations, then the odd ones.

    Even filters have no mean; each pair is scaled by the even filter's sum of magnitudes. Orientation k looks along
    180 * k / ORIENTATIONS degrees, x right and y down.
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
    """(1, 1, 7, 7) row-major: a normalised Gaussian of sigma 1, cut at three sigmas."""
    line = [math.exp(-x * x / 2) for x in range(-3, 4)]
    total = math.fsum(line) ** 2
    return _rounded([a * b / total for a in line for b in line])


def polar_masks() -> list[float]:
    """(GRID * GRID, RINGS * SECTORS) row-major: soft sectors of rings of equal area, each column summing to one.

    Sector t is centred on 360 * t / SECTORS degrees from the x axis towards the y axis, as pixels run; the corners
    outside the inscribed circle belong to no ring, so that turning the image moves nothing in or out.
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
    away = (math.atan2(y, x) - sector * width + math.pi) % (2 * math.pi) - math.pi
    return max(0.0, 1.0 - abs(away) / width)


def steering_order() -> list[int]:
    """Positions in (ORIENTATIONS, SECTORS), row-major, that re-index orientations relative to the sector.

    The sectors cover a full turn in twice as many steps as the orientations cover half a turn, so one step of either is
    the same angle. After this gather, turning the image by one step is a cyclic shift along the sectors alone.
    """
    return [((j + t) % ORIENTATIONS) * SECTORS + t for j in range(ORIENTATIONS) for t in range(SECTORS)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, _DECIMALS) for value in values]
