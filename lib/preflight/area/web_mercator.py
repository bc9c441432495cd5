"""Web-Mercator tile arithmetic: XYZ tiles to and from WGS84 degrees.

Tiles are numbered as slippy maps do: at zoom z there are 2**z columns from 180 W eastwards and 2**z rows from the north
southwards. A tile is a rectangle in degrees as well as in metres: EPSG:3857 keeps meridians and parallels straight.
Formulas: OGC Two Dimensional Tile Matrix Set, WebMercatorQuad; "Slippy map tilenames", OpenStreetMap wiki.
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
"""The deepest zoom accepted: a tile there is 2.4 m wide at the equator."""

MAX_LATITUDE = math.degrees(math.atan(math.sinh(math.pi)))
"""The map's northern and southern edge, 85.0511287798066 degrees."""

_EARTH_RADIUS_M = 6_371_008.8  # mean radius R1 of the IUGG


def _longitude(zoom: int, column: float) -> float:
    """Longitude of a column border; a column and a half gives the middle."""
    return column / (1 << zoom) * 360.0 - 180.0


def _latitude(zoom: int, row: float) -> float:
    """Latitude of a row border; a row and a half gives the middle of the tile as drawn."""
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * row / (1 << zoom)))))


def tile_east(zoom: int, x: int) -> float:
    """Eastern border of column x, degrees."""
    return _longitude(zoom, x + 1)


def tile_south(zoom: int, y: int) -> float:
    """Southern border of row y, degrees."""
    return _latitude(zoom, y + 1)


def tile_bounds(zoom: int, x: int, y: int) -> BoundingBox:
    """The rectangle of a tile, degrees. Neighbours share their border exactly, and so do a tile and its quarters."""
    return BoundingBox(
        lat_min=_latitude(zoom, y + 1),
        lon_min=_longitude(zoom, x),
        lat_max=_latitude(zoom, y),
        lon_max=_longitude(zoom, x + 1),
    )


def tile_center(zoom: int, x: int, y: int) -> tuple[float, float]:
    """(lat, lon) of the middle pixel of a tile, degrees: the middle in EPSG:3857, not the mean of latitudes."""
    return _latitude(zoom, y + 0.5), _longitude(zoom, x + 0.5)


def grid_center(zoom: int, x: int, y: int, steps: int) -> tuple[float, float]:
    """(lat, lon) of the middle of a square of one tile's size that begins x / steps columns and y / steps rows of tiles in.

    A square across the antimeridian has its middle on the side it lies on: longitudes stay below 180.
    """
    lon = _longitude(zoom, x / steps + 0.5)
    return _latitude(zoom, y / steps + 0.5), lon - 360.0 if lon >= 180.0 else lon


def tile_at(zoom: int, lat: float, lon: float) -> tuple[int, int]:
    """(x, y) of the tile that holds a point.

    A tile owns its northern and western border; the map's southern and eastern edge belong to the last row and column.

    Raises:
        ValueError: the point is off the map.
    """
    if not (-MAX_LATITUDE <= lat <= MAX_LATITUDE and -180.0 <= lon <= 180.0):
        raise ValueError(f"({lat}, {lon}) is off the Web-Mercator map: latitude within 85.0511, longitude within 180")
    last = (1 << zoom) - 1
    x = min(last, math.floor((lon + 180.0) / 360.0 * (last + 1)))
    y = min(last, max(0, math.floor((1.0 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2.0 * (last + 1))))
    # The estimate may be one off in the last bits of a border; the borders as tile_bounds gives them decide.
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
    """Great-circle distance in metres on the mean sphere; within 0.6 % of the ellipsoid."""
    phi_a, phi_b = math.radians(lat_a), math.radians(lat_b)
    half_lat = math.sin((phi_b - phi_a) / 2.0)
    half_lon = math.sin(math.radians(lon_b - lon_a) / 2.0)
    chord = half_lat * half_lat + math.cos(phi_a) * math.cos(phi_b) * half_lon * half_lon
    return 2.0 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(chord)))
