from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
import shapely

from preflight.area.area import area_from_bbox, area_from_geojson, cover
from preflight.area.web_mercator import tile_center
from preflight.errors import CoverageError
from preflight.records import BoundingBox, TileRow
from preflight.tileset.coverage import CoverageWalk, check, lacks_geojson
from preflight.tileset.findings import Kind

NOW = datetime(2025, 6, 30, tzinfo=timezone.utc)
AREA = area_from_bbox(BoundingBox(50.0, 10.0, 50.1, 10.1))
ZOOMS = (12, 13)
COVER = cover(AREA, ZOOMS)
MONTH = timedelta(days=30)


def rows(tiles, age_days=0, source="a"):
    return [
        TileRow(*tile, *tile_center(*tile), source, "00" * 32, "p", NOW - timedelta(days=age_days)) for tile in tiles
    ]


def report_of(tile_rows, max_age=MONTH):
    walk = CoverageWalk(COVER, now=NOW, max_age=max_age)
    yielded = list(walk.through(tile_rows))
    return walk.report(), yielded


def test_a_complete_set_passes_and_its_rows_are_yielded_unchanged():
    complete = rows(COVER)
    report, yielded = report_of(complete)
    assert yielded == complete
    assert (report.expected, report.present, report.missing, report.stale) == (len(COVER), len(COVER), 0, 0)
    assert report.sources == (("a", len(COVER)),)
    check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)


def test_rows_outside_the_area_are_dropped():
    report, yielded = report_of(rows([(12, 0, 0), (5, 1, 1)]))
    assert yielded == []
    assert report.present == 0


def test_the_message_counts_and_names_missing_tiles_and_the_remedy():
    tiles = list(COVER)
    report, _ = report_of(rows(tiles[2:]))
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)
    message = str(caught.value)
    assert f"2 of {len(tiles)} tiles are missing" in message
    for part in (
        "50.000000..50.100000",
        "zoom 12, 13",
        "/".join(map(str, tiles[0])),
        "C11 TileDownloader",
        "doit plan --missing=FILE",
        "doit import",
    ):
        assert part in message


def test_the_mission_may_allow_a_share_of_missing_tiles():
    report, _ = report_of(rows(list(COVER)[1:]))
    check(report, AREA, ZOOMS, allow_missing=1 / len(COVER), max_age=MONTH)
    with pytest.raises(CoverageError):
        check(report, AREA, ZOOMS, allow_missing=0.9 / len(COVER), max_age=MONTH)


def test_a_set_without_tiles_is_refused_with_any_allowance():
    report, _ = report_of([])
    with pytest.raises(CoverageError, match=f"none of the {len(COVER)} tiles.*C11 TileDownloader"):
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)


def test_stale_tiles_are_refused_even_if_missing_tiles_are_allowed():
    tiles = list(COVER)
    report, _ = report_of(rows(tiles[:3]) + rows(tiles[3:5], age_days=31, source="b"))
    assert report.stale == 2
    assert report.first_stale == tuple(tiles[3:5])
    assert report.sources == (("a", 3), ("b", 2))
    with pytest.raises(CoverageError, match="2 of 5 tiles were captured more than 30 days ago"):
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)


def test_tiles_dated_in_the_future_are_stale_and_reported_as_such():
    """Their age is unknown. A date that an import still accepts is not too far ahead: it counts as now."""
    tiles = list(COVER)
    report, _ = report_of(
        rows(tiles[:2], age_days=-1) + rows(tiles[2:9], age_days=-1.001) + rows(tiles[9:], age_days=31)
    )
    assert (report.stale, report.ahead) == (len(tiles) - 2, 7)
    assert report.first_ahead == tuple(tiles[2:7])
    assert report.first_stale == tuple(tiles[9:14])
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)
    message = str(caught.value)
    assert f"{len(tiles) - 9} of {len(tiles)} tiles were captured more than 30 days ago" in message
    assert f"7 of {len(tiles)} tiles are dated in the future, such as {'/'.join(map(str, tiles[2]))}" in message
    for part in ("50.000000..50.100000", "clock", "--update", "--captured-at"):
        assert part in message


def test_the_message_names_only_the_date_fault_that_occurs():
    tiles = list(COVER)
    report, _ = report_of(rows(tiles, age_days=-2))
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)
    assert "days ago" not in str(caught.value)
    report, _ = report_of(rows(tiles, age_days=31))
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)
    assert "future" not in str(caught.value)


def test_a_tile_dated_in_the_future_is_listed_as_stale():
    tiles = list(COVER)
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows(tiles[:1], age_days=-2) + rows(tiles[1:])))
    assert list(walk.lacks()) == [("stale", *tiles[0])]


def test_missing_and_stale_tiles_are_listed():
    tiles = list(COVER)
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows(tiles[2:4], age_days=31) + rows(tiles[4:])))
    assert list(walk.lacks()) == [
        ("missing", *tiles[0]),
        ("missing", *tiles[1]),
        ("stale", *tiles[2]),
        ("stale", *tiles[3]),
    ]
    assert walk.report().present == len(tiles) - 2


def test_the_geojson_has_the_borders_of_each_listed_tile():
    tiles = list(COVER)[:2]
    document = json.loads("".join(lacks_geojson([("missing", *tiles[0]), ("stale", *tiles[1])])))
    assert document["type"] == "FeatureCollection"
    assert [feature["properties"] for feature in document["features"]] == [
        {"zoom": tile[0], "x": tile[1], "y": tile[2], "reason": reason}
        for tile, reason in zip(tiles, ("missing", "stale"), strict=True)
    ]
    # RFC 7946: outer rings are counter-clockwise. Each polygon, read as an area, covers exactly its tile.
    for tile, feature in zip(tiles, document["features"], strict=True):
        assert shapely.geometry.shape(feature["geometry"]).exterior.is_ccw
        assert list(cover(area_from_geojson(json.dumps(feature)), [tile[0]])) == [tile]


def test_the_geojson_of_no_tiles_is_an_empty_collection():
    assert json.loads("".join(lacks_geojson([]))) == {"type": "FeatureCollection", "features": []}


def test_a_tile_of_exactly_the_maximum_age_is_fresh():
    report, _ = report_of(rows(COVER, age_days=30))
    assert report.stale == 0


def test_only_the_first_five_tiles_are_named():
    report, _ = report_of(rows(list(COVER)[:1]))
    assert len(report.first_missing) == 5
    assert report.first_missing == tuple(list(COVER)[1:6])


def test_corrupt_tiles_are_counted_named_and_listed():
    tiles = list(COVER)
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows(tiles)))
    walk.corrupt(tiles[7])
    walk.corrupt((5, 1, 1))  # outside the area
    report = walk.report()
    assert (report.present, report.missing, report.corrupt, report.first_corrupt) == (len(tiles), 0, 1, (tiles[7],))
    assert list(walk.lacks()) == [("corrupt", *tiles[7])]
    with pytest.raises(CoverageError, match=f"1 of {len(tiles)} tiles are corrupt") as caught:
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)
    assert "/".join(map(str, tiles[7])) in str(caught.value)
    assert "--update" in str(caught.value)


def test_findings_are_about_the_tiles_of_the_area_only():
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows([*COVER, (5, 1, 1)])))
    walk.passed_over(rows([next(iter(COVER))], source="b")[0])
    assert walk.findings().count(Kind.UNMEASURED) == len(COVER)
    assert walk.findings().passed_over() == {"b": 1}
