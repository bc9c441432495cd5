"""The area of a mission, and the exact tiles that cover it.

An area is one of three things: a box, the polygons of a GeoJSON file, or the polygons around a route
(preflight.area.corridor). In GeoJSON (RFC 7946) coordinates are longitude, latitude, and edges are straight in degrees.
A tile belongs to an area if their interiors overlap. A tile that only touches the border does not belong to it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from preflight.area.tile_cover import (
    Cover,
    Ring,
    RowRange,
    TileRange,
    box_range,
    disjoint,
    hull,
    merge_row_ranges,
    polygon_row_ranges,
    ring_box,
)
from preflight.area.web_mercator import MAX_LATITUDE, MAX_ZOOM
from preflight.errors import MissionError
from preflight.records import BoundingBox

if TYPE_CHECKING:
    from shapely import Polygon

__all__ = [
    "Area",
    "Cover",
    "RowRange",
    "TileRange",
    "area_from_bbox",
    "area_from_geojson",
    "area_from_shapes",
    "bbox_problems",
    "cover",
    "point_problems",
]

# A tuple and not a set: the value from the file that is compared with it may be unhashable.
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")
_SPLIT = "split it at the 180th meridian into two parts of a MultiPolygon (RFC 7946, 3.1.9)"


@dataclass(frozen=True, slots=True)
class Area:
    """A box, or polygons in a normal form. Only the functions of this module create it.

    box: the area, or None if it has polygons.
    polygons: for each polygon the outer ring, then its holes.
    made_from: canonical JSON of the input that the polygons were computed from. None if the polygons themselves were
    given.
    """

    box: BoundingBox | None
    polygons: tuple[tuple[Ring, ...], ...] = ()
    made_from: str | None = None

    def digest(self) -> str:
        """Returns the SHA-256 of a canonical form as hex digits.

        The order of the polygons, the first vertex and the direction of a ring do not change it. For computed polygons
        it hashes `made_from`, because the last digits of such polygons may differ between machines.
        """
        if self.made_from is not None:
            return hashlib.sha256(self.made_from.encode()).hexdigest()
        form: dict[str, Any] = {"polygons": self.polygons}
        if self.box is not None:
            form = {"bbox": [self.box.lat_min, self.box.lon_min, self.box.lat_max, self.box.lon_max]}
        return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def boxes(self) -> tuple[BoundingBox, ...]:
        """Returns the bounding box of each part: of the box itself, or of each polygon."""
        if self.box is not None:
            return (self.box,)
        return tuple(ring_box(polygon[0]) for polygon in self.polygons)


def bbox_problems(box: BoundingBox) -> tuple[str, ...]:
    """Returns every fault of a box as a sentence. The result is empty if tiles can cover the box."""
    values = (box.lat_min, box.lon_min, box.lat_max, box.lon_max)
    if not all(math.isfinite(value) for value in values):
        return ("a bound is not a finite number: give all four bounds in degrees",)
    problems = [
        f"{corner}: {problem}"
        for corner, lat, lon in (("lat_min, lon_min", *values[:2]), ("lat_max, lon_max", *values[2:]))
        for problem in point_problems(lat, lon)
    ]
    if problems:
        return tuple(problems)
    if box.lat_min == box.lat_max or box.lon_min == box.lon_max:
        problems.append("the box has zero size, because two opposite bounds are equal: correct one of them")
    if box.lat_min > box.lat_max:
        problems.append(f"lat_min {box.lat_min} is north of lat_max {box.lat_max}: swap them")
    if box.lon_min > box.lon_max:
        problems.append(
            f"lon_min {box.lon_min} is east of lon_max {box.lon_max}: swap them; if the area crosses the antimeridian, "
            f"give it as a polygon and {_SPLIT}"
        )
    return tuple(problems)


def area_from_bbox(box: BoundingBox, source: str = "area.bbox") -> Area:
    """Returns an area that is one box.

    Args:
        box: the bounds, degrees.
        source: the name of the input in error messages.

    Raises:
        MissionError: the box has zero size, is out of range, has swapped bounds, or crosses the antimeridian.
    """
    problems = bbox_problems(box)
    if problems:
        raise MissionError(source, problems)
    return Area(BoundingBox(float(box.lat_min), float(box.lon_min), float(box.lat_max), float(box.lon_max)))


def area_from_geojson(content: bytes | str, source: str = "area.polygon") -> Area:
    """Returns an area that consists of the polygons in a GeoJSON text.

    Reads a Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection. Any other geometry is an error: it
    is never skipped. Heights are ignored.

    Args:
        content: the text of the file.
        source: the name of the file in error messages.

    Raises:
        MissionError: the text is not valid. The error lists up to three problems of each polygon.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MissionError(source, (f"the file is not JSON: {error}",)) from error
    problems: list[str] = []
    shapes: list[Polygon] = []
    for where, rings in _find_polygons(document, "", problems):
        shape = _read_polygon(where, rings, problems)
        if shape is not None:
            shapes.append(shape)
    if not problems and not shapes:
        problems.append("the file holds no polygon: draw the area as a Polygon or MultiPolygon")
    if problems:
        raise MissionError(source, tuple(problems))
    return Area(None, tuple(sorted({_normal_form(shape) for shape in shapes})))


def area_from_shapes(shapes: Iterable[Polygon], made_from: str) -> Area:
    """Returns an area that consists of valid shapely polygons.

    shapes: in (longitude, latitude) degrees. made_from: as in `Area`.
    """
    return Area(None, tuple(sorted({_normal_form(shape) for shape in shapes})), made_from)


def cover(area: Area, zooms: Iterable[int]) -> Cover:
    """Returns exactly the tiles whose interior overlaps that of an area, at each of the zooms.

    Raises:
        ValueError: a zoom is not between 0 and 24.
    """
    levels = sorted(set(zooms))
    if any(zoom < 0 or zoom > MAX_ZOOM for zoom in levels):
        raise ValueError(f"zoom levels go from 0 to {MAX_ZOOM}, not {levels}")
    row_ranges: list[RowRange] = []
    ranges: list[TileRange] = []
    if area.box is not None:
        for zoom in levels:
            tiles = box_range(area.box, zoom)
            ranges.append(tiles)
            row_ranges.extend(RowRange(zoom, y, *tiles.x_range) for y in range(tiles.y_range[0], tiles.y_range[1] + 1))
        return Cover(tuple(row_ranges), tuple(ranges))
    for polygon in area.polygons:
        part = polygon_row_ranges(polygon, levels)
        row_ranges.extend(part)
        ranges.extend(hull(zoom, [row_range for row_range in part if row_range.zoom == zoom]) for zoom in levels)
    return Cover(merge_row_ranges(row_ranges), disjoint(ranges, levels))


def point_problems(
    lat: float, lon: float, *, beyond: str = f"if the area crosses the antimeridian, {_SPLIT}"
) -> list[str]:
    """Returns the faults of a position (degrees) as sentences.

    beyond: the advice that follows if the longitude is beyond 180 degrees.
    """
    if abs(lat) > 90.0 and abs(lon) <= 90.0 and abs(lat) <= 180.0:
        return [f"latitude {lat} is beyond 90 degrees: latitude and longitude look swapped"]
    problems = []
    if abs(lat) > 90.0:
        problems.append(f"latitude {lat} is beyond 90 degrees")
    elif abs(lat) > MAX_LATITUDE:
        problems.append(f"latitude {lat} is beyond 85.0511 degrees, the limit of Web-Mercator tiles")
    if abs(lon) > 180.0:
        problems.append(f"longitude {lon} is beyond 180 degrees; {beyond}")
    return problems


def _find_polygons(node: object, where: str, problems: list[str]) -> Iterator[tuple[str, object]]:
    """Yields (path in the file, rings) of each polygon in a GeoJSON object. Adds what it cannot read to `problems`."""
    members: dict[str, Any] = node if isinstance(node, dict) else {}
    kind = members.get("type")
    if kind == "Polygon":
        yield where or "Polygon", members.get("coordinates")
    elif kind == "MultiPolygon" and isinstance(members.get("coordinates"), list):
        for number, rings in enumerate(members["coordinates"]):
            yield f"{where or 'MultiPolygon'}[{number}]", rings
    elif kind == "Feature":
        yield from _find_polygons(members.get("geometry"), where or "Feature", problems)
    elif kind in _COLLECTIONS:
        key = "features" if kind == "FeatureCollection" else "geometries"
        listed = members.get(key)
        for number, member in enumerate(listed if isinstance(listed, list) else []):
            yield from _find_polygons(member, f"{where}{'.' if where else ''}{key}[{number}]", problems)
    else:
        problems.append(f"{where or 'the file'}: this must be a polygon, but it is {kind or 'not a GeoJSON geometry'}")


def _read_polygon(where: str, rings: object, problems: list[str]) -> Polygon | None:
    """Returns a valid shapely polygon. Returns None and adds the reasons to `problems` if the rings are not valid."""
    import shapely  # noqa: PLC0415 - only polygons need shapely

    try:
        points = _read_rings(rings)
        if not all(math.isfinite(value) for ring in points for point in ring for value in point):
            problems.append(f"{where}: every coordinate must be a finite number of degrees")
            return None
        shape = shapely.Polygon(points[0], points[1:])
    except (TypeError, ValueError, IndexError, KeyError, shapely.errors.GEOSException):
        problems.append(f"{where}: the coordinates must be rings of at least four (longitude, latitude) pairs")
        return None
    faults = [problem for ring in points for lon, lat in ring for problem in point_problems(lat, lon)]
    if any(abs(a[0] - b[0]) > 180.0 for ring in points for a, b in pairwise(ring)):
        faults.append(f"an edge spans more than 180 degrees of longitude; if it crosses the antimeridian, {_SPLIT}")
    if not faults and shape.convex_hull.area == 0.0:
        faults.append("the polygon has zero size: draw it with at least three corners that do not lie on one line")
    if not faults and not shape.is_valid:
        faults.append(
            f"the polygon crosses itself or is not simple ({shapely.is_valid_reason(shape)}): correct its vertices"
        )
    # Three messages are enough: a file with swapped coordinates has the same fault in every vertex.
    problems.extend(f"{where}: {problem}" for problem in list(dict.fromkeys(faults))[:3])
    return None if faults else shape


def _read_rings(rings: Any) -> list[list[tuple[float, float]]]:  # noqa: ANN401 - any JSON value
    return [[(float(point[0]), float(point[1])) for point in ring] for ring in rings]


def _normal_form(shape: Polygon) -> tuple[Ring, ...]:
    """Returns the rings with a direction and a first vertex that do not depend on the file."""
    normal = cast("Polygon", shape.normalize())
    rings = (normal.exterior, *normal.interiors)
    return tuple(tuple((float(point[0]), float(point[1])) for point in ring.coords) for ring in rings)
