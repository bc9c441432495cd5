"""The area around a route: every point within a distance of its lines, on the WGS84 ellipsoid.

Legs are geodesics. They are cut into pieces short enough for a plane, the pieces near each other are buffered in an
azimuthal equidistant projection about one of them (pyproj, WGS84), and the parts are united in degrees.

The polygons hold every point within corridor_m of the route as it was written, and none farther from it than
corridor_m * 1.002 + 0.06 m, for:
- positions are rounded to 1e-7 degrees first (MAVLink's own resolution; at most 8 mm), so that the digest is canonical;
- round ends are circumscribed 128-sided polygons (0.03 %);
- an edge straight in the plane or along a geodesic bulges in degrees by length**2 * tan(latitude) / (7 * earth radius) at most:
  edges are cut until that is 0.05 % of the width or 1 cm;
- distances in the projection, at most 70 km from its centre, are off by (70 km / earth radius)**2 / 6, 0.002 %.
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

# Raised by hand when the same route and width would give other polygons than before.
CORRIDOR_VERSION = 1

WIDEST_M = 50_000.0
"""The greatest corridor_m: beyond it the projection's error would grow past the stated bound."""

LONGEST_M = 5_000_000.0
"""The longest route, metres. A longer one has a wrong coordinate in it."""

_DECIMALS_IN, _GRID = 7, 1e-9
_EARTH_RADIUS_M = 6_356_752.0  # the smaller one: a bound
_REACH_M = 10_000.0
_QUADRANT = 32  # segments of a quarter of a circle


def corridor(route: Route, corridor_m: float, source: str = "area.route") -> Area:
    """The area within corridor_m metres of a route. Crossings of itself and of the antimeridian are allowed.

    Raises:
        MissionError: the width or the length is absurd, or the corridor leaves the map; `source` names the place.
    """
    if not 1.0 <= corridor_m <= WIDEST_M:
        raise MissionError(source, (f"corridor_m {corridor_m:g} is not between 1 and {WIDEST_M:g} metres",))
    lines = _canonical(route)
    length = _length(lines)
    if length > LONGEST_M:
        raise MissionError(
            source,
            (f"the route is {length / 1000:,.0f} km long, more than {LONGEST_M / 1000:,.0f}: a position is wrong",),
        )
    form = {"version": CORRIDOR_VERSION, "corridor_m": float(corridor_m), "lines": lines}
    made_from = json.dumps(form, sort_keys=True, separators=(",", ":"))
    return area_from_shapes(_union(_pieces(lines, corridor_m, source), corridor_m), made_from)


def _canonical(route: Route) -> list[tuple[Position, ...]]:
    """The lines, rounded, without repeated positions, in an order that does not depend on which way they are flown."""
    found = set()
    for line in route.lines:
        # Adding 0.0 makes -0.0 a plain zero; 180 W is 180 E.
        rounded = [(round(lat, _DECIMALS_IN) + 0.0, round(lon, _DECIMALS_IN) + 0.0) for lat, lon in line]
        east = [(lat, 180.0 if lon == -180.0 else lon) for lat, lon in rounded]
        plain = tuple(place for number, place in enumerate(east) if number == 0 or place != east[number - 1])
        found.add(min(plain, plain[::-1]))
    return sorted(found)


def _length(lines: list[tuple[Position, ...]]) -> float:
    """Metres, along geodesics."""
    import pyproj  # noqa: PLC0415 - a box or a polygon needs no geodesics

    geod = pyproj.Geod(ellps="WGS84")
    return sum(float(geod.line_length([lon for _, lon in line], [lat for lat, _ in line])) for line in lines)


def _pieces(lines: list[tuple[Position, ...]], width: float, source: str) -> list[Points]:
    """The lines cut after every _REACH_M of their length: (n, 2) of lon, lat; each begins where the one before ends."""
    import numpy as np  # noqa: PLC0415 - see _length
    import pyproj  # noqa: PLC0415

    geod = pyproj.Geod(ellps="WGS84")
    pieces: list[Points] = []
    for line in lines:
        points = np.array(_fine(geod, line, width), np.float64)
        if math.degrees(width / _EARTH_RADIUS_M) + float(np.abs(points[:, 1]).max()) > MAX_LATITUDE:
            raise MissionError(
                source, ("the corridor reaches beyond 85.0511 degrees of latitude, where Web-Mercator tiles end",)
            )
        lengths = geod.line_lengths(*points.T) if len(points) > 1 else np.zeros(0)
        cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _REACH_M)) + 1
        ends = [*cuts.tolist(), len(points) - 1]
        starts = [0, *cuts.tolist()]
        pieces += [points[start : end + 1] for start, end in zip(starts, ends, strict=True)]
    return pieces


def _fine(geod: pyproj.Geod, line: tuple[Position, ...], width: float) -> list[tuple[float, float]]:
    """The positions of a line, and as many between them as keep each edge straight enough; (lon, lat)."""
    fine = [(line[0][1], line[0][0])]
    for (lat_a, lon_a), (lat_b, lon_b) in pairwise(line):
        azimuth, _, length = geod.inv(lon_a, lat_a, lon_b, lat_b)
        # How near a pole the geodesic may come, by Clairaut on the sphere; _edge leaves a degree for the ellipsoid.
        apex = math.degrees(math.acos(min(1.0, abs(math.sin(math.radians(azimuth)) * math.cos(math.radians(lat_a))))))
        steep = apex if length > _REACH_M else max(abs(lat_a), abs(lat_b))
        parts = math.ceil(length / _edge(width, steep))
        if parts > 1:
            fine += geod.npts(lon_a, lat_a, lon_b, lat_b, parts - 1)
        fine.append((lon_b, lat_b))
    return fine


def _slack(width: float) -> float:
    """How much an edge may bulge, metres."""
    return max(width * 5e-4, 0.01)


def _edge(width: float, latitude: float) -> float:
    """The longest edge that bulges no more than that, metres; never more than _REACH_M."""
    steep = math.tan(math.radians(min(latitude + 1.0, MAX_LATITUDE)))
    return min(_REACH_M, math.sqrt(7.0 * _EARTH_RADIUS_M * _slack(width) / max(steep, 0.05)))


def _union(pieces: list[Points], width: float) -> list[Polygon]:
    """What lies around the pieces, as polygons on the map in degrees."""
    import shapely  # noqa: PLC0415 - see _length

    radius = (width * (1.0 + 2e-5) + 2.0 * _slack(width) + 0.01) / math.cos(math.pi / (4 * _QUADRANT))
    parts = [_buffer(piece, radius, width) for piece in pieces]
    # Longitudes go on beyond 180 where a part does; what lies there belongs at the other end of the map.
    parts += [_turned(part, 360.0) for part in parts if part.bounds[0] < -180.0]
    parts += [_turned(part, -360.0) for part in parts if part.bounds[2] > 180.0]
    whole = shapely.union_all(parts).intersection(shapely.box(-180.0, -MAX_LATITUDE, 180.0, MAX_LATITUDE))
    return [part for part in shapely.get_parts(shapely.set_precision(whole, _GRID)).tolist() if part.area > 0.0]


def _buffer(piece: Points, radius: float, width: float) -> BaseGeometry:
    """What lies within `radius` metres of a piece, in degrees."""
    import numpy as np  # noqa: PLC0415 - see _length
    import pyproj  # noqa: PLC0415
    import shapely  # noqa: PLC0415

    lon, lat = piece[0].tolist()
    plane = pyproj.Proj(proj="aeqd", ellps="WGS84", lat_0=lat, lon_0=lon)
    flat = np.column_stack(plane(*piece.T))
    # Leg by leg: a line of several legs would be simplified before it is buffered, by up to a hundredth of the radius.
    legs: list[BaseGeometry] = [shapely.LineString(leg) for leg in pairwise(flat)] or [shapely.Point(flat[0])]
    around = shapely.buffer(shapely.GeometryCollection(legs), radius, quad_segs=_QUADRANT)
    fine = shapely.segmentize(around, _edge(width, float(np.abs(piece[:, 1]).max())))

    def to_degrees(points: Points) -> Points:
        east, north = plane(points[:, 0], points[:, 1], inverse=True)
        return np.column_stack([(np.asarray(east) - lon + 180.0) % 360.0 - 180.0 + lon, north])

    return shapely.transform(fine, to_degrees)


def _turned(shape: BaseGeometry, degrees: float) -> BaseGeometry:
    import numpy as np  # noqa: PLC0415 - see _length
    import shapely  # noqa: PLC0415

    return shapely.transform(shape, lambda points: points + np.array([degrees, 0.0]))
