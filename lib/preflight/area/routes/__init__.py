"""Flight plans, read into one value: the lines that are flown and where the flight starts.

Read: QGroundControl `.plan`, ArduPilot `.waypoints` (QGC WPL 110), KML and KMZ line strings, GeoJSON lines. The content
decides which it is; a suffix that says otherwise is refused, for one of the two is a mistake.
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
"""A flight plan is a few hundred kilobytes; more is another kind of file."""

_MOST_PROBLEMS = 20
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
    """The route in a file's content.

    Args:
        content: the whole file.
        name: its name; only the suffix is looked at.
        source: what the error calls it.

    Raises:
        MissionError: with every problem found, each with its place in the file.
    """
    problems: list[str] = []
    kind = _kind(content, PurePath(name).suffix.lower(), problems)
    route = _READERS[kind](content, problems) if kind else None
    if not problems and route is not None and len({position for line in route.lines for position in line}) < 2:
        problems.append("the route has zero length: all its positions are one; give the area as a bbox")
    if problems or route is None:
        found = tuple(dict.fromkeys(problems))
        rest = len(found) - _MOST_PROBLEMS
        raise MissionError(source, found[:_MOST_PROBLEMS] + ((f"and {rest} more problems",) if rest > 0 else ()))
    return route


def _kind(content: bytes, suffix: str, problems: list[str]) -> str | None:
    """Which format this is; None with the reason in `problems`."""
    if len(content) > MAX_BYTES:
        problems.append(f"the file is larger than {MAX_BYTES >> 20} MiB; this is no flight plan")
        return None
    kind = _by_content(content)
    named = _SUFFIXES.get(suffix, (kind,))
    if kind is None:
        wanted = " or ".join(name for name in named if name) or ", ".join(_READERS)
        problems.append(f"the content is no flight plan that can be read here; it should be {wanted}")
    elif kind not in named:
        problems.append(f"the name ends in {suffix} ({named[0]}), the content is {kind}; check which file this is")
    else:
        return kind
    return None


def _by_content(content: bytes) -> str | None:
    start = content[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    signs = ((_KMZ, b"PK\x03\x04"), (_WPL, b"QGC WPL"), (_KML, b"<"), (_KML, b"\xff\xfe<"), (_KML, b"\xfe\xff\x00<"))
    for kind, sign in signs:
        if start.startswith(sign):
            return kind
    return _json_kind(content) if start.startswith(b"{") else None


def _json_kind(content: bytes) -> str | None:
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        # Which of the two it was meant to be, its reader says better what is wrong.
        return _PLAN if b'"mission"' in content else _GEOJSON
    if "fileType" in document or "mission" in document:
        return _PLAN
    return _GEOJSON if "type" in document else None
