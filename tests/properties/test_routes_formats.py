"""Positions written in any format are read back unchanged. Any bytes give either a route or a MissionError."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from preflight.area.routes import Route, parse_route
from preflight.errors import MissionError

# Zero means the current position in a mission. MAVLink has a resolution of 1e-7 degrees.
degrees = st.integers(-850_000_000, 850_000_000).filter(bool).map(lambda value: value / 1e7)
positions = st.tuples(degrees, st.integers(-1_800_000_000, 1_800_000_000).filter(bool).map(lambda value: value / 1e7))
lines = st.lists(positions, min_size=2, max_size=8).filter(lambda line: len(set(line)) > 1)


def as_plan(line, alt):
    items = [
        {"type": "SimpleItem", "command": 16, "frame": 3, "doJumpId": n, "params": [0, 0, 0, None, *position, 50]}
        for n, position in enumerate(line[1:], 1)
    ]
    mission = {"items": items, "plannedHomePosition": [*line[0], alt]}
    return json.dumps({"fileType": "Plan", "mission": mission}).encode(), "a.plan"


def as_survey(line, alt):
    content, name = as_plan(line, alt)
    document = json.loads(content)
    mission = document["mission"]
    mission["items"] = [
        {"type": "ComplexItem", "complexItemType": "survey", "TransectStyleComplexItem": {"Items": mission["items"]}}
    ]
    return json.dumps(document).encode(), name


def as_waypoints(line, alt):
    rows = [f"{n}\t0\t3\t16\t0\t0\t0\t0\t{lat!r}\t{lon!r}\t50\t1" for n, (lat, lon) in enumerate(line) if n]
    home = f"0\t1\t0\t16\t0\t0\t0\t0\t{line[0][0]!r}\t{line[0][1]!r}\t{alt!r}\t1"
    return "\r\n".join(["QGC WPL 110", home, *rows]).encode(), "a.waypoints"


def as_kml(line, alt):
    text = " ".join(f"{lon!r},{lat!r},{alt!r}" for lat, lon in line)
    shape = f"<LineString><altitudeMode>absolute</altitudeMode><coordinates>{text}</coordinates></LineString>"
    return f'<kml xmlns="http://www.opengis.net/kml/2.2"><Placemark>{shape}</Placemark></kml>'.encode(), "a.kml"


def as_kmz(line, alt):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("doc.kml", as_kml(line, alt)[0])
    return buffer.getvalue(), "a.kmz"


def as_geojson(line, alt):
    return json.dumps(
        {"type": "LineString", "coordinates": [[lon, lat, alt] for lat, lon in line]}
    ).encode(), "a.geojson"


WRITERS = [as_plan, as_survey, as_waypoints, as_kml, as_kmz, as_geojson]


@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=40, deadline=None)
@given(line=lines, alt=st.integers(-400, 9000).map(float))
def test_a_written_route_is_read_back(write, line, alt):
    route = parse_route(*write(line, alt))
    assert route.lines == (tuple(line),)
    assert (route.start.position, route.start.alt) == (line[0], alt)
    assert route.start.datum == ("ellipsoid" if write is as_geojson else "sea_level")


def check_read(content, name):
    try:
        route = parse_route(content, name)
    except MissionError as error:
        refused = error
    else:
        assert isinstance(route, Route)
        assert all(len(line) >= 2 for line in route.lines)
        return
    assert refused.problems
    assert all(refused.problems)


@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=60, deadline=None)
@given(line=lines, at=st.floats(0, 1, exclude_max=True), inserted=st.binary(max_size=8), cut=st.integers(0, 20))
def test_a_damaged_file_gives_a_route_or_a_mission_error(write, line, at, inserted, cut):
    content, name = write(line, 100.0)
    start = int(at * len(content))
    check_read(content[:start] + inserted + content[start + cut :], name)


STARTS = [b"", b"QGC WPL 110\n", b"<kml>", b"PK\x03\x04", b'{"type":', b'{"fileType":"Plan","mission":', b"\xff\xfe<\0"]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=60))
@example(b"QGC WPL 110", b"")
def test_any_bytes_give_a_route_or_a_mission_error(start, rest):
    check_read(start + rest, "a")


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
KEYS = [
    "type",
    "command",
    "frame",
    "params",
    "doJumpId",
    "complexItemType",
    "TransectStyleComplexItem",
    "landCoordinate",
]
words = st.sampled_from(["SimpleItem", "ComplexItem", "survey", "fwLandingPattern"])
numbers = st.sampled_from([0, 3, 16, 20, 22, 177, 179])
params = st.lists(st.none() | st.integers(-90, 90) | st.text(max_size=2), min_size=6, max_size=8)
items = st.dictionaries(st.sampled_from(KEYS), words | numbers | params | values, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(items | values, max_size=4), values)
def test_any_mission_gives_a_route_or_a_mission_error(items_, home):
    document = {"fileType": "Plan", "mission": {"items": items_, "plannedHomePosition": home}}
    check_read(json.dumps(document).encode(), "a.plan")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["LineString", "MultiLineString", "Feature", "FeatureCollection", "GeometryCollection"]), values)
def test_any_geojson_gives_a_route_or_a_mission_error(kind, value):
    assume(kind)
    document = {"type": kind, "coordinates": value, "geometry": value, "features": value, "geometries": value}
    check_read(json.dumps(document).encode(), "a.geojson")
