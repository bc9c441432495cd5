"""What a flight plan says, whatever its format, and the checks all formats share."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal, cast

from preflight.area.area import point_problems

Position = tuple[float, float]
"""(latitude, longitude), WGS84 degrees."""

Datum = Literal["ellipsoid", "sea_level", "home", "ground"]
"""What an altitude is above: the WGS84 ellipsoid, mean sea level, the home position, or the ground below."""

_PROBLEMS: dict[Datum, str | None] = {
    "sea_level": None,
    "ellipsoid": "has a height above the ellipsoid, and no geoid is here to convert it to mean sea level",
    "home": "has an altitude above home alone",
    "ground": "has an altitude above the ground alone",
}

MAX_POSITIONS = 100_000


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A place in a plan. alt: metres above `datum`, as the format defines it and never converted; None: not given."""

    lat: float
    lon: float
    alt: float | None
    datum: Datum

    @property
    def position(self) -> Position:
        """Without the altitude."""
        return self.lat, self.lon

    def altitude_problem(self) -> str | None:
        """Why `alt` is not metres above mean sea level, as a predicate; None where it is."""
        return "has no altitude" if self.alt is None else _PROBLEMS[self.datum]


@dataclass(frozen=True, slots=True)
class Route:
    """What is flown.

    lines: each two positions or more, in the order they are flown; legs are the shortest lines between their ends.
    start: the home position where the format has one, else the takeoff or first waypoint.
    """

    lines: tuple[tuple[Position, ...], ...]
    start: Waypoint


def number(value: object) -> float | None:
    """A finite number of a JSON document; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def waypoint(
    where: str,
    lat: object,
    lon: object,
    alt: object,
    datum: Datum,
    problems: list[str],
) -> Waypoint | None:
    """A checked waypoint; None with the reasons in `problems`, each led by `where`. An altitude that is null is none."""
    north, east = number(lat), number(lon)
    if north is None or east is None:
        problems.append(f"{where}: latitude and longitude must be finite numbers of degrees")
        return None
    height = number(alt)
    if height is None and alt is not None:
        problems.append(f"{where}: the altitude must be a finite number of metres")
    faults = point_problems(north, east, beyond="write it between -180 and 180; a route may cross the antimeridian")
    problems.extend(f"{where}: {fault}" for fault in faults)
    return None if faults else Waypoint(north, east, height, datum)


def json_object(content: bytes, problems: list[str]) -> dict[str, object]:
    """The file's object; empty with the reason in `problems` when it is no JSON object."""
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problems.append(f"this is not JSON: {error}")
        return {}
    if not isinstance(document, dict):
        problems.append("the file must hold one JSON object")
        return {}
    return cast("dict[str, object]", document)


def route_of(lines: list[list[Waypoint]], problems: list[str]) -> Route | None:
    """A route of lines that were read without a problem; None otherwise."""
    if problems:
        return None
    if sum(len(line) for line in lines) > MAX_POSITIONS:
        problems.append(f"there are more than {MAX_POSITIONS} positions in it; this is a track, not a plan")
        return None
    return Route(tuple(tuple(point.position for point in line) for line in lines), lines[0][0])
