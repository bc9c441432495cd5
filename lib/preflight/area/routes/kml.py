"""Reads KML 2.3 line strings and gx:Track, and KMZ archives that contain them (OGC 12-007r2).

Coordinates are `longitude,latitude[,altitude]`. The altitude is in metres above mean sea level if altitudeMode is
`absolute`, and above the ground if it is `relativeToGround`. Otherwise (clampToGround, the default) it has no meaning
and is ignored. Points are ignored, and so is everything that is not a geometry. Any other shape is an error.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from preflight.area.routes.value import Datum, Route, Waypoint, route_of, waypoint

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element
    from zipfile import ZipFile

_MAX_BYTES = 64 << 20
_SHAPES = {"Polygon", "LinearRing", "Model", "MultiTrack"}
_DATUMS: dict[str, Datum] = {"absolute": "sea_level", "relativeToGround": "ground"}


def read_kmz(content: bytes, problems: list[str]) -> Route | None:
    """Reads the file doc.kml of a KMZ archive, or the first KML file if there is no doc.kml.

    Returns None and adds every reason to `problems` if it is not valid.
    """
    import io  # noqa: PLC0415 - only archives need io and zipfile
    import zipfile  # noqa: PLC0415

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text = _document(archive, problems)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        problems.append(f"the archive cannot be read: {error}")
        return None
    return None if text is None else read_kml(text, problems)


def _document(archive: ZipFile, problems: list[str]) -> bytes | None:
    names = [name for name in archive.namelist() if name.lower().endswith(".kml")]
    if not names:
        problems.append("the archive holds no .kml file: export the route again")
        return None
    name = "doc.kml" if "doc.kml" in names else names[0]
    with archive.open(name) as file:
        # Do not trust the size that the archive declares.
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        problems.append(
            f"{name} unpacks to more than {_MAX_BYTES >> 20} MiB, too large for a flight plan: name another file"
        )
        return None
    return text


def read_kml(content: bytes, problems: list[str]) -> Route | None:
    """Reads a KML document. Each LineString and each Track becomes a line of the route.

    Returns None and adds every reason to `problems` if it is not valid.
    """
    root = _parse(content, problems)
    if root is None:
        return None
    lines: list[list[Waypoint]] = []
    for element in root.iter():
        name, where = _name(element), f"{_name(element)} {len(lines) + 1}"
        if name == "LineString":
            texts = (_child(element, "coordinates") or "").split()
            lines.append(_line(where, [text.split(",") for text in texts], _datum(element), problems))
        elif name == "Track":
            texts = [child.text or "" for child in element if _name(child) == "coord"]
            lines.append(_line(where, [text.split() for text in texts], _datum(element), problems))
        elif name in _SHAPES:
            problems.append(f"the file holds a {name}, which is not a line: delete it, or give it as area.polygon")
    if not lines and not problems:
        problems.append("the file holds no line: draw the route as a path (LineString)")
    return route_of(lines, problems)


def _parse(content: bytes, problems: list[str]) -> Element | None:
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - only KML needs it; document types are refused below

    class Builder(ET.TreeBuilder):
        def doctype(self, name: str, *_: object) -> None:
            # A document type can declare entities that expand without limit.
            raise ValueError(f"it declares a document type ({name}), which KML does not have")

    try:
        parser = ET.XMLParser(target=Builder())  # noqa: S314 - see Builder
        root: Element = ET.fromstring(content, parser=parser)  # noqa: S314 - see Builder
    except (ET.ParseError, ValueError, LookupError) as error:
        problems.append(f"the file is not KML: {error}")
        return None
    if _name(root) != "kml":
        problems.append(f"the file is not KML: its root element is {_name(root)}")
        return None
    return root


def _name(element: Element) -> str:
    """Returns the name without the namespace: KML files use several namespaces."""
    return str(element.tag).rpartition("}")[2]


def _child(element: Element, name: str) -> str | None:
    return next((child.text for child in element if _name(child) == name), None)


def _datum(element: Element) -> Datum | None:
    return _DATUMS.get((_child(element, "altitudeMode") or "").strip())


def _line(where: str, points: list[list[str]], datum: Datum | None, problems: list[str]) -> list[Waypoint]:
    if len(points) < 2:
        problems.append(f"{where}: a line needs at least two positions")
    line = []
    for number, parts in enumerate(points, 1):
        at = f"{where}, position {number}"
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) not in {2, 3}:
            problems.append(f"{at}: it must be longitude,latitude[,altitude], not {','.join(parts)[:40]!r}")
            continue
        alt = values[2] if len(values) == 3 and datum is not None else None
        point = waypoint(at, values[1], values[0], alt, datum or "ground", problems)
        line += [] if point is None else [point]
    return line
