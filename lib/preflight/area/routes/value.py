"""The content of a flight plan in any format, and the checks that all formats share."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal, cast

from preflight.area.area import point_problems

Position = tuple[float, float]
"""(latitude, longitude), WGS84 degrees."""

Datum = Literal["ellipsoid", "sea_level", "home", "ground"]
"""The reference of an altitude: the WGS84 ellipsoid, mean sea level, the home position, or the ground below."""

_PROBLEMS: dict[Datum, str | None] = {
    "sea_level": None,
    "ellipsoid": "has a height above the ellipsoid, which cannot be converted to mean sea level without a geoid model",
    "home": "has only an altitude above home",
    "ground": "has only an altitude above the ground",
}

MAX_POSITIONS = 100_000


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A position in a plan.

    lat, lon: WGS84 degrees.
    alt: metres above `datum`, as in the file, never converted. None if the file gives none.
    """

    lat: float
    lon: float
    alt: float | None
    datum: Datum

    @property
    def position(self) -> Position:
        """The position without the altitude."""
        return self.lat, self.lon

    def altitude_problem(self) -> str | None:
        """Returns why `alt` is not in metres above mean sea level, as the predicate of a sentence, or None if it is."""
        return "has no altitude" if self.alt is None else _PROBLEMS[self.datum]


@dataclass(frozen=True, slots=True)
class Route:
    """The path of a flight.

    lines: each line has at least two positions, in the order of flight. A leg is the geodesic between two positions.
    start: the home position if the file gives one, otherwise the takeoff or the first waypoint.
    """

    lines: tuple[tuple[Position, ...], ...]
    start: Waypoint


def number(value: object) -> float | None:
    """Returns a JSON value as a float if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def waypoint(
    where: str,
    lat: object,
    lon: object,
    alt: object,
    datum: Datum,
    problems: list[str],
) -> Waypoint | None:
    """Checks the values of a waypoint.

    Args:
        where: the place in the file, which begins each message.
        lat: latitude as the file gives it, degrees.
        lon: longitude as the file gives it, degrees.
        alt: altitude as the file gives it, metres. None means that there is no altitude.
        datum: the reference of the altitude.
        problems: the list to which faults are added.

    Returns:
        The waypoint, or None if its position is not valid.
    """
    latitude, longitude = number(lat), number(lon)
    if latitude is None or longitude is None:
        problems.append(f"{where}: latitude and longitude must be finite numbers of degrees")
        return None
    height = number(alt)
    if height is None and alt is not None:
        problems.append(f"{where}: the altitude must be a finite number of metres")
    faults = point_problems(
        latitude, longitude, beyond="write it between -180 and 180; a route may cross the antimeridian"
    )
    problems.extend(f"{where}: {fault}" for fault in faults)
    return None if faults else Waypoint(latitude, longitude, height, datum)


def json_object(content: bytes, problems: list[str]) -> dict[str, object]:
    """Returns the JSON object in a file. Returns an empty dict and adds the reason to `problems` if there is none."""
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problems.append(f"the file is not JSON: {error}")
        return {}
    if not isinstance(document, dict):
        problems.append("the file must contain one JSON object")
        return {}
    return cast("dict[str, object]", document)


def route_of(lines: list[list[Waypoint]], problems: list[str]) -> Route | None:
    """Returns the route that consists of these lines. Returns None if there are problems, or too many positions."""
    if problems:
        return None
    if sum(len(line) for line in lines) > MAX_POSITIONS:
        problems.append(
            f"the file holds more than {MAX_POSITIONS} positions: "
            "it is a recorded track, not a plan; name the flight plan"
        )
        return None
    return Route(tuple(tuple(point.position for point in line) for line in lines), lines[0][0])
