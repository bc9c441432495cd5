from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from preflight.area.web_mercator import tile_center
from preflight.records import TileRow
from preflight.tileset.source_choice import choose_sources

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)


def row(zoom, x, y, source="a"):
    return TileRow(zoom, x, y, *tile_center(zoom, x, y), source, "ab" * 32, "objects/ab/ab.png", THEN)


def test_the_preferred_source_is_kept_and_unlisted_ones_by_name():
    tile = [row(12, 2000, 1500, source) for source in ("a", "b", "c")]
    assert [one.source for one in choose_sources(tile, ["c", "b"])] == ["c"]
    assert [one.source for one in choose_sources(tile, [])] == ["a"]
    assert [one.source for one in choose_sources(tile, ["z"])] == ["a"]


def test_sources_with_different_centres_of_a_tile_give_one_row():
    west, east = row(12, 2000, 1500, "a"), row(12, 2001, 1500, "a")
    nudged = replace(row(12, 2000, 1500, "b"), lat=east.lat + 1e-12)
    assert list(choose_sources([west, east, nudged], ["b"])) == [east, nudged]
