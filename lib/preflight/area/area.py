"""The area a mission asks for, and the exact tiles that cover it.

An area is one box, the polygons of a GeoJSON file (RFC 7946: coordinates are longitude, latitude; edges are straight
in degrees), or the polygons around a route (preflight.area.corridor). A tile belongs to an area when their interiors share a
point; a tile that only touches the border does not.
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

# A tuple: what the file holds in its place need not be hashable.
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")
_SPLIT = "split it at the 180th meridian into two parts of a MultiPolygon (RFC 7946, 3.1.9)"


@dataclass(frozen=True, slots=True)
class Area:
    """A box, or polygons in a normal form: outer ring first, then holes. Made only by the functions of this module.

    made_from: canonical JSON of what the polygons were computed from; None where they are as they were given.
    """

    box: BoundingBox | None
    polygons: tuple[tuple[Ring, ...], ...] = ()
    made_from: str | None = None

    def digest(self) -> str:
        """SHA-256, hex, of a canonical form: equal for the same polygons in another order or from another vertex.

        Computed polygons may differ in their last digits between machines: what they were made from stands for them.
        """
        if self.made_from is not None:
            return hashlib.sha256(self.made_from.encode()).hexdigest()
        form: dict[str, Any] = {"polygons": self.polygons}
        if self.box is not None:
            form = {"bbox": [self.box.lat_min, self.box.lon_min, self.box.lat_max, self.box.lon_max]}
        return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def boxes(self) -> tuple[BoundingBox, ...]:
        """One box around each part."""
        if self.box is not None:
            return (self.box,)
        return tuple(ring_box(polygon[0]) for polygon in self.polygons)


def bbox_problems(box: BoundingBox) -> tuple[str, ...]:
    """Everything that is wrong with a box, as sentences; empty when it can be covered."""
    values = (box.lat_min, box.lon_min, box.lat_max, box.lon_max)
    if not all(math.isfinite(value) for value in values):
        return ("every bound must be a finite number of degrees",)
    problems = [
        f"{corner}: {problem}"
        for corner, lat, lon in (("lat_min, lon_min", *values[:2]), ("lat_max, lon_max", *values[2:]))
        for problem in point_problems(lat, lon)
    ]
    if problems:
        return tuple(problems)
    if box.lat_min == box.lat_max or box.lon_min == box.lon_max:
        problems.append("the box has zero size: its opposite bounds are equal")
    if box.lat_min > box.lat_max:
        problems.append(f"lat_min {box.lat_min} is north of lat_max {box.lat_max}: exchange them")
    if box.lon_min > box.lon_max:
        problems.append(
            f"lon_min {box.lon_min} is east of lon_max {box.lon_max}: exchange them, or, if the area crosses the "
            f"antimeridian, give it as a polygon and {_SPLIT}"
        )
    return tuple(problems)


def area_from_bbox(box: BoundingBox, source: str = "area.bbox") -> Area:
    """An area of one box.

    Raises:
        MissionError: it has zero size, is out of range, swapped, or crosses the antimeridian; `source` names the place.
    """
    problems = bbox_problems(box)
    if problems:
        raise MissionError(source, problems)
    return Area(BoundingBox(float(box.lat_min), float(box.lon_min), float(box.lat_max), float(box.lon_max)))


def area_from_geojson(content: bytes | str, source: str = "area.polygon") -> Area:
    """An area of the polygons in a GeoJSON text: a Polygon, MultiPolygon, Feature, FeatureCollection or collection.

    Other geometries beside polygons are refused, not left out. Heights are ignored.

    Raises:
        MissionError: with every problem found; `source` names the file.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MissionError(source, (f"this is not JSON: {error}",)) from error
    problems: list[str] = []
    shapes: list[Polygon] = []
    for where, rings in _find_polygons(document, "", problems):
        shape = _read_polygon(where, rings, problems)
        if shape is not None:
            shapes.append(shape)
    if not problems and not shapes:
        problems.append("there is no polygon in it: draw the area as a Polygon or MultiPolygon")
    if problems:
        raise MissionError(source, tuple(problems))
    return Area(None, tuple(sorted({_normal_form(shape) for shape in shapes})))


def area_from_shapes(shapes: Iterable[Polygon], made_from: str) -> Area:
    """An area of valid shapely polygons in (longitude, latitude) degrees; `made_from` as in Area."""
    return Area(None, tuple(sorted({_normal_form(shape) for shape in shapes})), made_from)


def cover(area: Area, zooms: Iterable[int]) -> Cover:
    """The exact tiles that share interior with an area at each zoom.

    Raises:
        ValueError: a zoom outside 0 to 24.
    """
    levels = sorted(set(zooms))
    if any(zoom < 0 or zoom > MAX_ZOOM for zoom in levels):
        raise ValueError(f"zoom levels go from 0 to {MAX_ZOOM}, not {levels}")
    row_ranges: list[RowRange] = []
    ranges: list[TileRange] = []
    if area.box is not None:
        for zoom in levels:
            found = box_range(area.box, zoom)
            ranges.append(found)
            row_ranges.extend(RowRange(zoom, y, *found.x_range) for y in range(found.y_range[0], found.y_range[1] + 1))
        return Cover(tuple(row_ranges), tuple(ranges))
    for polygon in area.polygons:
        part = polygon_row_ranges(polygon, levels)
        row_ranges.extend(part)
        ranges.extend(hull(zoom, [row_range for row_range in part if row_range.zoom == zoom]) for zoom in levels)
    return Cover(merge_row_ranges(row_ranges), disjoint(ranges, levels))


def point_problems(
    lat: float, lon: float, *, beyond: str = f"if the area crosses the antimeridian, {_SPLIT}"
) -> list[str]:
    """What is wrong with a position, degrees, as sentences. beyond: what to do about a longitude beyond 180 degrees."""
    if abs(lat) > 90.0 and abs(lon) <= 90.0 and abs(lat) <= 180.0:
        return [f"latitude {lat} is beyond 90 degrees: latitude and longitude look swapped"]
    problems = []
    if abs(lat) > 90.0:
        problems.append(f"latitude {lat} is beyond 90 degrees")
    elif abs(lat) > MAX_LATITUDE:
        problems.append(f"latitude {lat} is beyond 85.0511 degrees, where Web-Mercator tiles end")
    if abs(lon) > 180.0:
        problems.append(f"longitude {lon} is beyond 180 degrees; {beyond}")
    return problems


def _find_polygons(node: object, where: str, problems: list[str]) -> Iterator[tuple[str, object]]:
    """(place in the file, rings) of each polygon below a GeoJSON object; what cannot be read becomes a problem."""
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
        problems.append(f"{where or 'the file'}: a polygon is needed, this is {kind or 'no GeoJSON geometry'}")


def _read_polygon(where: str, rings: object, problems: list[str]) -> Polygon | None:
    """A valid shapely polygon, or None with the reasons added to `problems`."""
    import shapely  # noqa: PLC0415 - a box needs no shapely

    try:
        points = _read_rings(rings)
        if not all(math.isfinite(value) for ring in points for point in ring for value in point):
            problems.append(f"{where}: every coordinate must be a finite number of degrees")
            return None
        shape = shapely.Polygon(points[0], points[1:])
    except (TypeError, ValueError, IndexError, KeyError, shapely.errors.GEOSException):
        problems.append(f"{where}: the coordinates are no rings of at least four (longitude, latitude) pairs")
        return None
    found = [problem for ring in points for lon, lat in ring for problem in point_problems(lat, lon)]
    if any(abs(a[0] - b[0]) > 180.0 for ring in points for a, b in pairwise(ring)):
        found.append(f"an edge row_ranges more than 180 degrees of longitude; if it crosses the antimeridian, {_SPLIT}")
    if not found and shape.convex_hull.area == 0.0:
        found.append("the polygon has zero size")
    if not found and not shape.is_valid:
        found.append(f"the polygon crosses itself or is not simple ({shapely.is_valid_reason(shape)})")
    # A few lines are enough: a swapped file has the same fault in every vertex.
    problems.extend(f"{where}: {problem}" for problem in list(dict.fromkeys(found))[:3])
    return None if found else shape


def _read_rings(rings: Any) -> list[list[tuple[float, float]]]:  # noqa: ANN401 - whatever the file holds
    return [[(float(point[0]), float(point[1])) for point in ring] for ring in rings]


def _normal_form(shape: Polygon) -> tuple[Ring, ...]:
    """Rings turned and started the same way whatever the file did."""
    normal = cast("Polygon", shape.normalize())
    rings = (normal.exterior, *normal.interiors)
    return tuple(tuple((float(point[0]), float(point[1])) for point in ring.coords) for ring in rings)
