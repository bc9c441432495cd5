"""Computes the area around a route: every point within a given distance of its lines, on the WGS84 ellipsoid.

Legs are geodesics. They are cut into pieces of less than 20 km. Each piece is projected (pyproj, azimuthal equidistant
on WGS84, centred on its first point) and buffered in that plane. The union of the buffers, in degrees, is the area.

The polygons contain every point within corridor_m of the route in the file. They contain no point farther away than
corridor_m * 1.002 + 0.06 m. The sources of error are:
- Positions are rounded to 1e-7 degrees (the resolution of MAVLink, at most 8 mm), so that the digest is canonical.
- Round ends are circumscribed polygons with 128 sides (0.03 %).
- An edge that is straight in the plane, or a geodesic, bulges in degrees by at most
  length**2 * tan(latitude) / (7 * earth radius). Edges are split until the bulge is at most 0.05 % of the width or 1 cm.
- Distances in the projection are wrong by (70 km / earth radius)**2 / 6 = 0.002 %, at most 70 km from the centre.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import TYPE_CHECKING

from preflight.area.area import Area, area_from_shapes
from preflight.area.routes import Position, Route
from preflight.area.web_mercator import MAX_LATITUDE
from preflight.errors import MissionError

if TYPE_CHECKING:
    import numpy as np
    import pyproj
    from numpy.typing import NDArray
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry

    Points = NDArray[np.float64]

__all__ = ["LONGEST_M", "WIDEST_M", "corridor"]

# Raise it by hand when the same route and width give different polygons than before.
CORRIDOR_VERSION = 1

WIDEST_M = 50_000.0
"""The largest corridor_m, metres. A wider corridor would exceed the stated bound on the error of the projection."""

LONGEST_M = 5_000_000.0
"""The longest route, metres. A longer route contains a wrong coordinate."""

_DECIMALS_IN, _GRID = 7, 1e-9
_EARTH_RADIUS_M = 6_356_752.0  # the smaller, polar radius: it makes the estimates upper bounds
_PIECE_M = 10_000.0
_QUADRANT = 32  # segments per quarter circle


def corridor(route: Route, corridor_m: float, source: str = "area.route") -> Area:
    """Returns the area within corridor_m metres of a route. The route may cross itself and the antimeridian.

    Args:
        route: the lines to follow.
        corridor_m: distance to each side of the route, metres, 1 to `WIDEST_M`.
        source: the name of the input in error messages.

    Raises:
        MissionError: the width is out of range, the route is longer than `LONGEST_M`, or the corridor leaves the map.
    """
    if not 1.0 <= corridor_m <= WIDEST_M:
        raise MissionError(
            source, (f"corridor_m is {corridor_m:g}: give a distance between 1 and {WIDEST_M:g} metres",)
        )
    lines = _canonical(route)
    length = _length(lines)
    if length > LONGEST_M:
        limit = LONGEST_M / 1000
        problem = f"the route is {length / 1000:,.0f} km long, more than {limit:,.0f} km: look for a wrong position"
        raise MissionError(source, (problem,))
    form = {"version": CORRIDOR_VERSION, "corridor_m": float(corridor_m), "lines": lines}
    made_from = json.dumps(form, sort_keys=True, separators=(",", ":"))
    return area_from_shapes(_union(_pieces(lines, corridor_m, source), corridor_m), made_from)


def _canonical(route: Route) -> list[tuple[Position, ...]]:
    """Returns the lines rounded, without repeated positions, in an order independent of the flight direction."""
    lines = set()
    for line in route.lines:
        # Adding 0.0 turns -0.0 into 0.0. 180 W becomes 180 E.
        rounded = [(round(lat, _DECIMALS_IN) + 0.0, round(lon, _DECIMALS_IN) + 0.0) for lat, lon in line]
        east = [(lat, 180.0 if lon == -180.0 else lon) for lat, lon in rounded]
        distinct = tuple(point for number, point in enumerate(east) if number == 0 or point != east[number - 1])
        lines.add(min(distinct, distinct[::-1]))
    return sorted(lines)


def _length(lines: list[tuple[Position, ...]]) -> float:
    """Returns the total length along geodesics, metres."""
    import pyproj  # noqa: PLC0415 - only routes need geodesics

    geod = pyproj.Geod(ellps="WGS84")
    return sum(float(geod.line_length([lon for _, lon in line], [lat for lat, _ in line])) for line in lines)


def _pieces(lines: list[tuple[Position, ...]], width: float, source: str) -> list[Points]:
    """Returns the lines cut at every _PIECE_M of their length, as (n, 2) arrays of lon, lat in degrees.

    Cuts are at existing points, so a piece is shorter than twice _PIECE_M. It begins at the last point of the piece
    before it.
    """
    import numpy as np  # noqa: PLC0415 - see _length
    import pyproj  # noqa: PLC0415

    geod = pyproj.Geod(ellps="WGS84")
    pieces: list[Points] = []
    for line in lines:
        points = np.array(_fine(geod, line, width), np.float64)
        if math.degrees(width / _EARTH_RADIUS_M) + float(np.abs(points[:, 1]).max()) > MAX_LATITUDE:
            problem = "the corridor reaches beyond 85.0511 degrees of latitude, where Web-Mercator tiles end"
            raise MissionError(source, (f"{problem}: make it narrower or move the route",))
        lengths = geod.line_lengths(*points.T) if len(points) > 1 else np.zeros(0)
        cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _PIECE_M)) + 1
        ends = [*cuts.tolist(), len(points) - 1]
        starts = [0, *cuts.tolist()]
        pieces += [points[start : end + 1] for start, end in zip(starts, ends, strict=True)]
    return pieces


def _fine(geod: pyproj.Geod, line: tuple[Position, ...], width: float) -> list[tuple[float, float]]:
    """Returns the positions of a line as (lon, lat), with points between them so that each edge is straight enough."""
    fine = [(line[0][1], line[0][0])]
    for (lat_a, lon_a), (lat_b, lon_b) in pairwise(line):
        azimuth, _, length = geod.inv(lon_a, lat_a, lon_b, lat_b)
        # The highest latitude that the geodesic can reach, by Clairaut's relation on the sphere. _edge adds a degree of
        # margin for the ellipsoid.
        apex = math.degrees(math.acos(min(1.0, abs(math.sin(math.radians(azimuth)) * math.cos(math.radians(lat_a))))))
        latitude = apex if length > _PIECE_M else max(abs(lat_a), abs(lat_b))
        parts = math.ceil(length / _edge(width, latitude))
        if parts > 1:
            fine += geod.npts(lon_a, lat_a, lon_b, lat_b, parts - 1)
        fine.append((lon_b, lat_b))
    return fine


def _max_bulge(width: float) -> float:
    """Returns how far an edge may bulge, metres."""
    return max(width * 5e-4, 0.01)


def _edge(width: float, latitude: float) -> float:
    """Returns the longest edge, metres, that does not bulge more than _max_bulge. At most _PIECE_M."""
    slope = math.tan(math.radians(min(latitude + 1.0, MAX_LATITUDE)))
    return min(_PIECE_M, math.sqrt(7.0 * _EARTH_RADIUS_M * _max_bulge(width) / max(slope, 0.05)))


def _union(pieces: list[Points], width: float) -> list[Polygon]:
    """Returns the union of the buffered pieces as polygons in degrees, clipped to the map."""
    import shapely  # noqa: PLC0415 - see _length

    radius = (width * (1.0 + 2e-5) + 2.0 * _max_bulge(width) + 0.01) / math.cos(math.pi / (4 * _QUADRANT))
    parts = [_buffer(piece, radius, width) for piece in pieces]
    # A part that crosses the antimeridian has longitudes beyond 180. A copy shifted by 360 degrees covers the other
    # side.
    parts += [_shifted(part, 360.0) for part in parts if part.bounds[0] < -180.0]
    parts += [_shifted(part, -360.0) for part in parts if part.bounds[2] > 180.0]
    union = shapely.union_all(parts).intersection(shapely.box(-180.0, -MAX_LATITUDE, 180.0, MAX_LATITUDE))
    return [part for part in shapely.get_parts(shapely.set_precision(union, _GRID)).tolist() if part.area > 0.0]


def _buffer(piece: Points, radius: float, width: float) -> BaseGeometry:
    """Returns the shape within `radius` metres of a piece, in degrees.

    width: the corridor's width, metres. It decides how finely edges are split.
    """
    import numpy as np  # noqa: PLC0415 - see _length
    import pyproj  # noqa: PLC0415
    import shapely  # noqa: PLC0415

    lon, lat = piece[0].tolist()
    plane = pyproj.Proj(proj="aeqd", ellps="WGS84", lat_0=lat, lon_0=lon)
    flat = np.column_stack(plane(*piece.T))
    # Buffer each leg separately: shapely would simplify a line of several legs first, by up to a hundredth of the
    # radius.
    legs: list[BaseGeometry] = [shapely.LineString(leg) for leg in pairwise(flat)] or [shapely.Point(flat[0])]
    buffered = shapely.buffer(shapely.GeometryCollection(legs), radius, quad_segs=_QUADRANT)
    fine = shapely.segmentize(buffered, _edge(width, float(np.abs(piece[:, 1]).max())))

    def to_degrees(points: Points) -> Points:
        east, north = plane(points[:, 0], points[:, 1], inverse=True)
        return np.column_stack([(np.asarray(east) - lon + 180.0) % 360.0 - 180.0 + lon, north])

    return shapely.transform(fine, to_degrees)


def _shifted(shape: BaseGeometry, degrees: float) -> BaseGeometry:
    import numpy as np  # noqa: PLC0415 - see _length
    import shapely  # noqa: PLC0415

    return shapely.transform(shape, lambda points: points + np.array([degrees, 0.0]))
