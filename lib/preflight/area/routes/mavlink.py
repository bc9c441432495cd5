"""Computes the path of a flight from MAVLink mission items.

Command and frame numbers are MAV_CMD and MAV_FRAME of the MAVLink common message set
(https://mavlink.io/en/messages/common.html). Every leg is treated as straight. The curve of a spline and the circle of
a loiter are inside the area only if the corridor is wide enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from preflight.area.routes.value import Datum, Route, Waypoint, number, route_of, waypoint

WAYPOINT, LAND = 16, 21
RETURN_TO_LAUNCH = 20
_DO_JUMP, _DO_SET_HOME = 177, 179
# MAV_CMD_NAV_LAST. Commands above it do not move the aircraft, except those listed in this module.
_LAST_NAVIGATION = 95

GLOBAL, RELATIVE = 0, 3
_DATUMS: dict[int, Datum] = {0: "sea_level", 3: "home", 5: "sea_level", 6: "home", 10: "ground", 11: "ground"}

# The aircraft flies to latitude, longitude and altitude, which are parameters 5, 6 and 7.
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
# CONTINUE_AND_CHANGE_ALT, ROI (a point for the camera), ALTITUDE_WAIT, DELAY, LAST: the aircraft does not fly to a
# position.
_NOT_FLOWN = {30, 80, 83, 93, _LAST_NAVIGATION}
# The file does not contain the positions that these commands fly to.
_UNKNOWN_PATH = {
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
    """One mission item.

    where: the place in the file, for messages.
    sequence: the number by which DO_JUMP refers to the item.
    command: MAV_CMD. frame: MAV_FRAME.
    parameters: seven values, None for an empty one.
    """

    where: str
    sequence: int | None
    command: int
    frame: int
    parameters: tuple[object, ...]


class _Flight:
    """The path up to the current item."""

    def __init__(self, home: Waypoint | None, problems: list[str]) -> None:
        self.path = [] if home is None else [home]
        self.home = home
        self.problems = problems
        # sequence of an item -> index in the path of its position, or of the next position if it has none
        self.path_indices: dict[int, int] = {}
        # place in the file, index in the path of the departure, sequence of the target item
        self.jumps: list[tuple[str, int, object]] = []

    def add(self, item: Item) -> None:
        """Extends the path by one item."""
        if item.sequence is not None:
            self.path_indices.setdefault(item.sequence, len(self.path))
        if item.command in _FLOWN:
            waypoint_ = position(item, self.problems)
            self.path += [] if waypoint_ is None else [waypoint_]
        elif item.command == RETURN_TO_LAUNCH:
            # Without a home, return to the first position of the path.
            self.path += [self.home] if self.home is not None else self.path[:1]
        elif item.command == _DO_SET_HOME and number(item.parameters[0]) != 1.0:
            self.home = position(item, self.problems) or self.home
        elif item.command == _DO_JUMP and number(item.parameters[1]) != 0.0:
            self.jumps.append((item.where, len(self.path) - 1, item.parameters[0]))
        elif item.command in _UNKNOWN_PATH or (item.command <= _LAST_NAVIGATION and item.command not in _NOT_FLOWN):
            name = _UNKNOWN_PATH.get(item.command, "not supported")
            self.problems.append(
                f"{item.where}: the file does not hold the path of command {item.command} ({name}): "
                "give the area as a polygon"
            )

    def lines(self) -> list[list[Waypoint]]:
        """Returns the path, and a line of one leg for each jump."""
        lines = [self.path]
        for where, departure, parameter in self.jumps:
            target = number(parameter)
            if target is None or not target.is_integer() or int(target) not in self.path_indices:
                self.problems.append(f"{where}: it jumps to an item that does not exist: correct the jump")
            elif departure >= 0 and self.path_indices[int(target)] < len(self.path):
                lines.append([self.path[departure], self.path[self.path_indices[int(target)]]])
        return lines


def fly(items: Iterable[Item], home: Waypoint | None, problems: list[str]) -> Route | None:
    """Returns the route of a mission. It starts at home if a home is given.

    Returns None and adds the reasons to `problems` if there is no valid route.
    """
    flight = _Flight(home, problems)
    for item in items:
        flight.add(item)
    lines = flight.lines()
    if not problems and len(flight.path) < 2:
        problems.append("the flight has fewer than two positions: add the waypoints of the flight")
    return route_of(lines, problems)


def position(item: Item, problems: list[str]) -> Waypoint | None:
    """Returns the position of an item.

    Returns None if latitude and longitude are both 0 or both empty: autopilots then use the current position. Also
    returns None, and adds the reasons to `problems`, if the position is not valid.
    """
    lat, lon, alt = item.parameters[4:7]
    if (lat is None and lon is None) or (number(lat) == number(lon) == 0.0):
        return None
    datum = _DATUMS.get(item.frame)
    if datum is None:
        problems.append(
            f"{item.where}: frame {item.frame} gives no position on the map: use a global frame (0, 3, 5, 6, 10 or 11)"
        )
        return None
    return waypoint(item.where, lat, lon, alt, datum, problems)
