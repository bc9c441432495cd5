"""QGroundControl `.plan` files: https://docs.qgroundcontrol.com/master/en/qgc-dev-guide/file_formats/plan.html.

Read: SimpleItem; the complex items survey and CorridorScan, by the transects QGroundControl has computed and stored in
them; fixed-wing and VTOL landing patterns. Another complex item is refused: what it flies is not in the file.
plannedHomePosition is (latitude, longitude, metres above mean sea level).
"""

from __future__ import annotations

from collections.abc import Iterator

from preflight.area.routes.mavlink import GLOBAL, LAND, RELATIVE, WAYPOINT, Item, fly
from preflight.area.routes.value import Route, Waypoint, json_object, number, waypoint

# Tuples: what the file holds in their place need not be hashable.
_TRANSECTS = ("survey", "CorridorScan")
_LANDINGS = ("fwLandingPattern", "vtolLandingPattern")


def read(content: bytes, problems: list[str]) -> Route | None:
    """The route of a plan; None with every reason in `problems`."""
    document = json_object(content, problems)
    if problems:
        return None
    if document.get("fileType", "Plan") != "Plan":
        problems.append(f"fileType is {document['fileType']!r}, not 'Plan'")
    mission = document.get("mission")
    if not isinstance(mission, dict) or not isinstance(mission.get("items"), list):
        problems.append("mission.items: a list of mission items is missing")
        return None
    home = _home(mission.get("plannedHomePosition"), problems)
    items = [item for n, raw in enumerate(mission["items"]) for item in _items(f"mission.items[{n}]", raw, problems)]
    return fly(items, home, problems)


def _home(value: object, problems: list[str]) -> Waypoint | None:
    """None where no home is planned; QGroundControl writes zeros or nulls then."""
    if value is None or (isinstance(value, list) and all(number(part) in {None, 0.0} for part in value[:2])):
        return None
    if not isinstance(value, list) or len(value) not in {2, 3}:
        problems.append("mission.plannedHomePosition: [latitude, longitude, altitude] is needed")
        return None
    where = "mission.plannedHomePosition"
    return waypoint(where, value[0], value[1], value[2] if len(value) == 3 else None, "sea_level", problems)


def _items(where: str, raw: object, problems: list[str]) -> Iterator[Item]:
    """The simple items an item stands for."""
    value = raw if isinstance(raw, dict) else {}
    kind, complex_kind = value.get("type"), value.get("complexItemType")
    if kind == "SimpleItem":
        yield from _simple(where, value, problems)
    elif kind == "ComplexItem" and complex_kind in _TRANSECTS:
        yield from _transects(where, value.get("TransectStyleComplexItem"), problems)
    elif kind == "ComplexItem" and complex_kind in _LANDINGS:
        yield from _landing(where, value, problems)
    elif kind == "ComplexItem":
        problems.append(f"{where}: what a {complex_kind} item flies is not in the file; give the area as a polygon")
    else:
        problems.append(f"{where}: a SimpleItem or ComplexItem is needed")


def _simple(where: str, value: dict[str, object], problems: list[str]) -> Iterator[Item]:
    command, frame, parameters = value.get("command"), value.get("frame"), value.get("params")
    sequence = value.get("doJumpId")
    if not _is_whole(command) or not _is_whole(frame):
        problems.append(f"{where}: command and frame must be whole numbers")
    elif not isinstance(parameters, list) or len(parameters) != 7:
        problems.append(f"{where}: params must be seven numbers")
    else:
        yield Item(where, sequence if _is_whole(sequence) else None, command, frame, tuple(parameters))  # type: ignore[arg-type]  # checked above


def _is_whole(value: object) -> bool:
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
            yield _place(f"{at}.VisualTransectPoints[{number_}]", WAYPOINT, RELATIVE, point, problems)
    else:
        problems.append(f"{at}: the transects are not in the file; open the plan in QGroundControl and save it again")


def _landing(where: str, value: dict[str, object], problems: list[str]) -> Iterator[Item]:
    frame = GLOBAL if value.get("altitudesAreRelative") is False else RELATIVE
    approach = "landingApproachCoordinate" if "landingApproachCoordinate" in value else "loiterCoordinate"
    yield _place(f"{where}.{approach}", WAYPOINT, frame, value.get(approach), problems)
    yield _place(f"{where}.landCoordinate", LAND, frame, value.get("landCoordinate"), problems)


def _place(where: str, command: int, frame: int, point: object, problems: list[str]) -> Item:
    if not isinstance(point, list) or len(point) not in {2, 3}:
        problems.append(f"{where}: [latitude, longitude, altitude] is needed")
        point = [None, None]
    alt = point[2] if len(point) == 3 else None
    return Item(where, None, command, frame, (None, None, None, None, point[0], point[1], alt))
