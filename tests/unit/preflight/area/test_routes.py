from __future__ import annotations

import io
import json
import zipfile

import pytest

from preflight.area.routes import MAX_BYTES, Route, Waypoint, parse_route
from preflight.errors import MissionError

HOME = [47.3977419, 8.545594, 487.989]
HOME_AT = (47.3977419, 8.545594)


def simple(command, *position, frame=3, number=None, first=(0, 0, 0, None)):
    item = {
        "type": "SimpleItem",
        "command": command,
        "frame": frame,
        "params": [*first, *(position or (0, 0, 0))],
        "autoContinue": True,
    }
    return item if number is None else {**item, "doJumpId": number}


def plan(*items, home=HOME):
    mission = {"version": 2, "firmwareType": 12, "vehicleType": 2, "items": list(items), "plannedHomePosition": home}
    return json.dumps({"fileType": "Plan", "version": 1, "groundStation": "QGroundControl", "mission": mission})


def read(text, name="flight.plan"):
    return parse_route(text if isinstance(text, bytes) else text.encode(), name)


def problems(text, name="flight.plan"):
    with pytest.raises(MissionError) as refused:
        read(text, name)
    assert refused.value.source == "area.route"
    return refused.value.problems


# QGroundControl


def test_a_plan_is_flown_from_home_along_the_items_with_a_place():
    route = read(
        plan(
            simple(530, 0, 2, None, frame=2),  # camera mode
            simple(22, 47.3985, 8.5451, 50),
            simple(178, 1, 5, -1, frame=2),  # speed
            simple(16, 47.3990, 8.5460, 60, frame=0),
            simple(80, 40.0, 8.0, 0),  # looked at, not flown to
            simple(201, 40.0, 8.0, 0),
            simple(82, 47.4, 8.547, 60, frame=10),
            simple(21, 47.4001, 8.548, 0),
        )
    )
    assert route == Route(
        ((HOME_AT, (47.3985, 8.5451), (47.3990, 8.5460), (47.4, 8.547), (47.4001, 8.548)),),
        Waypoint(*HOME_AT, 487.989, "sea_level"),
    )


@pytest.mark.parametrize("home", [None, [0, 0, 0], [None, None, None], [0.0, 0.0]])
@pytest.mark.parametrize(
    ("frame", "datum"), [(0, "sea_level"), (5, "sea_level"), (3, "home"), (6, "home"), (10, "ground"), (11, "ground")]
)
def test_without_a_home_the_takeoff_starts_the_route_in_its_own_frame(home, frame, datum):
    route = read(plan(simple(22, 47.0, 8.0, 50, frame=frame), simple(16, 47.1, 8.0, 60), home=home))
    assert route.start == Waypoint(47.0, 8.0, 50.0, datum)
    assert route.lines == (((47.0, 8.0), (47.1, 8.0)),)


@pytest.mark.parametrize("here", [(0, 0, 50), (None, None, 50)])
def test_a_place_of_zeros_or_nulls_is_where_the_aircraft_is(here):
    assert read(plan(simple(22, *here), simple(16, 47.1, 8.0, 60))).lines == ((HOME_AT, (47.1, 8.0)),)


def test_a_return_leads_home_and_to_a_home_that_was_moved():
    first = simple(16, 47.1, 8.0, 60)
    assert read(plan(first, simple(20, frame=2))).lines == ((HOME_AT, (47.1, 8.0), HOME_AT),)
    moved = simple(179, 47.2, 8.2, 0, first=(0, 0, 0, 0))
    assert read(plan(first, moved, simple(20, frame=2))).lines[0][-1] == (47.2, 8.2)
    current = simple(179, 47.2, 8.2, 0, first=(1, 0, 0, 0))
    assert read(plan(first, current, simple(20, frame=2))).lines[0][-1] == HOME_AT
    assert read(plan(first, simple(16, 47.2, 8.0, 1), simple(20, frame=2), home=None)).lines[0][-1] == (47.1, 8.0)


def test_a_jump_is_a_leg_of_its_own():
    items = [simple(16, 47.0 + number / 10, 8.0, 60, number=number) for number in (1, 2, 3)]
    back = simple(177, frame=2, number=4, first=(1, 2, 0, 0))
    assert read(plan(*items, back)).lines[1:] == (((47.3, 8.0), (47.1, 8.0)),)
    to_a_camera = simple(530, frame=2, number=1)
    items[0] = {**items[0], "doJumpId": 7}
    assert read(plan(to_a_camera, *items, back)).lines[1:] == (((47.3, 8.0), (47.1, 8.0)),)
    never = simple(177, frame=2, number=4, first=(99, 0, 0, 0))
    assert len(read(plan(*items, never)).lines) == 1
    assert problems(plan(*items, simple(177, frame=2, first=(99, 1, 0, 0)))) == (
        "mission.items[3]: jumps to an item that is not there",
    )


def test_surveys_and_corridor_scans_are_flown_along_their_stored_transects():
    stored = [simple(16, 47.1, 8.0, 60), simple(206, 0, 0, 0, frame=2), simple(16, 47.2, 8.0, 60)]
    survey = {
        "type": "ComplexItem",
        "complexItemType": "survey",
        "polygon": [[1, 1], [2, 2], [3, 3]],
        "TransectStyleComplexItem": {"Items": stored, "VisualTransectPoints": [[1, 1]]},
    }
    scan = {
        "type": "ComplexItem",
        "complexItemType": "CorridorScan",
        "TransectStyleComplexItem": {"VisualTransectPoints": [[47.3, 8.1], [47.4, 8.1]]},
    }
    assert read(plan(survey, scan)).lines == ((HOME_AT, (47.1, 8.0), (47.2, 8.0), (47.3, 8.1), (47.4, 8.1)),)


@pytest.mark.parametrize("approach", ["landingApproachCoordinate", "loiterCoordinate"])
@pytest.mark.parametrize("kind", ["fwLandingPattern", "vtolLandingPattern"])
def test_landing_patterns_end_the_route(approach, kind):
    landing = {
        "type": "ComplexItem",
        "complexItemType": kind,
        "altitudesAreRelative": True,
        approach: [47.1, 8.0, 40],
        "landCoordinate": [47.2, 8.0, 0],
    }
    assert read(plan(landing)).lines == ((HOME_AT, (47.1, 8.0), (47.2, 8.0)),)
    absolute = {**landing, "altitudesAreRelative": False}
    assert read(plan(absolute, home=None)).start == Waypoint(47.1, 8.0, 40.0, "sea_level")


def test_every_problem_of_a_plan_is_told_at_once():
    empty_survey = {"type": "ComplexItem", "complexItemType": "survey"}
    assert problems(
        plan(
            simple(16, 147.0, 8.0, 60),
            simple(16, 47.0, "8", 60),
            simple(16, 47.0, 8.0, 60, frame=1),
            simple(92, frame=2),
            simple(77, frame=2),
            {"type": "SimpleItem", "command": 16, "frame": 3, "params": [0]},
            {"type": "SimpleItem", "command": True, "frame": 3, "params": [0] * 7},
            {"type": "ComplexItem", "complexItemType": "StructureScan"},
            empty_survey,
            "item",
            {"type": "ComplexItem", "complexItemType": "fwLandingPattern"},
            simple(16, 86.0, 8.0, 60),
            simple(16, 47.0, 188.0, 60),
            simple(16, 47.0, 8.0, "high"),
            home=[47.0],
        )
    ) == (
        "mission.plannedHomePosition: [latitude, longitude, altitude] is needed",
        "mission.items[5]: params must be seven numbers",
        "mission.items[6]: command and frame must be whole numbers",
        "mission.items[7]: what a StructureScan item flies is not in the file; give the area as a polygon",
        (
            "mission.items[8].TransectStyleComplexItem: the transects are not in the file; open the plan in QGroundControl "
            "and save it again"
        ),
        "mission.items[9]: a SimpleItem or ComplexItem is needed",
        "mission.items[10].loiterCoordinate: [latitude, longitude, altitude] is needed",
        "mission.items[10].landCoordinate: [latitude, longitude, altitude] is needed",
        "mission.items[0]: latitude 147.0 is beyond 90 degrees: latitude and longitude look swapped",
        "mission.items[1]: latitude and longitude must be finite numbers of degrees",
        "mission.items[2]: frame 1 is no global one (0, 3, 5, 6, 10 or 11), so its place on the map is unknown",
        "mission.items[3]: where command 92 (NAV_GUIDED_ENABLE) leads is not in the file; give the area as a polygon",
        "mission.items[4]: where command 77 (unknown here) leads is not in the file; give the area as a polygon",
        "mission.items[11]: latitude 86.0 is beyond 85.0511 degrees, where Web-Mercator tiles end",
        (
            "mission.items[12]: longitude 188.0 is beyond 180 degrees; write it between -180 and 180; a route may cross the "
            "antimeridian"
        ),
        "mission.items[13]: the altitude must be a finite number of metres",
    )


def test_many_problems_are_counted_not_listed():
    found = problems(plan(*[simple(16, 86.0 + number / 100, 8.0, 60) for number in range(30)]))
    assert len(found) == 21
    assert found[-1] == "and 10 more problems"


def test_a_plan_that_flies_nowhere_is_refused():
    assert problems(plan()) == ("fewer than two places are flown to: add the waypoints of the flight",)
    assert problems(plan(simple(22, *HOME))) == (
        "the route has zero length: all its positions are one; give the area as a bbox",
    )
    fence = {"fileType": "Plan", "geoFence": {"polygons": []}}
    assert problems(json.dumps(fence)) == ("mission.items: a list of mission items is missing",)
    assert "'Mission', not 'Plan'" in problems(json.dumps({"fileType": "Mission", "mission": {"items": []}}))[0]


# ArduPilot


def wpl(*rows):
    return "QGC WPL 110\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)


HOME_ROW = (0, 1, 0, 16, 0, 0, 0, 0, 47.3977419, 8.545594, 487.989, 1)


def test_a_waypoint_file_starts_at_its_item_zero():
    route = read(
        wpl(
            HOME_ROW,
            (1, 0, 3, 22, 0, 0, 0, 0, 0, 0, 50, 1),
            (2, 0, 3, 16, 0, 0, 0, "nan", "47.1000000", "8.00000000", "60.000000", 1),
            (3, 0, 10, 16, 0, 0, 0, 0, 47.2, 8.0, 60, 1),
            (4, 0, 3, 177, 2, 3, 0, 0, 0, 0, 0, 1),
            (5, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 1),
        ),
        "flight.waypoints",
    )
    assert route == Route(
        ((HOME_AT, (47.1, 8.0), (47.2, 8.0), HOME_AT), ((47.2, 8.0), (47.1, 8.0))),
        Waypoint(*HOME_AT, 487.989, "sea_level"),
    )


def test_a_waypoint_file_may_have_no_home():
    text = wpl((0, 0, 3, 22, 0, 0, 0, 0, 47.0, 8.0, 50, 1), (1, 0, 3, 16, 0, 0, 0, 0, 47.1, 8.0, 60, 1))
    assert read("\ufeff\n" + text.replace("\n", "\r\n"), "a.txt").start == Waypoint(47.0, 8.0, 50.0, "home")
    unset = wpl((0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1), (1, 0, 3, 16, 0, 0, 0, 0, 47.0, 8.0, 50, 1))
    assert problems(unset, "a.waypoints") == ("fewer than two places are flown to: add the waypoints of the flight",)


def test_every_problem_of_a_waypoint_file_is_told_at_once():
    text = (
        wpl(HOME_ROW, (1, 0, 3, 16, "x", 0, 0, 0, 47, 8, 50, 1), ("1.5", *HOME_ROW[1:]), (5, *HOME_ROW[1:])) + "1\t2\n"
    )
    assert problems(text, "a.waypoints") == (
        "line 3: parameter 1 is no number: 'x'",
        "line 4: index, frame and command must be whole numbers",
        "line 6: 12 columns are needed, there are 2; the file may be cut off",
    )
    assert problems(wpl(HOME_ROW, (2, *HOME_ROW[1:])), "a.waypoints")[0] == (
        "line 3: item 1 is expected, this is item 2; a line is missing or doubled"
    )
    assert "must be QGC WPL 110" in problems("QGC WPL 100\n", "a.waypoints")[0]
    assert "is no text" in problems(b"QGC WPL 110\n\xff", "a.waypoints")[0]


# KML


def kml(body):
    return f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{body}</Document></kml>'


def line(coordinates, mode=""):
    mode = f"<altitudeMode>{mode}</altitudeMode>" if mode else ""
    return f"<Placemark><LineString>{mode}<coordinates>{coordinates}</coordinates></LineString></Placemark>"


@pytest.mark.parametrize(
    ("mode", "alt", "datum"),
    [
        ("", None, "ground"),
        ("clampToGround", None, "ground"),
        ("relativeToGround", 50.0, "ground"),
        ("absolute", 50.0, "sea_level"),
    ],
)
def test_a_kml_line_is_read_with_its_altitude_mode(mode, alt, datum):
    mark = "<Placemark><Point><coordinates>1,2,3</coordinates></Point></Placemark>"
    route = read(kml(mark + line("\n 8.0,47.0,50 8.0,47.1,50\n\t8.1,47.1 ", mode)), "a.kml")
    assert route == Route((((47.0, 8.0), (47.1, 8.0), (47.1, 8.1)),), Waypoint(47.0, 8.0, alt, datum))


def test_lines_and_tracks_of_a_kml_are_lines_each():
    track = (
        '<gx:Track xmlns:gx="http://www.google.com/kml/ext/2.2"><altitudeMode>absolute</altitudeMode>'
        "<when>2026-01-01T00:00:00Z</when><gx:coord>8.0 47.2 50</gx:coord><gx:coord>8.1 47.2 50</gx:coord></gx:Track>"
    )
    route = read(kml(line("8,47 8,47.1") + f"<Placemark>{track}</Placemark>"), "a.kml")
    assert route.lines == (((47.0, 8.0), (47.1, 8.0)), ((47.2, 8.0), (47.2, 8.1)))


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, text in files.items():
            out.writestr(name.replace("__", "."), text)
    return buffer.getvalue()


def test_a_kmz_is_its_doc_kml_or_its_first():
    good, other = kml(line("8,47 8,47.1")), kml(line("9,47 9,47.1"))
    assert read(archive(other__kml=other, doc__kml=good), "a.kmz") == read(good, "a.kml")
    assert read(archive(picture__png="x", other__kml=other), "a.kmz") == read(other, "a.kml")
    assert problems(archive(picture__png="x"), "a.kmz") == ("there is no .kml file in the archive",)
    assert "cannot be read" in problems(archive(doc__kml=good)[:-30], "a.kmz")[0]
    damaged = bytearray(archive(doc__kml=good))
    damaged[60:80] = bytes(20)
    assert "cannot be read" in problems(bytes(damaged), "a.kmz")[0]


def test_an_archive_that_grows_without_end_is_refused():
    assert "unpacks to more than 64 MiB" in problems(archive(doc__kml=b" " * ((64 << 20) + 1)), "a.kmz")[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<kml><Document/>", "this is not KML: "),
        ("<gpx/>", "its root element is gpx"),
        ('<!DOCTYPE kml [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><kml>&b;</kml>', "declares a document type (kml)"),
        (kml(""), "there is no line in it"),
        (kml("<Polygon/>"), "there is a Polygon"),
        (kml(line("8,47")), "LineString 1: a line needs two or more positions"),
        (kml(line("8, 47 8,47.1")), "LineString 1, position 1: longitude,latitude[,altitude] is needed, not '8,'"),
        (kml(line("8,47 8,nan")), "must be finite"),
        (kml(line("8,47 47,100")), "look swapped"),
    ],
)
def test_a_kml_that_is_no_route_is_refused_with_its_reason(text, reason):
    assert any(reason in problem for problem in problems(text, "a.kml"))


def test_a_kml_may_be_utf_16():
    text = kml(line("8,47 8,47.1")).replace("?>", ' encoding="UTF-16"?>', 1)
    assert len(read(text.encode("utf-16"), "a.kml").lines) == 1


# GeoJSON


def test_geojson_lines_wherever_they_are():
    lines = [[[8.0, 47.0, 50.5], [8.0, 47.1]], [[8.1, 47.0], [8.1, 47.1]]]
    document = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}},
            {"type": "Feature", "geometry": {"type": "LineString", "coordinates": lines[0]}},
            {
                "type": "Feature",
                "geometry": {
                    "type": "GeometryCollection",
                    "geometries": [{"type": "MultiLineString", "coordinates": lines}],
                },
            },
        ],
    }
    one, other = ((47.0, 8.0), (47.1, 8.0)), ((47.0, 8.1), (47.1, 8.1))
    assert read(json.dumps(document), "a.geojson") == Route((one, one, other), Waypoint(47.0, 8.0, 50.5, "ellipsoid"))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"type": "Polygon", "coordinates": []}, "the file: a line is needed, this is Polygon"),
        ({"type": "Feature", "geometry": None}, "Feature: a line is needed, this is no GeoJSON geometry"),
        ({"type": "FeatureCollection", "features": []}, "there is no line in it: draw the route as a LineString"),
        ({"type": "LineString"}, "LineString: the coordinates are no list of two or more"),
        ({"type": "LineString", "coordinates": [[8, 47]]}, "LineString: the coordinates are no list of two or more"),
        ({"type": "LineString", "coordinates": [[8, 47], 8]}, "LineString[1]: a position is [longitude, latitude]"),
        ({"type": "LineString", "coordinates": [[8, 47], [True, 1]]}, "LineString[1]: latitude and longitude must be"),
        (
            {"type": "LineString", "coordinates": [[8, 47], [10**400, 1]]},
            "LineString[1]: latitude and longitude must be",
        ),
        ({"type": "LineString", "coordinates": [[8, 47], [8, 47]]}, "the route has zero length"),
        (
            {"type": "LineString", "coordinates": [[50, 120], [50, 121]]},
            "LineString[0]: latitude 120.0 is beyond 90 degrees: ",
        ),
        ({"type": [], "coordinates": 3}, "the file: a line is needed, this is no GeoJSON geometry"),
        ({"type": {"a": 1}}, "the file: a line is needed, this is {'a': 1}"),
        ({"type": "MultiLineString", "coordinates": 3}, "the file: a line is needed, this is MultiLineString"),
    ],
)
def test_a_geojson_that_is_no_route_is_refused_with_its_reason(document, reason):
    assert problems(json.dumps(document), "a.json")[0].startswith(reason)


def test_endless_nesting_is_refused():
    deep = '{"type":"Feature","geometry":' * 40 + "null" + "}" * 40
    assert "a line is needed" in problems(deep, "a.json")[0]
    assert "not JSON" in problems('{"type":' * 100_000, "a.geojson")[0]


def test_a_track_of_a_whole_flight_log_is_refused():
    many = {"type": "LineString", "coordinates": [[8, 47 + number / 1e6] for number in range(100_001)]}
    assert "this is a track, not a plan" in problems(json.dumps(many), "a.json")[0]


# Which format it is


GEOJSON = json.dumps({"type": "LineString", "coordinates": [[8, 47], [8, 47.1]]})


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "A.JSON", "a", "a.txt"])
def test_a_name_that_says_the_same_or_nothing_is_fine(name):
    assert read(GEOJSON, name).lines == (((47.0, 8.0), (47.1, 8.0)),)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (GEOJSON, "a.plan", "the name ends in .plan (a QGroundControl plan), the content is GeoJSON"),
        (plan(), "a.geojson", "the name ends in .geojson (GeoJSON), the content is a QGroundControl plan"),
        (wpl(), "a.kml", "the content is an ArduPilot waypoint file"),
        (b"PK\x03\x04", "a.kml", "the content is KMZ"),
        ("", "a.plan", "the content is no flight plan that can be read here; it should be a QGroundControl plan"),
        (
            "lat,lon\n1,2\n",
            "a.csv",
            "it should be a QGroundControl plan, an ArduPilot waypoint file (QGC WPL), KML, KMZ, Geo",
        ),
        ("{}", "a.json", "it should be GeoJSON or a QGroundControl plan"),
        ('{"fileType": "Plan", "mission": ', "a.plan", "this is not JSON"),
        ('{"type": "LineString"', "a.json", "this is not JSON"),
        (b"x" * (MAX_BYTES + 1), "a.plan", "larger than 32 MiB"),
    ],
)
def test_another_kind_of_file_is_refused(text, name, reason):
    assert reason in problems(text, name)[0]
