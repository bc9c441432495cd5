"""KML 2.3 line strings and gx:Track, and KMZ archives of them (OGC 12-007r2).

coordinates are `longitude,latitude[,altitude]`; the altitude is metres above mean sea level where altitudeMode is
`absolute`, above the ground where it is `relativeToGround`; otherwise (clampToGround, the default) it says nothing and is
left out. Points, and everything that is no geometry, are left out; other shapes are refused.
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
    """The route of a KMZ archive: of doc.kml, or else of its first KML file; None with every reason in `problems`."""
    import io  # noqa: PLC0415 - with zipfile, for archives alone
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
        problems.append("there is no .kml file in the archive")
        return None
    name = "doc.kml" if "doc.kml" in names else names[0]
    with archive.open(name) as file:
        # What the archive says of the size need not be true.
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        problems.append(f"{name} unpacks to more than {_MAX_BYTES >> 20} MiB; this is no flight plan")
        return None
    return text


def read_kml(content: bytes, problems: list[str]) -> Route | None:
    """The route of a KML document: its LineStrings and Tracks, each a line; None with every reason in `problems`."""
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
            problems.append(f"a LineString is needed, there is a {name}; delete it, or give it as area.polygon")
    if not lines and not problems:
        problems.append("there is no line in it: draw the route as a path (LineString)")
    return route_of(lines, problems)


def _parse(content: bytes, problems: list[str]) -> Element | None:
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - for KML alone; document types are refused below

    class Builder(ET.TreeBuilder):
        def doctype(self, name: str, *_: object) -> None:
            # Entities are declared there, and can be made to grow without end.
            raise ValueError(f"it declares a document type ({name}); KML has none")

    try:
        parser = ET.XMLParser(target=Builder())  # noqa: S314 - see Builder
        root: Element = ET.fromstring(content, parser=parser)  # noqa: S314 - see Builder
    except (ET.ParseError, ValueError, LookupError) as error:
        problems.append(f"this is not KML: {error}")
        return None
    if _name(root) != "kml":
        problems.append(f"this is not KML: its root element is {_name(root)}")
        return None
    return root


def _name(element: Element) -> str:
    """Without the namespace, of which there are several."""
    return str(element.tag).rpartition("}")[2]


def _child(element: Element, name: str) -> str | None:
    return next((child.text for child in element if _name(child) == name), None)


def _datum(element: Element) -> Datum | None:
    return _DATUMS.get((_child(element, "altitudeMode") or "").strip())


def _line(where: str, points: list[list[str]], datum: Datum | None, problems: list[str]) -> list[Waypoint]:
    if len(points) < 2:
        problems.append(f"{where}: a line needs two or more positions")
    found = []
    for number, parts in enumerate(points, 1):
        at = f"{where}, position {number}"
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) not in {2, 3}:
            problems.append(f"{at}: longitude,latitude[,altitude] is needed, not {','.join(parts)[:40]!r}")
            continue
        alt = values[2] if len(values) == 3 and datum is not None else None
        place = waypoint(at, values[1], values[0], alt, datum or "ground", problems)
        found += [] if place is None else [place]
    return found
