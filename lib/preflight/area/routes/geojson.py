"""GeoJSON lines (RFC 7946): coordinates are longitude, latitude and, if given, metres above the WGS84 ellipsoid.

Points are left out: they mark places, and nothing says in which order they are flown. Other shapes are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from preflight.area.routes.value import Route, Waypoint, json_object, route_of, waypoint

# Tuples: what the file holds in their place need not be hashable.
_MARKS = ("Point", "MultiPoint")
_COLLECTIONS = ("FeatureCollection", "GeometryCollection")
_DEEPEST = 32


def read(content: bytes, problems: list[str]) -> Route | None:
    """The lines of a LineString, MultiLineString, Feature, FeatureCollection or collection; None with every reason."""
    document = json_object(content, problems)
    if problems:
        return None
    lines = [_line(where, points, problems) for where, points in _find(document, "", problems, 0)]
    if not lines and not problems:
        problems.append("there is no line in it: draw the route as a LineString")
    return route_of(lines, problems)


def _find(node: object, where: str, problems: list[str], depth: int) -> Iterator[tuple[str, object]]:
    """(place in the file, coordinates) of each line below an object."""
    members: dict[str, object] = node if isinstance(node, dict) else {}
    kind, coordinates = members.get("type"), members.get("coordinates")
    dot = "." if where else ""
    if kind in _MARKS:
        return
    if kind == "LineString":
        yield where or "LineString", coordinates
    elif kind == "MultiLineString" and isinstance(coordinates, list):
        for number, points in enumerate(coordinates):
            yield f"{where or 'MultiLineString'}[{number}]", points
    elif kind == "Feature" and depth < _DEEPEST:
        yield from _find(members.get("geometry"), where or "Feature", problems, depth + 1)
    elif kind in _COLLECTIONS and depth < _DEEPEST:
        key = "features" if kind == "FeatureCollection" else "geometries"
        listed = members.get(key)
        for number, member in enumerate(listed if isinstance(listed, list) else []):
            yield from _find(member, f"{where}{dot}{key}[{number}]", problems, depth + 1)
    else:
        problems.append(f"{where or 'the file'}: a line is needed, this is {kind or 'no GeoJSON geometry'}")


def _line(where: str, points: object, problems: list[str]) -> list[Waypoint]:
    if not isinstance(points, list) or len(points) < 2:
        problems.append(f"{where}: the coordinates are no list of two or more (longitude, latitude) pairs")
        return []
    found = []
    for number, point in enumerate(points):
        at = f"{where}[{number}]"
        if not isinstance(point, list) or len(point) < 2:
            problems.append(f"{at}: a position is [longitude, latitude] or [longitude, latitude, height]")
            continue
        place = waypoint(at, point[1], point[0], point[2] if len(point) > 2 else None, "ellipsoid", problems)
        found += [] if place is None else [place]
    return found
