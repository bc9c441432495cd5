from __future__ import annotations

import mercantile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.area.web_mercator import MAX_LATITUDE, MAX_ZOOM, haversine_m, tile_at, tile_bounds, tile_center


@st.composite
def tiles(draw):
    zoom = draw(st.integers(0, MAX_ZOOM))
    return zoom, draw(st.integers(0, 2**zoom - 1)), draw(st.integers(0, 2**zoom - 1))


@settings(deadline=None)
@given(tiles())
def test_bounds_equal_those_of_mercantile(tile):
    zoom, x, y = tile
    bounds, expected = tile_bounds(zoom, x, y), mercantile.bounds(x, y, zoom)
    assert (bounds.lon_min, bounds.lat_min, bounds.lon_max, bounds.lat_max) == pytest.approx(tuple(expected), abs=1e-12)


@settings(deadline=None)
@given(tiles())
def test_the_centre_is_inside_the_tile_and_the_middle_in_epsg_3857(tile):
    zoom, x, y = tile
    lat, lon = tile_center(zoom, x, y)
    assert tile_at(zoom, lat, lon) == (x, y)
    box = mercantile.xy_bounds(x, y, zoom)
    middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
    assert mercantile.xy(lon, lat) == pytest.approx(middle, abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, MAX_ZOOM), st.floats(-MAX_LATITUDE, MAX_LATITUDE), st.floats(-180, 180))
def test_tile_at_returns_the_tile_whose_bounds_contain_the_point(zoom, lat, lon):
    x, y = tile_at(zoom, lat, lon)
    bounds = tile_bounds(zoom, x, y)
    assert bounds.lon_min <= lon <= bounds.lon_max
    assert bounds.lat_min <= lat <= bounds.lat_max


@settings(deadline=None)
@given(tiles())
def test_a_tile_owns_its_northern_and_western_border(tile):
    zoom, x, y = tile
    bounds = tile_bounds(zoom, x, y)
    assert tile_at(zoom, bounds.lat_max, bounds.lon_min) == (x, y)


@settings(deadline=None)
@given(tiles())
def test_the_children_of_a_tile_have_exactly_its_borders(tile):
    zoom, x, y = tile
    parent, first, last = (
        tile_bounds(zoom, x, y),
        tile_bounds(zoom + 1, 2 * x, 2 * y),
        tile_bounds(zoom + 1, 2 * x + 1, 2 * y + 1),
    )
    assert (parent.lat_max, parent.lon_min) == (first.lat_max, first.lon_min)
    assert (parent.lat_min, parent.lon_max) == (last.lat_min, last.lon_max)
    assert (first.lat_min, first.lon_max) == (last.lat_max, last.lon_min)


@pytest.mark.parametrize(("lat", "lon"), [(86.0, 0.0), (-85.06, 0.0), (0.0, 180.1), (float("nan"), 0.0)])
def test_a_point_outside_the_map_is_refused(lat, lon):
    with pytest.raises(ValueError, match="outside the Web-Mercator map"):
        tile_at(10, lat, lon)


def test_distances_on_the_mean_sphere():
    assert haversine_m(0.0, 0.0, 0.0, 0.0) == 0.0
    # One degree of a great circle: 2 pi R / 360 with R = 6,371,008.8 m.
    assert haversine_m(0.0, 0.0, 1.0, 0.0) == pytest.approx(111_195.08, abs=0.01)
    assert haversine_m(60.0, 10.0, 60.0, 11.0) == pytest.approx(55_595.0, rel=1e-3)
    assert haversine_m(0.0, 0.0, 0.0, 180.0) == pytest.approx(20_015_114.0, abs=1.0)
