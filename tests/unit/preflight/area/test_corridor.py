from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pyproj
import pytest
import shapely

from preflight.area.area import area_from_bbox, cover
from preflight.area.corridor import LONGEST_M, WIDEST_M, corridor
from preflight.area.routes import Route, Waypoint
from preflight.area.web_mercator import tile_center
from preflight.errors import MissionError
from preflight.records import BoundingBox

GEOD = pyproj.Geod(ellps="WGS84")


def route(*lines):
    return Route(tuple(tuple(line) for line in lines), Waypoint(*lines[0][0], None, "ground"))


def shape_of(area):
    return shapely.MultiPolygon([(polygon[0], polygon[1:]) for polygon in area.polygons])


def beside(lat, lon, azimuth, metres):
    lon, lat, _ = GEOD.fwd(lon, lat, azimuth, metres)
    return shapely.Point(lon, lat)


@pytest.mark.parametrize("lat", [-80.0, -45.0, 0.0, 30.0, 60.0, 84.0])
@pytest.mark.parametrize("width", [1.0, 500.0, 50_000.0])
def test_the_corridor_has_its_width_on_the_ellipsoid(lat, width):
    shape = shape_of(corridor(route([(lat, 10.0), (lat + 0.3, 10.5)]), width))
    azimuth, _, length = GEOD.inv(10.0, lat, 10.5, lat + 0.3)
    lon_mid, lat_mid, back = GEOD.fwd(10.0, lat, azimuth, length / 2)
    for start, side in ((lat_mid, back + 90.0), (lat_mid, back - 90.0), (lat, azimuth + 180.0), (lat, azimuth + 90.0)):
        lon = lon_mid if start == lat_mid else 10.0
        assert shape.covers(beside(start, lon, side, width))
        assert not shape.covers(beside(start, lon, side, width * 1.002 + 0.06))


def test_a_long_leg_is_a_geodesic():
    shape = shape_of(corridor(route([(50.0, 0.0), (50.0, 60.0)]), 100.0))
    (lon, lat), *_ = GEOD.npts(0.0, 50.0, 60.0, 50.0, 1)
    assert lat > 53.0
    assert shape.covers(shapely.Point(lon, lat))
    assert not shape.covers(shapely.Point(30.0, 50.0))


def test_a_route_that_crosses_itself_gives_valid_polygons_with_their_holes():
    area = corridor(route([(50.0, 10.0), (50.1, 10.2), (50.1, 10.0), (50.0, 10.2), (50.0, 10.0)]), 300.0)
    assert shape_of(area).is_valid
    assert [len(polygon) for polygon in area.polygons] == [3]


def test_distant_lines_give_separate_polygons_and_near_lines_give_one():
    apart = corridor(route([(50.0, 10.0), (50.1, 10.0)], [(52.0, 10.0), (52.1, 10.0)]), 300.0)
    assert len(apart.polygons) == len(apart.boxes()) == 2
    near = corridor(route([(50.0, 10.0), (50.1, 10.0)], [(50.0, 10.001), (50.1, 10.001)]), 300.0)
    assert len(near.polygons) == 1


@pytest.mark.parametrize("ends", [[(10.0, 179.9), (10.1, -179.9)], [(10.0, -179.9), (10.1, 179.9)]])
def test_a_route_across_the_antimeridian_is_split_there(ends):
    area = corridor(route(ends), 2000.0)
    shape = shape_of(area)
    assert len(area.polygons) == 2
    west, south, east, north = shape.bounds
    assert (west, east) == (-180.0, 180.0)
    assert north - south < 0.2
    tiles = list(cover(area, [12]))
    assert {x for _, x, _ in tiles} == {0, 1, 4094, 4095}
    crossing = GEOD.npts(179.9, 10.0, -179.9, 10.1, 1)[0][1]
    for lon in (-179.999, 179.999):
        assert shape.covers(beside(crossing, lon, 0.0, 1500.0))


def test_a_route_along_the_antimeridian_covers_both_sides_for_180_east_and_180_west():
    east, west = (corridor(route([(10.0, lon), (10.1, lon)]), 500.0) for lon in (180.0, -180.0))
    assert east == west
    assert len(east.polygons) == 2


@pytest.mark.parametrize(
    ("lines", "width", "reason"),
    [
        ([[(84.9, 10.0), (85.0, 10.0)]], 10_000.0, "beyond 85.0511 degrees"),
        ([[(-85.05, 10.0), (-85.0, 10.0)]], 500.0, "beyond 85.0511 degrees"),
        ([[(80.0, 0.0), (80.0, 170.0)]], 500.0, "beyond 85.0511 degrees"),
        ([[(0.0, 0.0), (0.0, 60.0)]], 500.0, "km long, more than 5,000 km: look for a wrong position"),
        ([[(0.0, 0.0), (0.0, 180.0)]], 500.0, "km long"),
        ([[(50.0, 10.0), (50.1, 10.0)]], 0.5, "give a distance between 1 and 50000 metres"),
        ([[(50.0, 10.0), (50.1, 10.0)]], WIDEST_M + 1, "give a distance between"),
        ([[(50.0, 10.0), (50.1, 10.0)]], float("nan"), "give a distance between"),
    ],
)
def test_a_corridor_that_cannot_be_covered_is_refused_with_its_reason(lines, width, reason):
    with pytest.raises(MissionError, match=reason) as refused:
        corridor(route(*lines), width)
    assert refused.value.source == "area.route"


def test_a_route_of_almost_the_greatest_length_is_accepted():
    lon, lat, _ = GEOD.fwd(0.0, 40.0, 100.0, LONGEST_M - 1.0)
    assert shape_of(corridor(route([(40.0, 0.0), (lat, lon)]), 1000.0)).is_valid


def test_repeated_positions_and_differences_below_the_rounding_change_nothing():
    plain = corridor(route([(50.0, 10.0), (50.1, 10.0)]), 500.0)
    assert corridor(route([(50.0, 10.0), (50.0, 10.0), (50.1, 10.0)]), 500.0) == plain
    assert corridor(route([(50.00000001, 10.0), (50.1, 10.00000004)]), 500.0) == plain
    assert corridor(route([(50.0, 10.0), (50.1, 10.0)], [(50.1, 10.0), (50.0, 10.0)]), 500.0) == plain
    hovering = corridor(route([(50.0, 10.0), (50.1, 10.0)], [(50.05, 10.0), (50.05, 10.0)]), 500.0)
    assert shape_of(hovering).symmetric_difference(shape_of(plain)).area < 1e-6


def test_the_digest_depends_only_on_the_route_and_the_width():
    area = corridor(route([(50.1, 10.0), (50.0, 10.0)]), 500.0)
    form = b'{"corridor_m":500.0,"lines":[[[50.0,10.0],[50.1,10.0]]],"version":1}'
    assert area.digest() == hashlib.sha256(form).hexdigest()
    assert corridor(route([(50.1, 10.0), (50.0, 10.0)]), 501.0).digest() != area.digest()
    assert corridor(route([(50.1000001, 10.0), (50.0, 10.0)]), 500.0).digest() != area.digest()


def test_coordinates_of_the_polygons_are_rounded_to_1e_9_degrees():
    for polygon in corridor(route([(50.1, 10.0), (50.0, 10.01)]), 500.0).polygons:
        for ring in polygon:
            assert all(abs(value * 1e9 - round(value * 1e9)) < 1e-3 for point in ring for value in point)


def test_the_tiles_of_a_straight_route_are_the_tiles_near_it():
    area = corridor(route([(50.0, 10.0), (50.0, 10.2)]), 3000.0)
    covered = set(cover(area, [14]))
    reach = 3000.0 + 2500.0  # the diagonal of a tile at this latitude is 2.2 km
    line = [(10.0 + step / 1000, 50.0) for step in range(201)]

    def distance(tile):
        lat, lon = tile_center(*tile)
        return min(GEOD.inv(lon, lat, *point)[2] for point in line)

    neighbourhood = cover(area_from_bbox(BoundingBox(49.9, 9.9, 50.1, 10.3)), [14])
    assert all(distance(tile) < reach for tile in covered)
    assert {tile for tile in neighbourhood if distance(tile) < 3000.0} <= covered


def test_importing_the_area_modules_loads_no_heavy_library():
    code = (
        "import sys, preflight.mission.loading, preflight.area.corridor, preflight.area.routes;"
        "sys.exit(bool({'shapely', 'numpy', 'pyproj', 'zipfile', 'xml.etree'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_made_from_is_json_with_normal_zeros_and_180_east():
    area = corridor(route([(-0.0, -180.0), (0.1, 179.9)]), 500.0)
    assert json.loads(area.made_from)["lines"] == [[[0.0, 180.0], [0.1, 179.9]]]
    assert "-0" not in area.made_from
