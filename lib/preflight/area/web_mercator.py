"""Web-Mercator tile arithmetic: converts between XYZ tiles and WGS84 degrees.

Tiles are numbered as in slippy maps. Zoom z has 2**z columns, counted eastwards from 180 W, and 2**z rows, counted
southwards from the northern edge. A tile is a rectangle both in degrees and in metres, because meridians and parallels
are straight in EPSG:3857. Formulas: OGC Two Dimensional Tile Matrix Set, WebMercatorQuad; "Slippy map tilenames",
OpenStreetMap wiki.
"""

from __future__ import annotations

import math

from preflight.records import BoundingBox

__all__ = [
    "MAX_LATITUDE",
    "MAX_ZOOM",
    "grid_center",
    "haversine_m",
    "tile_at",
    "tile_bounds",
    "tile_center",
    "tile_east",
    "tile_south",
]

MAX_ZOOM = 24
"""The deepest zoom that is accepted. A tile of this zoom is 2.4 m wide at the equator."""

MAX_LATITUDE = math.degrees(math.atan(math.sinh(math.pi)))
"""Latitude of the northern edge of the map, 85.0511287798066 degrees. The southern edge has the same latitude south."""

_EARTH_RADIUS_M = 6_371_008.8  # mean radius R1 of the IUGG


def _longitude(zoom: int, column: float) -> float:
    """Returns the longitude of the western border of a column. `column + 0.5` gives the middle of the column."""
    return column / (1 << zoom) * 360.0 - 180.0


def _latitude(zoom: int, row: float) -> float:
    """Returns the latitude of the northern border of a row. `row + 0.5` gives the middle of the row in EPSG:3857."""
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * row / (1 << zoom)))))


def tile_east(zoom: int, x: int) -> float:
    """Returns the longitude of the eastern border of column x, degrees."""
    return _longitude(zoom, x + 1)


def tile_south(zoom: int, y: int) -> float:
    """Returns the latitude of the southern border of row y, degrees."""
    return _latitude(zoom, y + 1)


def tile_bounds(zoom: int, x: int, y: int) -> BoundingBox:
    """Returns the bounds of a tile, degrees. Adjacent tiles, and a tile and its children, share exact borders."""
    return BoundingBox(
        lat_min=_latitude(zoom, y + 1),
        lon_min=_longitude(zoom, x),
        lat_max=_latitude(zoom, y),
        lon_max=_longitude(zoom, x + 1),
    )


def tile_center(zoom: int, x: int, y: int) -> tuple[float, float]:
    """Returns (lat, lon) of the centre of a tile in degrees: the centre in EPSG:3857, not the mean of the latitudes."""
    return _latitude(zoom, y + 0.5), _longitude(zoom, x + 0.5)


def grid_center(zoom: int, x: int, y: int, steps: int) -> tuple[float, float]:
    """Returns (lat, lon) in degrees of the centre of a square on a grid finer than the tiles.

    The square is as large as a tile. Its north-western corner lies x / steps columns and y / steps rows of tiles from
    that of the map. The longitude stays below 180, also for a square that crosses the antimeridian.
    """
    lon = _longitude(zoom, x / steps + 0.5)
    return _latitude(zoom, y / steps + 0.5), lon - 360.0 if lon >= 180.0 else lon


def tile_at(zoom: int, lat: float, lon: float) -> tuple[int, int]:
    """Returns (x, y) of the tile that contains a point. lat, lon: degrees.

    A tile owns its northern and western border. The southern and eastern edge of the map belong to the last row and
    column.

    Raises:
        ValueError: the point is outside the map.
    """
    if not (-MAX_LATITUDE <= lat <= MAX_LATITUDE and -180.0 <= lon <= 180.0):
        raise ValueError(
            f"({lat}, {lon}) is outside the Web-Mercator map: "
            "latitude must be within 85.0511 degrees, longitude within 180 degrees"
        )
    last = (1 << zoom) - 1
    x = min(last, math.floor((lon + 180.0) / 360.0 * (last + 1)))
    y = min(last, max(0, math.floor((1.0 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2.0 * (last + 1))))
    # Near a border, rounding can make the estimate wrong by one. The borders that tile_bounds returns decide.
    while x > 0 and lon < _longitude(zoom, x):
        x -= 1
    while x < last and lon >= _longitude(zoom, x + 1):
        x += 1
    while y > 0 and lat > _latitude(zoom, y):
        y -= 1
    while y < last and lat <= _latitude(zoom, y + 1):
        y += 1
    return x, y


def haversine_m(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Returns the great-circle distance of two points (degrees) in metres on the mean sphere.

    It differs from the distance on the ellipsoid by at most 0.6 %.
    """
    phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
    half_lat = math.sin((phi_b - phi_a) / 2.0)
    half_lon = math.sin(math.radians(lon_b - lon_a) / 2.0)
    chord = half_lat * half_lat + math.cos(phi_a) * math.cos(phi_b) * half_lon * half_lon
    return 2.0 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(chord)))
