from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyproj
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from preflight.area.corridor import corridor
from preflight.area.routes import Route, Waypoint

GEOD = pyproj.Geod(ellps="WGS84")

widths = st.floats(1.0, 50_000.0)


@st.composite
def routes(draw):
    """Random walks of up to five legs of at most 30 km, which start between 80 S and 80 N."""
    lat, lon = draw(st.floats(-80, 80)), draw(st.floats(-180, 180))
    line = [(lat, lon)]
    for _ in range(draw(st.integers(1, 5))):
        lon, lat, _ = GEOD.fwd(lon, lat, draw(st.floats(-180, 180)), draw(st.floats(1, 30_000)))
        assume(abs(lat) < 84)
        line.append((lat, lon))
    return Route((tuple(line),), Waypoint(*line[0], None, "ground"))


def samples(route, step):
    """Returns points along the legs, (n, 2) of lon, lat, at most `step` metres apart."""
    line = route.lines[0]
    points = [(line[0][1], line[0][0])]
    for (lat_a, lon_a), (lat_b, lon_b) in pairwise(line):
        between = int(GEOD.inv(lon_a, lat_a, lon_b, lat_b)[2] // step)
        points += GEOD.npts(lon_a, lat_a, lon_b, lat_b, between) if between else []
        points.append((lon_b, lat_b))
    return np.array(points)


def polygons(area):
    shape = shapely.MultiPolygon([(polygon[0], polygon[1:]) for polygon in area.polygons])
    shapely.prepare(shape)
    return shape


@settings(max_examples=40, deadline=None)
@given(
    routes(),
    widths,
    st.lists(st.tuples(st.floats(0, 1), st.floats(-180, 180), st.floats(0, 1)), min_size=20, max_size=20),
)
def test_the_area_contains_every_point_within_the_width(route, width, draws):
    shape = polygons(corridor(route, width))
    assert shape.is_valid
    along = samples(route, 500.0)
    for position, azimuth, share in draws:
        lon, lat = along[int(position * (len(along) - 1))]
        lon, lat, _ = GEOD.fwd(lon, lat, azimuth, share * width)
        assert shape.covers(shapely.Point(lon, lat))


@settings(max_examples=40, deadline=None)
@given(routes(), st.floats(50.0, 50_000.0))
def test_every_border_point_is_within_the_stated_bounds(route, width):
    shape = polygons(corridor(route, width))
    step = max(width / 20, 60.0)
    along = samples(route, step)
    border = np.concatenate([shapely.get_coordinates(part.boundary) for part in shape.geoms])
    border = border[np.abs(np.abs(border[:, 0]) - 180.0) > 1e-9][:: max(1, len(border) // 60)]
    for lon, lat in border:
        _, _, distances = GEOD.inv(np.full(len(along), lon), np.full(len(along), lat), *along.T)
        # Along the leg, the nearest sample is at most half a step from the nearest point.
        nearest = np.sqrt(max(0.0, distances.min() ** 2 - (step / 2) ** 2))
        assert nearest <= width * 1.002 + 0.06
        assert distances.min() >= width


@settings(max_examples=20, deadline=None)
@given(routes(), st.floats(1.0, 5000.0))
def test_the_reversed_route_gives_the_same_area(route, width):
    back = Route((route.lines[0][::-1],), route.start)
    one, other = corridor(route, width), corridor(back, width)
    assert one == other
    assert one.digest() == other.digest()
