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


def test_a_plan_gives_a_line_from_home_along_the_items_that_have_a_position():
    route = read(
        plan(
            simple(530, 0, 2, None, frame=2),  # camera mode
            simple(22, 47.3985, 8.5451, 50),
            simple(178, 1, 5, -1, frame=2),  # speed
            simple(16, 47.3990, 8.5460, 60, frame=0),
            simple(80, 40.0, 8.0, 0),  # a point for the camera: the aircraft does not fly there
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
def test_without_a_home_the_route_starts_at_the_takeoff_with_its_datum(home, frame, datum):
    route = read(plan(simple(22, 47.0, 8.0, 50, frame=frame), simple(16, 47.1, 8.0, 60), home=home))
    assert route.start == Waypoint(47.0, 8.0, 50.0, datum)
    assert route.lines == (((47.0, 8.0), (47.1, 8.0)),)


@pytest.mark.parametrize("unset", [(0, 0, 50), (None, None, 50)])
def test_a_position_of_zeros_or_nulls_means_the_current_position(unset):
    assert read(plan(simple(22, *unset), simple(16, 47.1, 8.0, 60))).lines == ((HOME_AT, (47.1, 8.0)),)


def test_return_to_launch_flies_home_also_after_home_was_moved():
    first = simple(16, 47.1, 8.0, 60)
    assert read(plan(first, simple(20, frame=2))).lines == ((HOME_AT, (47.1, 8.0), HOME_AT),)
    moved = simple(179, 47.2, 8.2, 0, first=(0, 0, 0, 0))
    assert read(plan(first, moved, simple(20, frame=2))).lines[0][-1] == (47.2, 8.2)
    current = simple(179, 47.2, 8.2, 0, first=(1, 0, 0, 0))
    assert read(plan(first, current, simple(20, frame=2))).lines[0][-1] == HOME_AT
    assert read(plan(first, simple(16, 47.2, 8.0, 1), simple(20, frame=2), home=None)).lines[0][-1] == (47.1, 8.0)


def test_a_jump_becomes_a_separate_leg():
    items = [simple(16, 47.0 + number / 10, 8.0, 60, number=number) for number in (1, 2, 3)]
    back = simple(177, frame=2, number=4, first=(1, 2, 0, 0))
    assert read(plan(*items, back)).lines[1:] == (((47.3, 8.0), (47.1, 8.0)),)
    to_a_camera = simple(530, frame=2, number=1)
    items[0] = {**items[0], "doJumpId": 7}
    assert read(plan(to_a_camera, *items, back)).lines[1:] == (((47.3, 8.0), (47.1, 8.0)),)
    never = simple(177, frame=2, number=4, first=(99, 0, 0, 0))
    assert len(read(plan(*items, never)).lines) == 1
    assert problems(plan(*items, simple(177, frame=2, first=(99, 1, 0, 0)))) == (
        "mission.items[3]: it jumps to an item that does not exist: correct the jump",
    )


def test_surveys_and_corridor_scans_follow_their_stored_transects():
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


def test_all_problems_of_a_plan_are_reported_together():
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
        "mission.plannedHomePosition: it must be [latitude, longitude, altitude]",
        "mission.items[5]: params must be seven numbers",
        "mission.items[6]: command and frame must be whole numbers",
        "mission.items[7]: the file does not hold the path of a StructureScan item: give the area as a polygon",
        (
            "mission.items[8].TransectStyleComplexItem: the file does not hold the transects: "
            "open the plan in QGroundControl and save it again"
        ),
        "mission.items[9]: the item must be a SimpleItem or ComplexItem",
        "mission.items[10].loiterCoordinate: it must be [latitude, longitude, altitude]",
        "mission.items[10].landCoordinate: it must be [latitude, longitude, altitude]",
        "mission.items[0]: latitude 147.0 is beyond 90 degrees: latitude and longitude look swapped",
        "mission.items[1]: latitude and longitude must be finite numbers of degrees",
        "mission.items[2]: frame 1 gives no position on the map: use a global frame (0, 3, 5, 6, 10 or 11)",
        (
            "mission.items[3]: the file does not hold the path of command 92 (NAV_GUIDED_ENABLE): "
            "give the area as a polygon"
        ),
        "mission.items[4]: the file does not hold the path of command 77 (not supported): give the area as a polygon",
        "mission.items[11]: latitude 86.0 is beyond 85.0511 degrees, the limit of Web-Mercator tiles",
        (
            "mission.items[12]: longitude 188.0 is beyond 180 degrees; write it between -180 and 180; "
            "a route may cross the antimeridian"
        ),
        "mission.items[13]: the altitude must be a finite number of metres",
    )


def test_at_most_twenty_problems_are_listed_and_the_others_counted():
    listed = problems(plan(*[simple(16, 86.0 + number / 100, 8.0, 60) for number in range(30)]))
    assert len(listed) == 21
    assert listed[-1] == "and 10 more problems"


def test_a_plan_with_fewer_than_two_positions_is_refused():
    assert problems(plan()) == ("the flight has fewer than two positions: add the waypoints of the flight",)
    assert problems(plan(simple(22, *HOME))) == (
        "the route has zero length, because all its positions are equal: give the area as a bbox",
    )
    fence = {"fileType": "Plan", "geoFence": {"polygons": []}}
    assert problems(json.dumps(fence)) == ("mission.items: the list of mission items is missing",)
    assert "must be 'Plan', not 'Mission'" in problems(json.dumps({"fileType": "Mission", "mission": {"items": []}}))[0]


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
    assert problems(unset, "a.waypoints") == (
        "the flight has fewer than two positions: add the waypoints of the flight",
    )


def test_all_problems_of_a_waypoint_file_are_reported_together():
    text = (
        wpl(HOME_ROW, (1, 0, 3, 16, "x", 0, 0, 0, 47, 8, 50, 1), ("1.5", *HOME_ROW[1:]), (5, *HOME_ROW[1:])) + "1\t2\n"
    )
    assert problems(text, "a.waypoints") == (
        "line 3: parameter 1 must be a number, not 'x'",
        "line 4: index, frame and command must be whole numbers",
        "line 6: the line has 2 columns instead of 12; the file may be incomplete: export it again",
    )
    assert problems(wpl(HOME_ROW, (2, *HOME_ROW[1:])), "a.waypoints")[0] == (
        "line 3: this is item 2, but item 1 is expected; a line is missing or repeated: export it again"
    )
    assert "must be QGC WPL 110" in problems("QGC WPL 100\n", "a.waypoints")[0]
    assert "is not UTF-8 text" in problems(b"QGC WPL 110\n\xff", "a.waypoints")[0]


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
    point = "<Placemark><Point><coordinates>1,2,3</coordinates></Point></Placemark>"
    route = read(kml(point + line("\n 8.0,47.0,50 8.0,47.1,50\n\t8.1,47.1 ", mode)), "a.kml")
    assert route == Route((((47.0, 8.0), (47.1, 8.0), (47.1, 8.1)),), Waypoint(47.0, 8.0, alt, datum))


def test_each_line_string_and_each_track_of_a_kml_becomes_a_line():
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


def test_a_kmz_is_read_from_doc_kml_or_from_its_first_kml_file():
    good, other = kml(line("8,47 8,47.1")), kml(line("9,47 9,47.1"))
    assert read(archive(other__kml=other, doc__kml=good), "a.kmz") == read(good, "a.kml")
    assert read(archive(picture__png="x", other__kml=other), "a.kmz") == read(other, "a.kml")
    assert problems(archive(picture__png="x"), "a.kmz") == ("the archive holds no .kml file: export the route again",)
    assert "cannot be read" in problems(archive(doc__kml=good)[:-30], "a.kmz")[0]
    damaged = bytearray(archive(doc__kml=good))
    damaged[60:80] = bytes(20)
    assert "cannot be read" in problems(bytes(damaged), "a.kmz")[0]


def test_an_archive_that_unpacks_to_too_much_is_refused():
    assert "unpacks to more than 64 MiB" in problems(archive(doc__kml=b" " * ((64 << 20) + 1)), "a.kmz")[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<kml><Document/>", "the file is not KML: "),
        ("<gpx/>", "its root element is gpx"),
        ('<!DOCTYPE kml [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><kml>&b;</kml>', "declares a document type (kml)"),
        (kml(""), "the file holds no line"),
        (kml("<Polygon/>"), "the file holds a Polygon"),
        (kml(line("8,47")), "LineString 1: a line needs at least two positions"),
        (kml(line("8, 47 8,47.1")), "LineString 1, position 1: it must be longitude,latitude[,altitude], not '8,'"),
        (kml(line("8,47 8,nan")), "must be finite"),
        (kml(line("8,47 47,100")), "look swapped"),
    ],
)
def test_a_kml_without_a_valid_route_is_refused_with_its_reason(text, reason):
    assert any(reason in problem for problem in problems(text, "a.kml"))


def test_a_kml_may_be_utf_16():
    text = kml(line("8,47 8,47.1")).replace("?>", ' encoding="UTF-16"?>', 1)
    assert len(read(text.encode("utf-16"), "a.kml").lines) == 1


# GeoJSON


def test_geojson_lines_are_found_in_nested_objects():
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
        ({"type": "Polygon", "coordinates": []}, "the file: this must be a line, but it is Polygon"),
        ({"type": "Feature", "geometry": None}, "Feature: this must be a line, but it is not a GeoJSON geometry"),
        ({"type": "FeatureCollection", "features": []}, "the file holds no line: draw the route as a LineString"),
        ({"type": "LineString"}, "LineString: the coordinates must be a list of at least two"),
        (
            {"type": "LineString", "coordinates": [[8, 47]]},
            "LineString: the coordinates must be a list of at least two",
        ),
        ({"type": "LineString", "coordinates": [[8, 47], 8]}, "LineString[1]: it must be [longitude, latitude]"),
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
        ({"type": [], "coordinates": 3}, "the file: this must be a line, but it is not a GeoJSON geometry"),
        ({"type": {"a": 1}}, "the file: this must be a line, but it is {'a': 1}"),
        ({"type": "MultiLineString", "coordinates": 3}, "the file: this must be a line, but it is MultiLineString"),
    ],
)
def test_a_geojson_without_a_valid_route_is_refused_with_its_reason(document, reason):
    assert problems(json.dumps(document), "a.json")[0].startswith(reason)


def test_deep_nesting_is_refused():
    deep = '{"type":"Feature","geometry":' * 40 + "null" + "}" * 40
    assert "this must be a line" in problems(deep, "a.json")[0]
    assert "not JSON" in problems('{"type":' * 100_000, "a.geojson")[0]


def test_a_recorded_track_is_refused():
    many = {"type": "LineString", "coordinates": [[8, 47 + number / 1e6] for number in range(100_001)]}
    assert "it is a recorded track, not a plan" in problems(json.dumps(many), "a.json")[0]


# Detection of the format


GEOJSON = json.dumps({"type": "LineString", "coordinates": [[8, 47], [8, 47.1]]})


@pytest.mark.parametrize("name", ["a.geojson", "a.json", "A.JSON", "a", "a.txt"])
def test_a_suffix_that_matches_or_is_unknown_is_accepted(name):
    assert read(GEOJSON, name).lines == (((47.0, 8.0), (47.1, 8.0)),)


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (GEOJSON, "a.plan", "the name ends in .plan (a QGroundControl plan), but the content is GeoJSON"),
        (plan(), "a.geojson", "the name ends in .geojson (GeoJSON), but the content is a QGroundControl plan"),
        (wpl(), "a.kml", "but the content is an ArduPilot waypoint file"),
        (b"PK\x03\x04", "a.kml", "but the content is KMZ"),
        ("", "a.plan", "the content is not a flight plan in a supported format: give a QGroundControl plan"),
        (
            "lat,lon\n1,2\n",
            "a.csv",
            "give a QGroundControl plan, an ArduPilot waypoint file (QGC WPL), KML, KMZ, Geo",
        ),
        ("{}", "a.json", "give GeoJSON or a QGroundControl plan"),
        ('{"fileType": "Plan", "mission": ', "a.plan", "the file is not JSON"),
        ('{"type": "LineString"', "a.json", "the file is not JSON"),
        (b"x" * (MAX_BYTES + 1), "a.plan", "larger than 32 MiB"),
    ],
)
def test_another_kind_of_file_is_refused(text, name, reason):
    assert reason in problems(text, name)[0]
