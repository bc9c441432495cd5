"""The contract of TileMetadataStore."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import datetime, timedelta, timezone

import pytest

from preflight.adapters.c6 import (
    c6_tile_metadata_store_to_tiles_batch_query,
    c6_tile_metadata_store_to_tiles_query,
)
from preflight.area.web_mercator import tile_bounds, tile_center
from preflight.errors import ImportSourceError
from preflight.ports import ManifestRow
from preflight.records import SourceRecord, TileBboxRecord, TileHashRecord, TileRow

THEN = datetime(2025, 6, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=3)))


def row(zoom, x, y, source="a", digit="0"):
    lat, lon = tile_center(zoom, x, y)
    return TileRow(zoom, x, y, lat, lon, source, digit * 64, f"objects/{digit}.png", THEN)


def in_order(rows):
    return sorted(rows, key=lambda row: (row.zoom, row.lat, row.lon, row.source))


GRID = [row(14, x, y, source) for x in range(8000, 8004) for y in range(5000, 5005) for source in ("b", "a", "Ä")]


def test_a_new_store_is_empty(tile_store):
    assert tile_store.count() == 0
    assert tile_store.revision().revision == 0
    assert tile_store.revision().store_id
    assert list(tile_store.rows_in_box(3, (0, 7), (0, 7))) == []
    assert tile_store.manifests("/cache") == []


def test_rows_are_returned_bit_for_bit_and_in_order(tile_store):
    assert tile_store.upsert(GRID[::-1], replace=False) == len(GRID)
    assert tile_store.count() == len(GRID)
    rows = list(tile_store.rows_in_box(14, (8001, 8002), (5001, 5003)))
    assert rows == in_order(one for one in GRID if 8001 <= one.x <= 8002 and 5001 <= one.y <= 5003)
    assert [repr(one.lat) for one in rows][:1] == [repr(tile_center(14, 8001, 5003)[0])]
    assert {one.captured_at for one in rows} == {THEN}
    assert {one.captured_at.utcoffset() for one in rows} <= {timedelta(0), timedelta(hours=3)}


def test_ranges_include_both_ends_and_one_zoom_only(tile_store):
    tile_store.upsert([row(14, 8000, 5000), row(13, 8000, 5000)], replace=False)
    assert [one.zoom for one in tile_store.rows_in_box(14, (8000, 8000), (5000, 5000))] == [14]
    assert list(tile_store.rows_in_box(14, (8001, 8002), (5000, 5000))) == []
    assert list(tile_store.rows_in_box(14, (8000, 8000), (4998, 4999))) == []


def test_the_same_rows_again_change_neither_rows_nor_revision(tile_store):
    tile_store.upsert(GRID, replace=False)
    revision = tile_store.revision()
    other_path = [replace(one, path="elsewhere.png", captured_at=THEN - timedelta(days=1)) for one in GRID]
    assert tile_store.upsert(other_path, replace=False) == 0
    later = [replace(one, captured_at=THEN + timedelta(days=1)) for one in GRID]
    assert tile_store.upsert(later, replace=True) == 0
    assert tile_store.upsert([], replace=True) == 0
    assert tile_store.revision() == revision
    assert next(tile_store.rows_in_box(14, (8000, 8000), (5000, 5000))).path == GRID[0].path


def test_an_update_with_the_same_bytes_takes_only_the_path_and_an_earlier_date(tile_store):
    """Another program may have written a row with a missing file or a date in the future."""
    old = [replace(row(5, x, 1), texture=7.5) for x in range(5)]
    tile_store.upsert(old, replace=False)
    before = tile_store.revision().revision
    day = timedelta(days=1)
    lat, lon = old[0].lat + 1e-9, old[0].lon - 1e-9
    offered = [
        replace(old[0], path="new.png", captured_at=THEN + day, texture=9.0, lat=lat, lon=lon),
        replace(old[1], captured_at=THEN - day, texture=None),
        replace(old[2], path="new.png", captured_at=THEN - day),
        old[3],
        # Of a tile that is offered twice, the last row counts.
        replace(old[4], path="first.png", captured_at=THEN - day),
        replace(old[4], path="last.png"),
    ]
    assert tile_store.upsert(offered, replace=True) == 0
    after = [
        replace(old[0], path="new.png"),
        replace(old[1], captured_at=THEN - day),
        replace(old[2], path="new.png", captured_at=THEN - day),
        old[3],
        replace(old[4], path="last.png"),
    ]
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(after)
    corrected = tile_store.revision().revision
    assert corrected > before
    assert tile_store.changed_since(before) == {(5, 0, 1), (5, 1, 1), (5, 2, 1), (5, 4, 1)}
    assert tile_store.upsert(after, replace=True) == 0
    assert tile_store.upsert(offered[:4], replace=True) == 0
    assert tile_store.revision().revision == corrected


def test_an_update_counts_new_bytes_and_new_tiles_but_no_corrected_rows(tile_store):
    old = [row(5, 1, 1), row(5, 2, 1)]
    tile_store.upsert(old, replace=False)
    before = tile_store.revision().revision
    offered = [replace(old[0], path="new.png"), row(5, 2, 1, digit="1"), row(5, 3, 1)]
    assert tile_store.upsert(offered, replace=True) == 2
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(offered)
    assert tile_store.changed_since(before) == {(5, 1, 1), (5, 2, 1), (5, 3, 1)}


def test_other_bytes_are_refused_and_nothing_of_the_call_is_kept(tile_store):
    tile_store.upsert([row(14, 8000, 5000)], replace=False)
    revision = tile_store.revision()
    with pytest.raises(ImportSourceError, match="14/8000/5000 of a"):
        tile_store.upsert([row(14, 8001, 5000), row(14, 8000, 5000, digit="1")], replace=False)
    assert tile_store.count() == 1
    assert tile_store.revision() == revision


def test_a_tile_offered_twice_with_other_bytes_is_refused(tile_store):
    with pytest.raises(ImportSourceError, match="14/8000/5000 of a"):
        tile_store.upsert([row(14, 8000, 5000), row(14, 8000, 5000, digit="1")], replace=False)
    assert tile_store.count() == 0


def test_a_tile_offered_twice_with_the_same_bytes_counts_once(tile_store):
    assert tile_store.upsert([row(14, 8000, 5000), row(14, 8000, 5000)], replace=False) == 1


def test_with_replace_other_bytes_win_and_the_last_row_counts(tile_store):
    tile_store.upsert([row(14, 8000, 5000), row(14, 8001, 5000)], replace=False)
    first = tile_store.revision()
    offered = [row(14, 8000, 5000, digit="1"), row(14, 8000, 5000, digit="2"), row(14, 8001, 5000)]
    assert tile_store.upsert(offered, replace=True) == 1
    assert tile_store.count() == 2
    assert next(tile_store.rows_in_box(14, (8000, 8000), (5000, 5000))) == offered[1]
    assert tile_store.revision().store_id == first.store_id
    assert tile_store.revision().revision > first.revision


def test_each_change_advances_the_revision(tile_store):
    revisions = [tile_store.revision()]
    for x in range(8000, 8003):
        tile_store.upsert([row(14, x, 5000)], replace=False)
        revisions.append(tile_store.revision())
    assert [one.revision for one in revisions] == sorted({one.revision for one in revisions})
    assert len({one.store_id for one in revisions}) == 1


def test_the_source_is_part_of_the_key_of_a_tile(tile_store):
    offered = [row(14, 8000, 5000, "a"), row(14, 8000, 5000, "b", digit="1")]
    assert tile_store.upsert(offered, replace=False) == 2


@pytest.fixture
def two_zooms(tile_store):
    """A store with the grid at zoom 14 and a row of tiles at zoom 15."""
    tile_store.upsert([*GRID, *(row(15, x, 10000) for x in range(16000, 16008))], replace=False)
    return tile_store


INSIDE = in_order(one for one in GRID if (one.x, one.y) == (8001, 5001))


def test_a_bbox_gives_the_tiles_whose_interior_overlaps_it(two_zooms):
    box = tile_bounds(14, 8001, 5001)
    for sector in ("stable_rear", "active_conflict"):
        assert list(two_zooms.query_by_bbox(bbox=box, zoom_levels=[15, 14], sector_class=sector)) == INSIDE
    assert list(two_zooms.query_by_bbox(bbox=box, zoom=14)) == INSIDE
    wide = list(two_zooms.query_by_bbox(bbox=tile_bounds(13, 4000, 2500), zoom_levels=[15, 14]))
    assert [one.zoom for one in wide] == [14] * 12 + [15] * 4
    assert wide == in_order(wide)


def test_a_query_of_a_bbox_may_name_one_zoom_or_several(two_zooms):
    box = tile_bounds(13, 4000, 2500)
    both = list(two_zooms.query_by_bbox(bbox=box, zoom_levels=[14, 15]))
    assert list(two_zooms.query_by_bbox(bbox=box, zoom=15, zoom_levels=[14])) == both
    assert list(two_zooms.query_by_bbox(bbox=box, zoom=14, zoom_levels=[14, 15, 15])) == both
    assert list(two_zooms.query_by_bbox(bbox=box, zoom=15)) == both[12:]
    assert list(two_zooms.query_by_bbox(bbox=box, zoom=16)) == []


def test_a_row_has_the_shape_that_c6_gives_its_rows(two_zooms):
    first = next(two_zooms.query_by_bbox(bbox=tile_bounds(14, 8001, 5001), zoom=14))
    tile = first.tile_id
    assert (tile.zoom_level, tile.lat, tile.lon) == (14, *tile_center(14, 8001, 5001))
    assert (first.source, first.content_sha256_hex) == (INSIDE[0].source, INSIDE[0].sha256)


def test_the_query_with_hashes_over_a_store(two_zooms):
    query = c6_tile_metadata_store_to_tiles_query(two_zooms)
    found = query.query_by_bbox(bbox=tile_bounds(14, 8001, 5001), zoom_levels=[15, 14], sector_class="stable_rear")
    assert list(found) == [TileHashRecord(one.zoom, one.lat, one.lon, one.source, one.sha256) for one in INSIDE]


def test_the_batch_query_over_a_store(two_zooms):
    query = c6_tile_metadata_store_to_tiles_batch_query(two_zooms)
    box = astuple(tile_bounds(14, 8001, 5001))
    tiles = query.query_by_bbox_batch(bbox=box, zoom_levels=[14], sector_class="active_conflict")
    assert tiles == [TileBboxRecord(one.zoom, one.lat, one.lon, one.source) for one in INSIDE]
    wide = query.query_by_bbox_batch(
        bbox=astuple(tile_bounds(13, 4000, 2500)), zoom_levels=[15, 14], sector_class="stable_rear"
    )
    assert [one.zoom for one in wide] == [14] * 12 + [15] * 4


def test_a_stream_reads_the_snapshot_of_its_start(tile_store):
    tile_store.upsert(GRID, replace=False)
    stream = tile_store.rows_in_box(14, (8000, 8003), (5000, 5004))
    first = next(stream)
    tile_store.upsert([row(14, 8000, 5000, "z")], replace=False)
    assert [first, *stream] == in_order(GRID)


def test_streams_may_run_in_parallel_and_stop_early(tile_store):
    tile_store.upsert(GRID, replace=False)
    first, second = (tile_store.rows_in_box(14, (8000, 8003), (5000, 5004)) for _ in range(2))
    assert next(first) == next(second)
    assert tile_store.count() == len(GRID)


def test_manifests_are_stored_by_root_and_generation(tile_store):
    def manifest(generation, status, root="/cache"):
        times = THEN, THEN + timedelta(days=30)
        return ManifestRow(root, generation, "a" * 64, "b" * 64, None, "c" * 64, *times, status)

    tile_store.record_manifest(manifest(2, "pending"))
    tile_store.record_manifest(manifest(1, "active"))
    tile_store.record_manifest(manifest(2, "active"))
    tile_store.record_manifest(manifest(7, "active", "/other"))
    assert tile_store.manifests("/cache") == [manifest(1, "active"), manifest(2, "active")]
    flight = replace(manifest(1, "retired"), flight_id="0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10")
    tile_store.record_manifest(flight)
    assert tile_store.manifests("/cache")[0] == flight


def test_the_tiles_changed_since_a_revision_are_listed(tile_store):
    tile_store.upsert([row(5, 1, 1), row(5, 2, 2)], replace=False)
    before = tile_store.revision().revision
    assert tile_store.changed_since(before) == frozenset()
    tile_store.upsert([row(5, 1, 1), row(5, 3, 3), row(6, 0, 0, source="b")], replace=False)
    tile_store.upsert([row(5, 2, 2, digit="9")], replace=True)
    assert tile_store.changed_since(before) == {(5, 3, 3), (6, 0, 0), (5, 2, 2)}
    assert tile_store.changed_since(tile_store.revision().revision) == frozenset()


def test_rows_of_tiles_have_all_their_sources_in_order(tile_store):
    kept = [row(5, 2, 2, source="a"), row(5, 2, 2, source="b"), row(6, 1, 1)]
    tile_store.upsert([*kept, row(5, 1, 1)], replace=False)
    assert tile_store.rows_of_tiles([(6, 1, 1), (5, 2, 2), (5, 9, 9)]) == in_order(kept)
    assert tile_store.rows_of_tiles([]) == []


def test_the_provenance_of_sources_is_stored_by_name_and_origin(tile_store):
    revision = tile_store.revision()
    first = SourceRecord("field", "/media/a.mbtiles", "CC BY 4.0, Ünit", THEN, THEN + timedelta(days=2))
    second = SourceRecord("field", "/media/b.tif", None, None, THEN)
    tile_store.record_source(second)
    tile_store.record_source(SourceRecord("Zeta", "/z", None, None, THEN))
    tile_store.record_source(replace(first, terms=None))
    tile_store.record_source(first)
    assert tile_store.sources() == [SourceRecord("Zeta", "/z", None, None, THEN), first, second]
    assert tile_store.revision() == revision


def test_a_new_store_has_no_source(tile_store):
    assert tile_store.sources() == []


def test_texture_is_stored_or_missing(tile_store):
    kept = [replace(row(5, 1, 1), texture=12.345), row(5, 2, 1), replace(row(5, 3, 1), texture=0.0)]
    tile_store.upsert(kept, replace=False)
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(kept)
    assert tile_store.rows_of_tiles([(5, 1, 1), (5, 2, 1), (5, 3, 1)]) == in_order(kept)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_missing_texture_is_filled_in_as_a_change_that_is_not_counted(tile_store, replaced):
    old = [row(5, 1, 1), replace(row(5, 2, 1), texture=7.5), row(5, 3, 1)]
    tile_store.upsert(old, replace=False)
    before = tile_store.revision().revision
    offered = [replace(old[0], texture=20.0, path="elsewhere.png"), replace(old[1], texture=99.0), row(5, 4, 1)]
    assert tile_store.upsert(offered, replace=replaced) == 1
    path = "elsewhere.png" if replaced else old[0].path
    after = [replace(old[0], texture=20.0, path=path), old[1], old[2], row(5, 4, 1)]
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(after)
    # The revision must advance, because equal revisions promise equal rows.
    filled = tile_store.revision().revision
    assert filled > before
    assert tile_store.changed_since(before) == {(5, 1, 1), (5, 4, 1)}
    assert tile_store.upsert(offered, replace=replaced) == 0
    assert tile_store.upsert(old[1:], replace=replaced) == 0
    assert tile_store.revision().revision == filled
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(after)


def test_other_bytes_replace_the_texture_too(tile_store):
    tile_store.upsert([replace(row(5, 1, 1), texture=7.5), replace(row(5, 2, 1), texture=7.5)], replace=False)
    other = [replace(row(5, 1, 1, digit="1"), texture=3.0), row(5, 2, 1, digit="1")]
    assert tile_store.upsert(other, replace=True) == 2
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(other)


def test_a_refused_call_fills_in_no_texture(tile_store):
    old = [row(5, 1, 1), row(5, 2, 1)]
    tile_store.upsert(old, replace=False)
    with pytest.raises(ImportSourceError):
        tile_store.upsert([replace(old[0], texture=3.0), row(5, 2, 1, digit="1")], replace=False)
    assert list(tile_store.rows_in_box(5, (0, 9), (0, 9))) == in_order(old)
