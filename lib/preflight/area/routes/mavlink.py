"""MAVLink mission items: which of them fly somewhere, and where.

Command and frame numbers are MAV_CMD and MAV_FRAME of the MAVLink common message set (https://mavlink.io/en/messages/common.html).
Legs are taken as straight: a spline's bulge and a loiter's circle lie in the area as far as the corridor reaches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from preflight.area.routes.value import Datum, Route, Waypoint, number, route_of, waypoint

WAYPOINT, LAND = 16, 21
RETURN_TO_LAUNCH = 20
_DO_JUMP, _DO_SET_HOME = 177, 179
_LAST_NAVIGATION = 95  # MAV_CMD_NAV_LAST: what is above does not move the aircraft, but for those named here

GLOBAL, RELATIVE = 0, 3
_DATUMS: dict[int, Datum] = {0: "sea_level", 3: "home", 5: "sea_level", 6: "home", 10: "ground", 11: "ground"}

# Latitude, longitude and altitude are parameters 5, 6 and 7, and the aircraft goes there.
_FLOWN = {
    WAYPOINT,
    17,  # LOITER_UNLIM
    18,  # LOITER_TURNS
    19,  # LOITER_TIME
    LAND,
    22,  # TAKEOFF
    31,  # LOITER_TO_ALT
    82,  # SPLINE_WAYPOINT
    84,  # VTOL_TAKEOFF
    85,  # VTOL_LAND
    94,  # PAYLOAD_PLACE
}
# CONTINUE_AND_CHANGE_ALT, ROI (looked at, not flown to), ALTITUDE_WAIT, DELAY, LAST: none has a place of its own.
_NOT_FLOWN = {30, 80, 83, 93, _LAST_NAVIGATION}
# Where these lead is not in the file.
_ELSEWHERE = {
    23: "NAV_LAND_LOCAL",
    24: "NAV_TAKEOFF_LOCAL",
    25: "NAV_FOLLOW",
    32: "DO_FOLLOW",
    33: "DO_FOLLOW_REPOSITION",
    34: "DO_ORBIT",
    81: "NAV_PATHPLANNING",
    92: "NAV_GUIDED_ENABLE",
    601: "DO_JUMP_TAG",
    42702: "NAV_SCRIPT_TIME",
    42703: "NAV_ATTITUDE_TIME",
}


class Item(NamedTuple):
    """One mission item. where: for messages; sequence: what DO_JUMP calls it; parameters: seven, None where empty."""

    where: str
    sequence: int | None
    command: int
    frame: int
    parameters: tuple[object, ...]


class _Flight:
    """The path as it grows."""

    def __init__(self, home: Waypoint | None, problems: list[str]) -> None:
        self.path = [] if home is None else [home]
        self.home = home
        self.problems = problems
        self.places: dict[int, int] = {}  # sequence -> where in the path the item leads
        self.jumps: list[tuple[str, int, object]] = []

    def take(self, item: Item) -> None:
        """Go where one item says."""
        if item.sequence is not None:
            self.places.setdefault(item.sequence, len(self.path))
        if item.command in _FLOWN:
            place = position(item, self.problems)
            self.path += [] if place is None else [place]
        elif item.command == RETURN_TO_LAUNCH:
            # Where no home is known, the first place flown to stands for it.
            self.path += [self.home] if self.home is not None else self.path[:1]
        elif item.command == _DO_SET_HOME and number(item.parameters[0]) != 1.0:
            self.home = position(item, self.problems) or self.home
        elif item.command == _DO_JUMP and number(item.parameters[1]) != 0.0:
            self.jumps.append((item.where, len(self.path) - 1, item.parameters[0]))
        elif item.command in _ELSEWHERE or (item.command <= _LAST_NAVIGATION and item.command not in _NOT_FLOWN):
            named = _ELSEWHERE.get(item.command, "unknown here")
            self.problems.append(
                f"{item.where}: where command {item.command} ({named}) leads is not in the file; give the area as a polygon"
            )

    def lines(self) -> list[list[Waypoint]]:
        """The path, and a leg for each jump back or ahead."""
        lines = [self.path]
        for where, departure, parameter in self.jumps:
            target = number(parameter)
            if target is None or not target.is_integer() or int(target) not in self.places:
                self.problems.append(f"{where}: jumps to an item that is not there")
            elif departure >= 0 and self.places[int(target)] < len(self.path):
                lines.append([self.path[departure], self.path[self.places[int(target)]]])
        return lines


def fly(items: Iterable[Item], home: Waypoint | None, problems: list[str]) -> Route | None:
    """The route of a mission; None with the reasons in `problems`. It starts at home, where one is planned."""
    flight = _Flight(home, problems)
    for item in items:
        flight.take(item)
    lines = flight.lines()
    if not problems and len(flight.path) < 2:
        problems.append("fewer than two places are flown to: add the waypoints of the flight")
    return route_of(lines, problems)


def position(item: Item, problems: list[str]) -> Waypoint | None:
    """Where an item leads; None where it is `here`: latitude and longitude both 0 or empty, as autopilots read it."""
    lat, lon, alt = item.parameters[4:7]
    if (lat is None and lon is None) or (number(lat) == number(lon) == 0.0):
        return None
    datum = _DATUMS.get(item.frame)
    if datum is None:
        problems.append(
            f"{item.where}: frame {item.frame} is no global one (0, 3, 5, 6, 10 or 11), so its place on the map is unknown"
        )
        return None
    return waypoint(item.where, lat, lon, alt, datum, problems)
