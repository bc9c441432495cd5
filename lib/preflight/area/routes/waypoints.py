"""Reads ArduPilot `.waypoints` files, "QGC WPL 110": https://mavlink.io/en/file_formats/#mission_plain_text_file.

Each line is one item with twelve columns: index, current, frame, command, four parameters, latitude, longitude,
altitude, autocontinue. If item 0 is a plain waypoint in the global frame, it is the home position. Its altitude is then
in metres above mean sea level.
"""

from __future__ import annotations

import re

from preflight.area.routes.mavlink import GLOBAL, WAYPOINT, Item, fly, position
from preflight.area.routes.value import Route

_COLUMNS = 12
_INTEGER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


def read(content: bytes, problems: list[str]) -> Route | None:
    """Reads a waypoint file. Returns None and adds every reason to `problems` if it is not valid."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        problems.append(f"the file is not UTF-8 text (byte {error.start})")
        return None
    while lines and not lines[0].strip():
        lines.pop(0)
    if lines[0].split() != ["QGC", "WPL", "110"]:
        problems.append(f"the first line must be QGC WPL 110, not {lines[0].strip()[:40]!r}")
        return None
    items: list[Item] = []
    for row, line in enumerate(lines[1:], 2):
        if line.strip() and not line.startswith("#"):
            item = _item(f"line {row}", line.split(), len(items), problems)
            items += [] if item is None else [item]
    home = None
    if items and (items[0].command, items[0].frame) == (WAYPOINT, GLOBAL):
        home = position(items.pop(0), problems)
    return fly(items, home, problems)


def _item(where: str, columns: list[str], index: int, problems: list[str]) -> Item | None:
    if len(columns) != _COLUMNS:
        problems.append(
            f"{where}: the line has {len(columns)} columns instead of {_COLUMNS}; "
            "the file may be incomplete: export it again"
        )
        return None
    integers = [int(column) if _INTEGER.fullmatch(column) else None for column in (columns[0], *columns[2:4])]
    sequence, frame, command = integers
    if sequence is None or frame is None or command is None:
        problems.append(f"{where}: index, frame and command must be whole numbers")
        return None
    if sequence != index and not problems:
        problems.append(
            f"{where}: this is item {sequence}, but item {index} is expected; "
            "a line is missing or repeated: export it again"
        )
    parameters = []
    for number, column in enumerate(columns[4:11], 1):
        value = float(column) if _NUMBER.fullmatch(column) else None
        if value is None and column.lower() != "nan":
            problems.append(f"{where}: parameter {number} must be a number, not {column[:20]!r}")
        parameters.append(value)
    return Item(where, sequence, command, frame, tuple(parameters))
