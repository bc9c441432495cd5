"""Reads GeoJSON lines (RFC 7946). Coordinates are longitude, latitude and optionally metres above the WGS84 ellipsoid.

Points are ignored: they mark places, and their order of flight is unknown. Any other shape is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from preflight.area.routes.value import Route, Waypoint, json_object, route_of, waypoint

# Tuples and not sets: the values from the file that are compared with them may be unhashable.
_POINTS = ("Point", "MultiPoint")
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")
_MAX_DEPTH = 32


def read(content: bytes, problems: list[str]) -> Route | None:
    """Reads the lines of a LineString, MultiLineString, Feature, FeatureCollection or GeometryCollection.

    Returns None and adds every reason to `problems` if the file is not valid.
    """
    document = json_object(content, problems)
    if problems:
        return None
    lines = [_line(where, points, problems) for where, points in _find_lines(document, "", problems, 0)]
    if not lines and not problems:
        problems.append("the file holds no line: draw the route as a LineString")
    return route_of(lines, problems)


def _find_lines(node: object, where: str, problems: list[str], depth: int) -> Iterator[tuple[str, object]]:
    """Yields (path in the file, coordinates) of each line in an object. Adds any other shape to `problems`."""
    members: dict[str, object] = node if isinstance(node, dict) else {}
    kind, coordinates = members.get("type"), members.get("coordinates")
    dot = "." if where else ""
    if kind in _POINTS:
        return
    if kind == "LineString":
        yield where or "LineString", coordinates
    elif kind == "MultiLineString" and isinstance(coordinates, list):
        for number, points in enumerate(coordinates):
            yield f"{where or 'MultiLineString'}[{number}]", points
    elif kind == "Feature" and depth < _MAX_DEPTH:
        yield from _find_lines(members.get("geometry"), where or "Feature", problems, depth + 1)
    elif kind in _COLLECTIONS and depth < _MAX_DEPTH:
        key = "features" if kind == "FeatureCollection" else "geometries"
        listed = members.get(key)
        for number, member in enumerate(listed if isinstance(listed, list) else []):
            yield from _find_lines(member, f"{where}{dot}{key}[{number}]", problems, depth + 1)
    else:
        problems.append(f"{where or 'the file'}: this must be a line, but it is {kind or 'not a GeoJSON geometry'}")


def _line(where: str, points: object, problems: list[str]) -> list[Waypoint]:
    if not isinstance(points, list) or len(points) < 2:
        problems.append(f"{where}: the coordinates must be a list of at least two (longitude, latitude) pairs")
        return []
    line = []
    for number, point in enumerate(points):
        at = f"{where}[{number}]"
        if not isinstance(point, list) or len(point) < 2:
            problems.append(f"{at}: it must be [longitude, latitude] or [longitude, latitude, height]")
            continue
        position = waypoint(at, point[1], point[0], point[2] if len(point) > 2 else None, "ellipsoid", problems)
        line += [] if position is None else [position]
    return line
