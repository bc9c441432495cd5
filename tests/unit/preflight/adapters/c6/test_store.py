"""A whole tile store over a C6 metadata store that can only be queried."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from preflight.adapters.c6.store import QueriedTileStore
from preflight.area.web_mercator import tile_bounds, tile_center
from preflight.errors import DatabaseError, TileContentError
from preflight.ports import ManifestRow
from preflight.records import SourceRecord, TileId

NOW = datetime(2026, 5, 1, 12, 0, 0, 250, tzinfo=timezone.utc)
EARLIER = NOW - timedelta(days=9)
X, Y = 8000, 5000
BOX = tile_bounds(13, X // 2, Y // 2)


def row(x=X, y=Y, source="memory", digit="0", **more):
    tile = TileId(14, *tile_center(14, x, y))
    return SimpleNamespace(tile_id=tile, source=source, content_sha256_hex=digit * 64, **more)


class C6:
    """C6's shortest store. Rows can be exchanged."""

    def __init__(self, *rows):
        self.rows = list(rows)
        self.queries = 0

    def query_by_bbox(self, *, bbox, zoom):
        self.queries += 1
        return [one for one in self.rows if bbox.lat_min < one.tile_id.lat < bbox.lat_max]


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store_of(tmp_path, clock):
    """store_of(c6): the store over it, for a cache root that stays the same in a test."""

    def make(c6):
        return QueriedTileStore(
            c6,
            [BOX],
            (14,),
            "stable_rear",
            clock=clock,
            seen=tmp_path / "first_seen",
            write=lambda path, content: path.write_bytes(content),
        )

    return make


def times(store):
    return {one.sha256[0]: one.captured_at for one in store.rows_in_box(14, (X, X + 1), (Y, Y + 1))}


def test_the_revision_is_equal_as_long_as_the_rows_are(store_of):
    rows = [row(), row(X + 1, digit="1"), row(source="b")]
    first = store_of(C6(*rows)).revision()
    assert store_of(C6(*rows[::-1])).revision() == first
    again = store_of(C6(*rows))
    assert again.revision() == again.revision() == first


@pytest.mark.parametrize(
    "changed",
    [
        [],
        [row(), row(X + 1)],
        [row(digit="1")],
        [row(source="other")],
        [row(X + 1)],
        [row(captured_at=EARLIER)],
    ],
)
def test_the_revision_changes_with_every_change_of_a_row(store_of, changed):
    c6 = C6(row())
    store = store_of(c6)
    before = store.revision()
    c6.rows[:] = changed
    assert store.revision() != before
    assert [one.sha256 for one in store.rows_in_box(14, (X, X + 1), (Y, Y + 1))] == [
        one.content_sha256_hex for one in changed
    ]
    c6.rows[:] = [row()]
    assert store.revision() == before


def test_the_log_says_once_that_a_revision_costs_a_query(store_of, caplog):
    store = store_of(C6(row(captured_at=EARLIER)))
    store.revision()
    store.revision()
    assert [record.event for record in caplog.records] == ["c10.tiles.no_revision"]
    assert caplog.records[0].name == "c10_provisioning"


def test_rows_have_their_place_source_and_date(store_of):
    store = store_of(C6(row(X + 1, Y + 1, captured_at=EARLIER), row(source="b", digit="b", captured_at=EARLIER)))
    found = list(store.rows_in_box(14, (X, X + 1), (Y, Y + 1)))
    assert {(one.zoom, one.x, one.y, one.source, one.captured_at) for one in found} == {
        (14, X + 1, Y + 1, "memory", EARLIER),
        (14, X, Y, "b", EARLIER),
    }
    assert [one.path for one in found] == list(store.tiles)
    assert [store.tiles[one.path] for one in found] == [TileId(one.zoom, one.lat, one.lon) for one in found]
    assert store.count() == 2
    assert list(store.rows_in_box(13, (0, 9999), (0, 9999))) == []
    assert [one.y for one in store.rows_in_box(14, (X, X + 1), (Y + 1, Y + 1))] == [Y + 1]
    assert [one.x for one in store.rows_of_tiles([(14, X, Y), (14, 1, 1)])] == [X]


def test_a_query_takes_one_zoom_or_several(store_of):
    store = store_of(C6(row(captured_at=EARLIER)))
    whole = list(store.rows_in_box(14, (X, X), (Y, Y)))
    assert list(store.query_by_bbox(bbox=BOX, zoom=14)) == whole
    assert list(store.query_by_bbox(bbox=BOX, zoom_levels=[14], sector_class="stable_rear")) == whole
    assert list(store.query_by_bbox(bbox=BOX)) == []


def test_a_tile_without_a_date_keeps_the_time_when_its_bytes_were_seen_first(store_of, clock):
    c6 = C6(row())
    assert times(store_of(c6)) == {"0": NOW}
    clock.now = NOW + timedelta(days=3)
    c6.rows += [row(X + 1, digit="1"), row(X, Y + 1, digit="2", captured_at=EARLIER)]
    assert times(store_of(c6)) == {"0": NOW, "1": clock.now, "2": EARLIER}
    clock.now = NOW + timedelta(days=5)
    c6.rows[0] = row(digit="3")
    assert times(store_of(c6)) == {"3": clock.now, "1": NOW + timedelta(days=3), "2": EARLIER}
    c6.rows[0] = row()
    assert times(store_of(c6))["0"] == NOW


def test_two_tiles_with_the_same_bytes_have_the_same_time(store_of, clock):
    c6 = C6(row(), row(X + 1))
    store = store_of(c6)
    assert [one.captured_at for one in store.rows_in_box(14, (X, X + 1), (Y, Y))] == [NOW, NOW]


def test_only_new_tiles_without_a_date_are_logged_and_written(store_of, tmp_path, caplog):
    c6 = C6(row(), row(X + 1, digit="1"))
    times(store_of(c6))
    (undated,) = [record for record in caplog.records if record.event == "c10.tiles.undated"]
    assert (undated.levelno, undated.fields) == (logging.WARNING, {"tiles": 2})
    caplog.clear()
    stamp = (tmp_path / "first_seen").stat().st_mtime_ns
    times(store_of(c6))
    assert [record.event for record in caplog.records] == ["c10.tiles.no_revision"]
    assert (tmp_path / "first_seen").stat().st_mtime_ns == stamp


def test_without_undated_tiles_nothing_is_written(store_of, tmp_path):
    times(store_of(C6(row(captured_at=EARLIER))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("date", [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 1_700_000_000])  # noqa: DTZ001 - the bad value
def test_a_date_without_a_time_zone_is_refused(store_of, date):
    with pytest.raises(TileContentError, match=r"no time zone\. Repair the store"):
        store_of(C6(row(captured_at=date))).revision()


def test_a_tile_that_is_placed_at_its_corner_is_said(store_of, caplog):
    bounds = tile_bounds(14, X, Y)
    corner = row()
    corner.tile_id = TileId(14, bounds.lat_max - 1e-9, bounds.lon_min)
    store_of(C6(row(X + 1))).revision()
    assert "c10.tiles.off_centre" not in [record.event for record in caplog.records]
    store_of(C6(corner, row(X + 1))).revision()
    (record,) = (record for record in caplog.records if record.event == "c10.tiles.off_centre")
    assert record.fields["tiles"] == 1


def test_a_store_that_raises_is_refused_with_its_error_as_the_cause(store_of):
    class Broken:
        def query_by_bbox(self, *, bbox, zoom):
            raise ConnectionError("no route")

    with pytest.raises(DatabaseError, match="ConnectionError: no route") as caught:
        store_of(Broken()).count()
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_nothing_is_imported_into_a_c6_store_and_it_knows_no_history(store_of):
    store = store_of(C6(row()))
    with pytest.raises(TileContentError, match="C11 TileDownloader"):
        store.upsert([], replace=True)
    store.record_source(SourceRecord("a", "/a", None, None, NOW))
    assert store.sources() == []
    assert store.changed_since(0) is None


def manifest(generation):
    return ManifestRow("/cache", generation, "a" * 64, "b" * 64, None, "c" * 64, NOW, NOW, "active")


def test_manifest_rows_go_to_a_store_that_keeps_them(store_of):
    class Keeping(C6):
        def __init__(self):
            super().__init__()
            self.kept = []

        def record_manifest(self, row):
            self.kept.append(row)

        def manifests(self, cache_root):
            return iter([row for row in self.kept if row.cache_root == cache_root])

    store = store_of(Keeping())
    store.record_manifest(manifest(3))
    assert store.manifests("/cache") == [manifest(3)]
    assert store.manifests("/other") == []


def test_the_log_says_that_a_store_keeps_no_manifest_rows(store_of, caplog):
    caplog.set_level(logging.INFO)
    store = store_of(C6())
    store.record_manifest(manifest(3))
    (record,) = caplog.records
    assert (record.event, record.fields) == ("c10.manifest.row_not_kept", {"generation": 3, "status": "active"})
    assert store.manifests("/cache") == []
