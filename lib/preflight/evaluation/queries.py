"""Simulated aerial photographs: crops of the map at a known position, rotated, scaled and with other light.

A position is a pair of integers: column and row at zoom 40, where a tile is 36 micrometres wide at the equator. A bit
shift thus gives exactly the tile that contains a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from preflight.area.web_mercator import tile_center
from preflight.tileset.tile_lookup import TileLookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POSITION_ZOOM", "OpenRgb", "Query", "TileTable", "draw_queries"]

POSITION_ZOOM = 40
OpenRgb = Callable[[int, int, int], "NDArray[np.uint8] | None"]
"""(zoom, x, y) -> (side, side, 3) uint8 with the same side for all tiles; None if there is no such tile."""

_SCALE = (0.85, 1.18)  # side of the footprint in tiles; it varies with the error of the height
_HEADING_ERROR_DEG = 4.0
_ATTEMPTS = 40
_SIDE_WITHIN_TILE = 0.7  # a square of this side around a tile's centre stays inside the tile at any heading
_ENOUGH = 16  # with fewer tiles that have all neighbours, queries are drawn from all tiles


@dataclass(frozen=True, slots=True)
class TileTable:
    """The N units of an index (tiles or windows) as parallel arrays (N,). lats and lons are the centres in degrees.

    steps: the number of windows that begin along a tile's side; xs and ys then count windows. 1 for tiles.
    """

    ids: NDArray[np.int64]
    zooms: NDArray[np.int64]
    xs: NDArray[np.int64]
    ys: NDArray[np.int64]
    lats: NDArray[np.float64]
    lons: NDArray[np.float64]
    steps: int = 1

    def __len__(self) -> int:
        return len(self.ids)


class Query(NamedTuple):
    """A true position and two simulated photographs of it.

    Attributes:
        column, row: the position at POSITION_ZOOM.
        lat, lon: the same position in degrees.
        heading_known: (size, size, 3) uint8, north up except for a small heading error.
        heading_unknown: (size, size, 3) uint8, with a random heading.
    """

    column: int
    row: int
    lat: float
    lon: float
    heading_known: NDArray[np.uint8]
    heading_unknown: NDArray[np.uint8]


class _Pose(NamedTuple):
    """The footprint of a photograph: centre (u, v) from the home tile's north-western corner and side, all in tiles.

    turn is the rotation in radians.
    """

    u: float
    v: float
    side: float
    turn: float


def draw_queries(table: TileTable, open_rgb: OpenRgb, count: int, seed: int, size: int = 224) -> Iterator[Query]:
    """Draw `count` queries at random positions over the tiles.

    A position is uniform inside a random tile that has all eight neighbours. If fewer than 16 tiles have them, it lies
    inside any tile, and the footprint lies on existing tiles. The two photographs of a query share position, scale and
    light.

    Each query has its own random generator, seeded by (seed, number). A longer run therefore begins like a shorter one.

    Args:
        table: the tiles.
        open_rgb: opens a tile.
        count: the number of queries.
        seed: the seed.
        size: side of a photograph in pixels.

    Raises:
        ValueError: the table is empty, a tile of it does not open, or tiles differ in size.
    """
    if not len(table):
        raise ValueError("no tiles to draw queries from")
    tiles = TileLookup(table.zooms, table.xs, table.ys)
    inner = tiles.surrounded()
    homes = inner if len(inner) >= _ENOUGH else np.arange(len(tiles))
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        home = tiles.tile(int(homes[int(rng.integers(len(homes)))]))
        yield _query(rng, home, _neighbourhood(home, tiles), open_rgb, size)


def _neighbourhood(tile: tuple[int, int, int], tiles: TileLookup) -> set[tuple[int, int]]:
    """Return the offsets (dx, dy) in -1..1 of the tile itself and of its existing neighbours."""
    zoom, x, y = tile
    steps = (-1, 0, 1)
    return {(dx, dy) for dx in steps for dy in steps if tiles.row(zoom, x + dx, y + dy) >= 0}


def _query(
    rng: np.random.Generator,
    home: tuple[int, int, int],
    around: set[tuple[int, int]],
    open_rgb: OpenRgb,
    size: int,
) -> Query:
    turn = rng.uniform(0.0, 2 * math.pi)
    pose = _pose(rng, around, turn)
    heading_error = math.radians(rng.uniform(-_HEADING_ERROR_DEG, _HEADING_ERROR_DEG))
    light_seed = int(rng.integers(1 << 62))
    mosaic = _mosaic(home, around, open_rgb)
    shots = [
        _relit(np.random.Generator(np.random.PCG64(light_seed)), _crop(mosaic, pose._replace(turn=angle), size))
        for angle in (heading_error, turn)
    ]
    zoom, x, y = home
    unit = 1 << (POSITION_ZOOM - zoom)
    column, row = x * unit + int(pose.u * unit), y * unit + int(pose.v * unit)
    lat, lon = tile_center(POSITION_ZOOM, column, row)
    return Query(column, row, lat, lon, shots[0], shots[1])


def _pose(rng: np.random.Generator, around: set[tuple[int, int]], turn: float) -> _Pose:
    for _ in range(_ATTEMPTS):
        u, v, side = rng.uniform(), rng.uniform(), rng.uniform(*_SCALE)
        # The circle around the footprint must lie on tiles, so that the position is valid for any heading.
        if len(around) == 9 or _circle_on_tiles(u, v, side * math.sqrt(0.5), around):
            return _Pose(u, v, side, turn)
    return _Pose(0.5, 0.5, _SIDE_WITHIN_TILE, turn)


def _circle_on_tiles(u: float, v: float, radius: float, around: set[tuple[int, int]]) -> bool:
    rim = [(u + radius * math.cos(a), v + radius * math.sin(a)) for a in (k * math.pi / 16 for k in range(32))]
    return all((math.floor(x), math.floor(y)) in around for x, y in rim)


def _mosaic(home: tuple[int, int, int], around: set[tuple[int, int]], open_rgb: OpenRgb) -> NDArray[np.uint8]:
    """Join the home tile and its neighbours to (3 * side, 3 * side, 3) uint8. Missing neighbours are black."""
    zoom, x, y = home
    canvas: NDArray[np.uint8] | None = None
    side = 0
    for dx, dy in sorted(around, key=lambda step: step != (0, 0)):
        tile = open_rgb(zoom, x + dx, y + dy)
        if tile is None:
            raise ValueError(f"tile {zoom}/{x + dx}/{y + dy} is in the table but does not open")
        if canvas is None:
            side = len(tile)
            canvas = np.zeros((3 * side, 3 * side, 3), dtype=np.uint8)
        if tile.shape != (side, side, 3):
            raise ValueError(f"tile {zoom}/{x + dx}/{y + dy} is {tile.shape}, its neighbour {(side, side, 3)}")
        canvas[(dy + 1) * side : (dy + 2) * side, (dx + 1) * side : (dx + 2) * side] = tile
    assert canvas is not None  # noqa: S101 - the home tile is always among them
    return canvas


def _crop(mosaic: NDArray[np.uint8], pose: _Pose, size: int) -> NDArray[np.float32]:
    """Sample the view straight down with the turn as heading, bilinear: (size, size, 3) levels 0..255."""
    side = len(mosaic) / 3
    grid = ((np.arange(size) + 0.5) / size - 0.5) * pose.side * side
    right, down = grid[None, :], grid[:, None]
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    x = (1 + pose.u) * side - 0.5 + right * cos - down * sin
    y = (1 + pose.v) * side - 0.5 + right * sin + down * cos
    last = len(mosaic) - 2
    left, top = np.clip(np.floor(x), 0, last).astype(np.int64), np.clip(np.floor(y), 0, last).astype(np.int64)
    fx, fy = (x - left).astype(np.float32)[..., None], (y - top).astype(np.float32)[..., None]
    levels, corner = mosaic.reshape(-1, 3), top * len(mosaic) + left
    upper = levels.take(corner, axis=0) * (1 - fx) + levels.take(corner + 1, axis=0) * fx
    corner += len(mosaic)
    lower = levels.take(corner, axis=0) * (1 - fx) + levels.take(corner + 1, axis=0) * fx
    crop: NDArray[np.float32] = upper + (lower - upper) * fy
    return crop


def _relit(rng: np.random.Generator, crop: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Simulate another camera on another day: blur, exposure, contrast, tint and noise."""
    soft, gamma, gain = rng.uniform(0.0, 0.8), rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.3)
    curve = np.array([255.0 * math.pow(level / 255.0, gamma) * gain for level in range(256)])
    curves = (curve * rng.uniform(0.9, 1.1, (3, 1))).astype(np.float32)
    strength = np.float32(rng.uniform(1.0, 5.0))
    softened = (crop + (_blurred(crop) - crop) * np.float32(soft) + np.float32(0.5)).astype(np.uint8)
    lit = np.stack([curves[channel].take(softened[..., channel]) for channel in range(3)], axis=2)
    lit += rng.standard_normal(lit.shape, dtype=np.float32) * strength
    shot: NDArray[np.uint8] = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
    return shot


def _blurred(crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average each pixel with its neighbours by 1, 2, 1 along both axes. Pixels at the edge are repeated outwards."""
    padded = np.pad(crop, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    blurred: NDArray[np.float32] = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) * np.float32(1 / 16)
    return blurred
