from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preflight.area.area import area_from_bbox, area_from_geojson, bbox_problems, cover
from preflight.area.web_mercator import tile_bounds
from preflight.errors import MissionError
from preflight.records import BoundingBox

DATA = Path(__file__).parents[5] / "shared" / "data"
SQUARE = [[10.0, 50.0], [10.1, 50.0], [10.1, 50.1], [10.0, 50.1], [10.0, 50.0]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def read(document):
    return area_from_geojson(json.dumps(document), "field.geojson")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (BoundingBox(1, 2, 1, 3), "zero size"),
        (BoundingBox(1, 2, 3, 2), "zero size"),
        (BoundingBox(3, 2, 1, 4), "lat_min 3 is north of lat_max 1"),
        (BoundingBox(1, 179, 2, -179), "antimeridian.*split it at the 180th meridian"),
        (BoundingBox(1, 170, 2, 190), "beyond 180 degrees.*split"),
        (BoundingBox(120, 40, 121, 41), "look swapped"),
        (BoundingBox(85.06, 40, 86, 41), "85.0511"),
        (BoundingBox(200, 40, 201, 41), "beyond 90"),
        (BoundingBox(float("nan"), 40, 1, 41), "finite"),
    ],
)
def test_a_box_that_cannot_be_covered_is_refused_with_its_reason(box, reason):
    with pytest.raises(MissionError, match=reason) as caught:
        area_from_bbox(box)
    assert caught.value.source == "area.bbox"
    assert caught.value.problems == bbox_problems(box)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]), "crosses itself"),
        (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "zero size"),
        (polygon([[50, 120], [51, 120], [51, 121], [50, 120]]), "look swapped"),
        (polygon([[50, 86], [51, 86], [51, 87], [50, 86]]), "85.0511"),
        (polygon([[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]), "antimeridian, split it"),
        (polygon([[179, 0], [181, 0], [181, 1], [179, 0]]), "beyond 180 degrees.*split it"),
        (polygon([[0, 0], [1, 1]]), "at least four"),
        (polygon([[0, 0], ["a", 1], [1, 1], [0, 0]]), "at least four"),
        (polygon(), "at least four"),
        ({"type": "Polygon"}, "at least four"),
        (polygon([[0, 0], [1, 0], [float("inf"), 1], [0, 0]]), "finite"),
        ({"type": "Point", "coordinates": [1, 2]}, "must be a polygon, but it is Point"),
        ({"type": "Feature", "geometry": None}, "not a GeoJSON geometry"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "MultiPolygon", "coordinates": None}, "must be a polygon"),
        ([1, 2], "not a GeoJSON geometry"),
        ({"type": ["Polygon"]}, "must be a polygon, but it is"),
    ],
)
def test_a_polygon_that_cannot_be_covered_is_refused_with_its_reason(document, reason):
    with pytest.raises(MissionError, match=reason) as caught:
        read(document)
    assert caught.value.source == "field.geojson"


def test_a_file_that_is_not_json_is_refused():
    with pytest.raises(MissionError, match="not JSON"):
        area_from_geojson(b"\xff{", "field.geojson")


def test_every_faulty_polygon_is_named():
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}
    bad = {"type": "Feature", "geometry": polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]])}
    with pytest.raises(MissionError) as caught:
        read({"type": "FeatureCollection", "features": [line, bad]})
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["features[0]", "features[1]"]


def test_the_digest_does_not_depend_on_first_vertex_direction_or_order():
    turned = [*SQUARE[2:], *SQUARE[1:3]]
    digests = {
        read(polygon(SQUARE)).digest(),
        read(polygon(turned)).digest(),
        read(polygon(SQUARE[::-1])).digest(),
        read({"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE]]}}).digest(),
    }
    assert len(digests) == 1
    assert digests != {read(polygon([[10.0, 50.0], [10.2, 50.0], [10.1, 50.1], [10.0, 50.0]])).digest()}


def test_the_digest_of_a_box_is_sha256_over_its_canonical_form():
    assert area_from_bbox(BoundingBox(0, 1, 2, 3)).digest() == (
        __import__("hashlib").sha256(b'{"bbox":[0.0,1.0,2.0,3.0]}').hexdigest()
    )


def test_boxes_returns_one_box_for_each_part():
    far = [[lon + 1, lat] for lon, lat in SQUARE]
    area = read({"type": "MultiPolygon", "coordinates": [[SQUARE], [far]]})
    assert area.boxes() == (BoundingBox(50.0, 10.0, 50.1, 10.1), BoundingBox(50.0, 11.0, 50.1, 11.1))
    assert area_from_bbox(BoundingBox(0, 1, 2, 3)).boxes() == (BoundingBox(0, 1, 2, 3),)


def test_a_tile_that_only_touches_the_border_is_not_covered():
    box = tile_bounds(12, 2000, 1500)
    exact = cover(area_from_bbox(box), [12])
    assert list(exact) == [(12, 2000, 1500)]
    ring = [
        [box.lon_min, box.lat_min],
        [box.lon_max, box.lat_min],
        [box.lon_max, box.lat_max],
        [box.lon_min, box.lat_max],
        [box.lon_min, box.lat_min],
    ]
    assert cover(read(polygon(ring)), [12]) == exact


def test_a_cover_maps_positions_to_tiles_and_back():
    tiles = cover(area_from_bbox(BoundingBox(50.0, 10.0, 50.1, 10.1)), [12, 10, 12])
    assert len(tiles) == len(list(tiles)) > 4
    for position, tile in enumerate(tiles):
        assert tiles.position(*tile) == position
        assert tiles.tile(position) == tile
        assert tile in tiles
    zoom, x, y = next(iter(tiles))
    assert all(other not in tiles for other in ((zoom, x - 1, y), (zoom, x, y - 1), (zoom + 9, x, y), (0, 0, 0)))


def test_holes_are_left_out_and_far_parts_keep_their_own_ranges():
    hole = [[10.02, 50.02], [10.08, 50.02], [10.08, 50.08], [10.02, 50.08], [10.02, 50.02]]
    solid, with_hole = cover(read(polygon(SQUARE)), [14]), cover(read(polygon(SQUARE, hole)), [14])
    assert 0 < len(with_hole) < len(solid)
    far = [[lon + 5, lat] for lon, lat in SQUARE]
    both = cover(read({"type": "MultiPolygon", "coordinates": [[SQUARE], [far]]}), [14])
    assert len(both.ranges) == 2
    many = [[[[lon + step, lat] for lon, lat in SQUARE]] for step in range(20)]
    assert len(cover(read({"type": "MultiPolygon", "coordinates": many}), [14]).ranges) == 1


def test_a_deep_zoom_over_a_wide_polygon_stays_small():
    tiles = cover(read(polygon([[10.0, 50.0], [10.3, 50.0], [10.3, 50.2], [10.0, 50.2], [10.0, 50.0]])), [20])
    assert len(tiles) == len(cover(area_from_bbox(BoundingBox(50.0, 10.0, 50.2, 10.3)), [20])) > 700_000
    assert len(tiles.row_ranges) < 2000


@pytest.mark.parametrize("zoom", [-1, 25])
def test_zooms_out_of_range_raise_value_error(zoom):
    with pytest.raises(ValueError, match="zoom levels"):
        cover(area_from_bbox(BoundingBox(0, 0, 1, 1)), [zoom])


def test_a_box_needs_neither_shapely_nor_numpy():
    code = (
        "import sys; from preflight.area.area import area_from_bbox, cover; from preflight.records import BoundingBox;"
        "cover(area_from_bbox(BoundingBox(0, 0, 1, 1)), [9]); sys.exit(bool({'shapely', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder ../shared/data does not exist")
def test_the_real_area_is_covered_by_exactly_the_real_tiles():
    area = area_from_geojson((DATA / "oam-area.geojson").read_bytes())
    expected = {tuple(map(int, (*path.parts[-3:-1], path.stem))) for path in (DATA / "oam").rglob("*.png")}
    assert set(cover(area, [19, 20, 21])) == expected
    assert len(expected) == 147
