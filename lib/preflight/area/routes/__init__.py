"""Reads flight plans into a `Route`: the lines to fly, and the start of the flight.

Formats: QGroundControl `.plan`, ArduPilot `.waypoints` (QGC WPL 110), KML and KMZ line strings, GeoJSON lines. The
content decides the format. A suffix that contradicts the content is an error, because one of the two must be wrong.

value      the `Route`, and checks that all formats share
mavlink    mission items, for `plan` and `waypoints`
plan       QGroundControl plans
waypoints  ArduPilot waypoint files
kml        KML and KMZ
geojson    GeoJSON lines
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePath

from preflight.area.routes import geojson, kml, plan, waypoints
from preflight.area.routes.value import Datum, Position, Route, Waypoint
from preflight.errors import MissionError

__all__ = ["MAX_BYTES", "Datum", "Position", "Route", "Waypoint", "parse_route"]

MAX_BYTES = 32 << 20
"""The largest file that is read. A flight plan has a few hundred kilobytes; a larger file is of another kind."""

_MAX_PROBLEMS = 20
_PLAN, _WPL, _KML, _KMZ, _GEOJSON = (
    "a QGroundControl plan",
    "an ArduPilot waypoint file (QGC WPL)",
    "KML",
    "KMZ",
    "GeoJSON",
)
_SUFFIXES = {
    ".plan": (_PLAN,),
    ".waypoints": (_WPL,),
    ".kml": (_KML,),
    ".kmz": (_KMZ,),
    ".geojson": (_GEOJSON,),
    ".json": (_GEOJSON, _PLAN),
}
_READERS: dict[str, Callable[[bytes, list[str]], Route | None]] = {
    _PLAN: plan.read,
    _WPL: waypoints.read,
    _KML: kml.read_kml,
    _KMZ: kml.read_kmz,
    _GEOJSON: geojson.read,
}


def parse_route(content: bytes, name: str, source: str = "area.route") -> Route:
    """Reads a flight plan.

    Args:
        content: the whole file.
        name: the file name. Only its suffix is used.
        source: the name of the input in error messages.

    Returns:
        The route, with positions in WGS84 degrees.

    Raises:
        MissionError: the file is not a flight plan that can be used. The error lists the problems that were found, each
            with its place in the file, and at most 20 of them.
    """
    problems: list[str] = []
    kind = _kind(content, PurePath(name).suffix.lower(), problems)
    route = _READERS[kind](content, problems) if kind else None
    if not problems and route is not None and len({position for line in route.lines for position in line}) < 2:
        problems.append("the route has zero length, because all its positions are equal: give the area as a bbox")
    if problems or route is None:
        distinct = tuple(dict.fromkeys(problems))
        omitted = len(distinct) - _MAX_PROBLEMS
        raise MissionError(
            source, distinct[:_MAX_PROBLEMS] + ((f"and {omitted} more problems",) if omitted > 0 else ())
        )
    return route


def _kind(content: bytes, suffix: str, problems: list[str]) -> str | None:
    """Returns the format. Returns None and adds the reason to `problems` if none fits or the suffix contradicts it."""
    if len(content) > MAX_BYTES:
        problems.append(
            f"the file is larger than {MAX_BYTES >> 20} MiB, too large for a flight plan: name another file"
        )
        return None
    kind = _by_content(content)
    expected = _SUFFIXES.get(suffix, (kind,))
    if kind is None:
        wanted = " or ".join(name for name in expected if name) or ", ".join(_READERS)
        problems.append(f"the content is not a flight plan in a supported format: give {wanted}")
    elif kind not in expected:
        problems.append(
            f"the name ends in {suffix} ({expected[0]}), but the content is {kind}: check that this is the right file"
        )
    else:
        return kind
    return None


def _by_content(content: bytes) -> str | None:
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    prefixes = ((_KMZ, b"PK\x03\x04"), (_WPL, b"QGC WPL"), (_KML, b"<"), (_KML, b"\xff\xfe<"), (_KML, b"\xfe\xff\x00<"))
    for kind, prefix in prefixes:
        if start.startswith(prefix):
            return kind
    return _json_kind(content) if start.startswith(b"{") else None


def _json_kind(content: bytes) -> str | None:
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        # Choose the format that was most likely meant: its reader then reports what is wrong.
        return _PLAN if b'"mission"' in content else _GEOJSON
    if "fileType" in document or "mission" in document:
        return _PLAN
    return _GEOJSON if "type" in document else None
