"""Computes the tiles that cover a box or a polygon, as ranges of tiles in one row.

A box is covered in closed form, a polygon by descent of the quadtree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from preflight.area.web_mercator import MAX_ZOOM, tile_at, tile_bounds, tile_east, tile_south
from preflight.records import BoundingBox

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Cover",
    "Ring",
    "RowRange",
    "TileRange",
    "box_range",
    "disjoint",
    "hull",
    "merge_row_ranges",
    "polygon_row_ranges",
    "ring_box",
]

Ring = tuple[tuple[float, float], ...]
"""(longitude, latitude) pairs in degrees. The last pair repeats the first."""

_MAX_RANGES_PER_ZOOM = 16


class RowRange(NamedTuple):
    """Tiles x_first to x_last (both included) in row y of one zoom."""

    zoom: int
    y: int
    x_first: int
    x_last: int


class TileRange(NamedTuple):
    """A rectangle of tiles at one zoom, both ends of each range included. Queries of the tile store use such ranges."""

    zoom: int
    x_range: tuple[int, int]
    y_range: tuple[int, int]


@dataclass(frozen=True)
class Cover:
    """The tiles of an area.

    row_ranges: exactly these tiles, disjoint, sorted by (zoom, y, x_first).
    ranges: disjoint rectangles at each zoom that together contain all row ranges.
    """

    row_ranges: tuple[RowRange, ...]
    ranges: tuple[TileRange, ...]
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = accumulate((row_range.x_last - row_range.x_first + 1 for row_range in self.row_ranges), initial=0)
        object.__setattr__(self, "_starts", tuple(starts))

    def __len__(self) -> int:
        return self._starts[-1]

    def __contains__(self, tile: tuple[int, int, int]) -> bool:
        return self.position(*tile) is not None

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        for row_range in self.row_ranges:
            for x in range(row_range.x_first, row_range.x_last + 1):
                yield row_range.zoom, x, row_range.y

    def position(self, zoom: int, x: int, y: int) -> int | None:
        """Returns the position of a tile in the order of this cover, 0 to len - 1, or None if it is not covered."""
        index = bisect_right(self.row_ranges, (zoom, y, x, 1 << (MAX_ZOOM + 1))) - 1
        if index < 0:
            return None
        row_range = self.row_ranges[index]
        if row_range.zoom != zoom or row_range.y != y or x > row_range.x_last:
            return None
        return self._starts[index] + x - row_range.x_first

    def tile(self, position: int) -> tuple[int, int, int]:
        """Returns (zoom, x, y) of the tile at a position, 0 to len - 1."""
        index = bisect_right(self._starts, position) - 1
        row_range = self.row_ranges[index]
        return row_range.zoom, row_range.x_first + position - self._starts[index], row_range.y


def ring_box(ring: Ring) -> BoundingBox:
    """Returns the bounding box of a ring."""
    lons, lats = [point[0] for point in ring], [point[1] for point in ring]
    return BoundingBox(min(lats), min(lons), max(lats), max(lons))


def box_range(box: BoundingBox, zoom: int) -> TileRange:
    """Returns the tiles whose interior overlaps the interior of a box.

    A tile owns its northern and western border. So only the last column and row can touch the box without overlapping
    it.
    """
    x_first, y_first = tile_at(zoom, box.lat_max, box.lon_min)
    x_last, y_last = tile_at(zoom, box.lat_min, box.lon_max)
    if x_last > x_first and tile_east(zoom, x_last - 1) >= box.lon_max:
        x_last -= 1
    if y_last > y_first and tile_south(zoom, y_last - 1) <= box.lat_min:
        y_last -= 1
    return TileRange(zoom, (x_first, x_last), (y_first, y_last))


def polygon_row_ranges(polygon: tuple[Ring, ...], zooms: Sequence[int]) -> list[RowRange]:
    """Returns the tiles whose interior overlaps the interior of a polygon.

    The row ranges are unsorted and may overlap. Descends the quadtree. A tile inside the polygon contributes all its
    descendants. A tile outside contributes none. Any other tile is split into four.

    Args:
        polygon: the outer ring, then the holes.
        zooms: zoom levels, ascending, at least one.
    """
    import numpy as np  # noqa: PLC0415 - only polygons need shapely and numpy
    import shapely  # noqa: PLC0415

    shape = shapely.Polygon(polygon[0], polygon[1:])
    shapely.prepare(shape)
    start = 0
    box = ring_box(polygon[0])
    while start < zooms[-1] and _count(box_range(box, start + 1)) == 1:
        start += 1  # a single tile still contains the polygon
    first = box_range(box, start)
    x, y = np.array([first.x_range[0]], np.int64), np.array([first.y_range[0]], np.int64)
    row_ranges = [RowRange(zoom, *(int(n[0]) >> (start - zoom) for n in (y, x, x))) for zoom in zooms if zoom < start]
    for zoom in range(start, zooms[-1] + 1):
        boxes = _tile_boxes(zoom, x, y)
        inside = shapely.covers(shape, boxes)
        partly = ~inside & shapely.intersects(shape, boxes) & ~shapely.touches(shape, boxes)
        for deeper in (level for level in zooms if level >= zoom):
            row_ranges.extend(_below(zoom, deeper, x[inside], y[inside]))
        x, y = x[partly], y[partly]
        if zoom in zooms:
            row_ranges.extend(_below(zoom, zoom, x, y))
        x = np.concatenate([2 * x, 2 * x + 1, 2 * x, 2 * x + 1])
        y = np.concatenate([2 * y, 2 * y, 2 * y + 1, 2 * y + 1])
    return row_ranges


def _below(zoom: int, deeper: int, x: NDArray[np.int64], y: NDArray[np.int64]) -> Iterator[RowRange]:
    side = 1 << (deeper - zoom)
    for column, row in zip(x.tolist(), y.tolist(), strict=True):
        for below in range(row * side, (row + 1) * side):
            yield RowRange(deeper, below, column * side, (column + 1) * side - 1)


def _tile_boxes(zoom: int, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.object_]:
    import numpy as np  # noqa: PLC0415 - see polygon_row_ranges
    import shapely  # noqa: PLC0415

    bounds = [tile_bounds(zoom, column, row) for column, row in zip(x.tolist(), y.tolist(), strict=True)]
    edges = np.array([(b.lon_min, b.lat_min, b.lon_max, b.lat_max) for b in bounds], np.float64).reshape(-1, 4)
    boxes: NDArray[np.object_] = shapely.box(*edges.T)
    return boxes


def merge_row_ranges(row_ranges: list[RowRange]) -> tuple[RowRange, ...]:
    """Returns the same tiles as sorted, disjoint row ranges. Adjacent ranges of a row are joined."""
    merged: list[RowRange] = []
    for row_range in sorted(row_ranges):
        last = merged[-1] if merged else None
        if last is not None and last[:2] == row_range[:2] and row_range.x_first <= last.x_last + 1:
            merged[-1] = last._replace(x_last=max(last.x_last, row_range.x_last))
        else:
            merged.append(row_range)
    return tuple(merged)


def _count(tiles: TileRange) -> int:
    return (tiles.x_range[1] - tiles.x_range[0] + 1) * (tiles.y_range[1] - tiles.y_range[0] + 1)


def hull(zoom: int, row_ranges: Sequence[RowRange]) -> TileRange:
    """Returns the smallest rectangle of tiles around row ranges of one zoom. row_ranges: at least one."""
    return TileRange(
        zoom,
        (min(row_range.x_first for row_range in row_ranges), max(row_range.x_last for row_range in row_ranges)),
        (min(row_range.y for row_range in row_ranges), max(row_range.y for row_range in row_ranges)),
    )


def disjoint(ranges: list[TileRange], zooms: Sequence[int]) -> tuple[TileRange, ...]:
    """Returns disjoint rectangles that contain the given ones.

    Overlapping ranges are joined. If more than _MAX_RANGES_PER_ZOOM of a zoom remain, they become one: this bounds the
    number of store queries.
    """
    result: list[TileRange] = []
    for zoom in zooms:
        level: list[TileRange] = []
        for candidate in sorted(one for one in ranges if one.zoom == zoom):
            joined = candidate
            while others := [other for other in level if _overlap(joined, other)]:
                level = [other for other in level if other not in others]
                joined = _join(zoom, [joined, *others])
            level.append(joined)
        result.extend(sorted(level) if len(level) <= _MAX_RANGES_PER_ZOOM else [_join(zoom, level)])
    return tuple(result)


def _overlap(one: TileRange, other: TileRange) -> bool:
    return all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one[1:], other[1:], strict=True))


def _join(zoom: int, ranges: Sequence[TileRange]) -> TileRange:
    return hull(zoom, [RowRange(zoom, y, *one.x_range) for one in ranges for y in one.y_range])
