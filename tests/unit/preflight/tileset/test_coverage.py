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


def report_of(found, max_age=MONTH):
    walk = CoverageWalk(COVER, now=NOW, max_age=max_age)
    handed_on = list(walk.through(found))
    return walk.report(), handed_on


def test_a_whole_set_passes_and_is_handed_on_unchanged():
    found = rows(COVER)
    report, handed_on = report_of(found)
    assert handed_on == found
    assert (report.expected, report.present, report.missing, report.stale) == (len(COVER), len(COVER), 0, 0)
    assert report.sources == (("a", len(COVER)),)
    check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)


def test_rows_outside_the_area_are_left_out():
    report, handed_on = report_of(rows([(12, 0, 0), (5, 1, 1)]))
    assert handed_on == []
    assert report.present == 0


def test_missing_tiles_are_counted_named_and_explained():
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


def test_a_share_may_be_missing_where_the_mission_allows_it():
    report, _ = report_of(rows(list(COVER)[1:]))
    check(report, AREA, ZOOMS, allow_missing=1 / len(COVER), max_age=MONTH)
    with pytest.raises(CoverageError):
        check(report, AREA, ZOOMS, allow_missing=0.9 / len(COVER), max_age=MONTH)


def test_no_tiles_at_all_fails_whatever_is_allowed():
    report, _ = report_of([])
    with pytest.raises(CoverageError, match=f"none of the {len(COVER)} tiles.*C11 TileDownloader"):
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)


def test_stale_tiles_fail_also_when_missing_ones_may():
    tiles = list(COVER)
    report, _ = report_of(rows(tiles[:3]) + rows(tiles[3:5], age_days=31, source="b"))
    assert report.stale == 2
    assert report.first_stale == tuple(tiles[3:5])
    assert report.sources == (("a", 3), ("b", 2))
    with pytest.raises(CoverageError, match="2 of 5 tiles were captured more than 30 days ago"):
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)


def test_tiles_dated_in_the_future_are_stale_and_said_to_be_so():
    """Nobody knows how old they are. As far ahead as an import allows, they count as captured now."""
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


def test_only_what_is_wrong_with_dates_is_said():
    tiles = list(COVER)
    report, _ = report_of(rows(tiles, age_days=-2))
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)
    assert "days ago" not in str(caught.value)
    report, _ = report_of(rows(tiles, age_days=31))
    with pytest.raises(CoverageError) as caught:
        check(report, AREA, ZOOMS, allow_missing=0.0, max_age=MONTH)
    assert "future" not in str(caught.value)


def test_a_tile_from_the_future_is_wanted_again():
    tiles = list(COVER)
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows(tiles[:1], age_days=-2) + rows(tiles[1:])))
    assert list(walk.lacks()) == [("stale", *tiles[0])]


def test_what_is_lacking_is_told_tile_by_tile():
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


def test_what_is_lacking_is_geojson_of_the_tiles_borders():
    tiles = list(COVER)[:2]
    document = json.loads("".join(lacks_geojson([("missing", *tiles[0]), ("stale", *tiles[1])])))
    assert document["type"] == "FeatureCollection"
    assert [feature["properties"] for feature in document["features"]] == [
        {"zoom": tile[0], "x": tile[1], "y": tile[2], "reason": reason}
        for tile, reason in zip(tiles, ("missing", "stale"), strict=True)
    ]
    # RFC 7946: outer rings turn to the left; read back as an area, each is exactly its tile.
    for tile, feature in zip(tiles, document["features"], strict=True):
        assert shapely.geometry.shape(feature["geometry"]).exterior.is_ccw
        assert list(cover(area_from_geojson(json.dumps(feature)), [tile[0]])) == [tile]


def test_nothing_lacking_is_an_empty_collection():
    assert json.loads("".join(lacks_geojson([]))) == {"type": "FeatureCollection", "features": []}


def test_a_tile_of_exactly_the_greatest_age_is_fresh():
    report, _ = report_of(rows(COVER, age_days=30))
    assert report.stale == 0


def test_only_the_first_few_are_named():
    report, _ = report_of(rows(list(COVER)[:1]))
    assert len(report.first_missing) == 5
    assert report.first_missing == tuple(list(COVER)[1:6])


def test_corrupt_tiles_are_counted_named_and_listed():
    tiles = list(COVER)
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows(tiles)))
    walk.corrupt(tiles[7])
    walk.corrupt((5, 1, 1))  # not of the area
    report = walk.report()
    assert (report.present, report.missing, report.corrupt, report.first_corrupt) == (len(tiles), 0, 1, (tiles[7],))
    assert list(walk.lacks()) == [("corrupt", *tiles[7])]
    with pytest.raises(
        CoverageError, match=f"1 of {len(tiles)} tiles have no file or one that is not what was"
    ) as caught:
        check(report, AREA, ZOOMS, allow_missing=1.0, max_age=MONTH)
    assert "/".join(map(str, tiles[7])) in str(caught.value)
    assert "--update" in str(caught.value)


def test_remarks_are_on_the_tiles_of_the_area():
    walk = CoverageWalk(COVER, now=NOW, max_age=MONTH)
    list(walk.through(rows([*COVER, (5, 1, 1)])))
    walk.passed_over(rows([next(iter(COVER))], source="b")[0])
    assert walk.findings().count(Kind.UNMEASURED) == len(COVER)
    assert walk.findings().passed_over() == {"b": 1}
