"""Reads QGroundControl `.plan` files: https://docs.qgroundcontrol.com/master/en/qgc-dev-guide/file_formats/plan.html.

Supported items: SimpleItem, the complex items survey and CorridorScan, and fixed-wing and VTOL landing patterns. For
survey and CorridorScan it reads the transects that QGroundControl computed and stored in the item. Any other complex
item is an error, because the file does not contain its path. plannedHomePosition is (latitude, longitude, metres above
mean sea level).
"""

from __future__ import annotations

from collections.abc import Iterator

from preflight.area.routes.mavlink import GLOBAL, LAND, RELATIVE, WAYPOINT, Item, fly
from preflight.area.routes.value import Route, Waypoint, json_object, number, waypoint

# Tuples and not sets: the values from the file that are compared with them may be unhashable.
_TRANSECTS = ("survey", "CorridorScan")
_LANDINGS = ("fwLandingPattern", "vtolLandingPattern")


def read(content: bytes, problems: list[str]) -> Route | None:
    """Reads a plan. Returns None and adds every reason to `problems` if it is not valid."""
    document = json_object(content, problems)
    if problems:
        return None
    if document.get("fileType", "Plan") != "Plan":
        problems.append(f"fileType must be 'Plan', not {document['fileType']!r}")
    mission = document.get("mission")
    if not isinstance(mission, dict) or not isinstance(mission.get("items"), list):
        problems.append("mission.items: the list of mission items is missing")
        return None
    home = _home(mission.get("plannedHomePosition"), problems)
    items = [item for n, raw in enumerate(mission["items"]) for item in _items(f"mission.items[{n}]", raw, problems)]
    return fly(items, home, problems)


def _home(value: object, problems: list[str]) -> Waypoint | None:
    """Returns the planned home position, or None if there is none. QGroundControl then writes zeros or nulls."""
    if value is None or (isinstance(value, list) and all(number(part) in {None, 0.0} for part in value[:2])):
        return None
    if not isinstance(value, list) or len(value) not in {2, 3}:
        problems.append("mission.plannedHomePosition: it must be [latitude, longitude, altitude]")
        return None
    where = "mission.plannedHomePosition"
    return waypoint(where, value[0], value[1], value[2] if len(value) == 3 else None, "sea_level", problems)


def _items(where: str, raw: object, problems: list[str]) -> Iterator[Item]:
    """Yields the simple items of an item. A complex item expands to several."""
    value = raw if isinstance(raw, dict) else {}
    kind, complex_kind = value.get("type"), value.get("complexItemType")
    if kind == "SimpleItem":
        yield from _simple(where, value, problems)
    elif kind == "ComplexItem" and complex_kind in _TRANSECTS:
        yield from _transects(where, value.get("TransectStyleComplexItem"), problems)
    elif kind == "ComplexItem" and complex_kind in _LANDINGS:
        yield from _landing(where, value, problems)
    elif kind == "ComplexItem":
        problems.append(
            f"{where}: the file does not hold the path of a {complex_kind} item: give the area as a polygon"
        )
    else:
        problems.append(f"{where}: the item must be a SimpleItem or ComplexItem")


def _simple(where: str, value: dict[str, object], problems: list[str]) -> Iterator[Item]:
    command, frame, parameters = value.get("command"), value.get("frame"), value.get("params")
    sequence = value.get("doJumpId")
    if not _is_non_negative_int(command) or not _is_non_negative_int(frame):
        problems.append(f"{where}: command and frame must be whole numbers")
    elif not isinstance(parameters, list) or len(parameters) != 7:
        problems.append(f"{where}: params must be seven numbers")
    else:
        yield Item(where, sequence if _is_non_negative_int(sequence) else None, command, frame, tuple(parameters))  # type: ignore[arg-type]  # checked above


def _is_non_negative_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _transects(where: str, raw: object, problems: list[str]) -> Iterator[Item]:
    value = raw if isinstance(raw, dict) else {}
    items, points = value.get("Items"), value.get("VisualTransectPoints")
    at = f"{where}.TransectStyleComplexItem"
    if isinstance(items, list) and items:
        for number_, item in enumerate(items):
            yield from _items(f"{at}.Items[{number_}]", item, problems)
    elif isinstance(points, list) and points:
        for number_, point in enumerate(points):
            yield _item_at(f"{at}.VisualTransectPoints[{number_}]", WAYPOINT, RELATIVE, point, problems)
    else:
        problems.append(
            f"{at}: the file does not hold the transects: open the plan in QGroundControl and save it again"
        )


def _landing(where: str, value: dict[str, object], problems: list[str]) -> Iterator[Item]:
    frame = GLOBAL if value.get("altitudesAreRelative") is False else RELATIVE
    approach = "landingApproachCoordinate" if "landingApproachCoordinate" in value else "loiterCoordinate"
    yield _item_at(f"{where}.{approach}", WAYPOINT, frame, value.get(approach), problems)
    yield _item_at(f"{where}.landCoordinate", LAND, frame, value.get("landCoordinate"), problems)


def _item_at(where: str, command: int, frame: int, point: object, problems: list[str]) -> Item:
    if not isinstance(point, list) or len(point) not in {2, 3}:
        problems.append(f"{where}: it must be [latitude, longitude, altitude]")
        point = [None, None]
    alt = point[2] if len(point) == 3 else None
    return Item(where, None, command, frame, (None, None, None, None, point[0], point[1], alt))
