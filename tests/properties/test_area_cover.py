from __future__ import annotations

import json
import math

import mercantile
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from preflight.area.area import area_from_bbox, area_from_geojson, cover
from preflight.area.web_mercator import MAX_LATITUDE
from preflight.errors import MissionError
from preflight.records import BoundingBox

ZOOMS = (3, 5)
latitudes = st.one_of(
    st.floats(-MAX_LATITUDE, MAX_LATITUDE),
    st.builds(lambda y: mercantile.bounds(0, y, 5).north, st.integers(0, 31)),
)
longitudes = st.one_of(st.floats(-180, 180), st.integers(0, 32).map(lambda x: x / 32 * 360 - 180))


def brute_force(shares_interior):
    return {
        (zoom, x, y)
        for zoom in ZOOMS
        for x in range(2**zoom)
        for y in range(2**zoom)
        if shares_interior(mercantile.bounds(x, y, zoom))
    }


@settings(max_examples=60, deadline=None)
@given(latitudes, longitudes, latitudes, longitudes)
@example(-MAX_LATITUDE, -180.0, MAX_LATITUDE, 180.0)
def test_a_box_is_covered_by_the_tiles_that_overlap_its_interior(lat_a, lon_a, lat_b, lon_b):
    assume(lat_a != lat_b and lon_a != lon_b)
    box = BoundingBox(min(lat_a, lat_b), min(lon_a, lon_b), max(lat_a, lat_b), max(lon_a, lon_b))
    tiles = cover(area_from_bbox(box), ZOOMS)
    expected = brute_force(
        lambda t: t.west < box.lon_max and t.east > box.lon_min and t.south < box.lat_max and t.north > box.lat_min
    )
    assert set(tiles) == expected
    assert len(tiles) == len(expected)
    assert tiles.row_ranges == tuple(sorted(tiles.row_ranges))


@st.composite
def stars(draw):
    """Simple polygons: the corners are sorted by their angle about an inner point. Some lie on tile borders."""
    corners = draw(
        st.lists(
            st.tuples(longitudes.filter(lambda lon: abs(lon) <= 90), latitudes), min_size=3, max_size=7, unique=True
        )
    )
    lon, lat = (sum(values) / len(values) for values in zip(*corners, strict=True))
    return sorted(corners, key=lambda corner: math.atan2(corner[1] - lat, corner[0] - lon))


@settings(max_examples=40, deadline=None)
@given(st.lists(stars(), min_size=1, max_size=2))
def test_polygons_are_covered_by_the_tiles_that_overlap_their_interior(rings):
    import shapely

    document = {"type": "MultiPolygon", "coordinates": [[[*ring, ring[0]]] for ring in rings]}
    try:
        area = area_from_geojson(json.dumps(document))
    except MissionError:
        assume(False)
    shapes = [shapely.Polygon(ring) for ring in rings]
    tiles = cover(area, ZOOMS)
    expected = brute_force(lambda t: any(shape.relate_pattern(shapely.box(*t), "T********") for shape in shapes))
    assert set(tiles) == expected
    assert len(tiles) == len(expected)
    for zoom, x, y in tiles:
        queried = [(one.x_range, one.y_range) for one in tiles.ranges if one.zoom == zoom]
        hits = [1 for columns, rows in queried if columns[0] <= x <= columns[1] and rows[0] <= y <= rows[1]]
        assert hits == [1], "exactly one of the ranges must contain the tile"


def test_deeply_nested_json_raises_mission_error():
    with pytest.raises(MissionError):
        area_from_geojson("[" * 100_000)
