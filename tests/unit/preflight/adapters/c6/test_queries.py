"""What a C6 metadata store returns is checked before it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from types import SimpleNamespace

import pytest

from preflight.adapters.c6 import (
    c6_tile_metadata_store_to_tiles_batch_query,
    c6_tile_metadata_store_to_tiles_query,
)
from preflight.adapters.c6.queries import checked_rows, key_of, rows_of_boxes
from preflight.area.web_mercator import tile_bounds, tile_center
from preflight.errors import DatabaseError, TileContentError
from preflight.records import BoundingBox, TileBboxRecord, TileHashRecord, TileId

X, Y = 8000, 5000
HASH = "0123456789abcdef" * 4


class Source(Enum):
    """A plain enum of a caller's."""

    SATELLITE = "satellite"


@dataclass(frozen=True)
class Row:
    """A row of a caller's own class."""

    tile_id: object
    source: object = "memory"
    content_sha256_hex: object = HASH


def row(x=X, y=Y, zoom=14, **changes):
    return Row(TileId(zoom, *tile_center(zoom, x, y)), **changes)


class Store:
    """C6's shortest store. It returns all rows of a zoom, wherever they lie."""

    def __init__(self, *rows):
        self.rows = rows
        self.asked = []

    def query_by_bbox(self, *, bbox, zoom):
        self.asked.append((bbox, zoom))
        return (one for one in self.rows if getattr(one.tile_id, "zoom_level", zoom) == zoom)


class StoreOfManifests(Store):
    """A store with the manifest's form of the query."""

    def query_by_bbox(self, *, bbox, zoom_levels, sector_class):
        self.asked.append((bbox, zoom_levels, sector_class))
        return [one for one in self.rows if one.tile_id.zoom_level in zoom_levels]


class StoreOfAnything(Store):
    """A store that hands its arguments on."""

    def query_by_bbox(self, **arguments):
        return Store.query_by_bbox(self, **arguments)


BOX = tile_bounds(13, X // 2, Y // 2)
FOUR = [row(x, y) for x in (X, X + 1) for y in (Y, Y + 1)]


def hashes(store, zooms=(14,), box=BOX):
    query = c6_tile_metadata_store_to_tiles_query(store)
    return list(query.query_by_bbox(bbox=box, zoom_levels=zooms, sector_class="stable_rear"))


def test_rows_become_records_in_the_order_of_the_port():
    rows = [*FOUR, row(source="b", content_sha256_hex="f" * 64), row(2 * X, 2 * Y, 15)]
    found = hashes(Store(*rows[::-1]), zooms=(15, 14))
    assert found == [
        TileHashRecord(*key[:3], key[3], one.content_sha256_hex) for key, one in sorted((key_of(r), r) for r in rows)
    ]
    assert [one.zoom for one in found] == [14] * 5 + [15]


def test_the_batch_query_takes_a_tuple_and_gives_no_hashes():
    query = c6_tile_metadata_store_to_tiles_batch_query(Store(*FOUR))
    found = query.query_by_bbox_batch(
        bbox=(BOX.lat_min, BOX.lon_min, BOX.lat_max, BOX.lon_max), zoom_levels=[14], sector_class="stable_rear"
    )
    assert found == [TileBboxRecord(*key_of(one)) for one in sorted(FOUR, key=key_of)]


@pytest.mark.parametrize("kind", [Store, StoreOfAnything])
def test_a_store_that_takes_a_zoom_is_asked_for_one_at_a_time(kind):
    store = kind(*FOUR)
    assert len(hashes(store, zooms=(15, 14))) == 4
    assert store.asked == [(BOX, 14), (BOX, 15)]


def test_a_store_that_takes_zoom_levels_is_asked_with_the_sector_class():
    store = StoreOfManifests(*FOUR)
    assert len(hashes(store, zooms=(15, 14))) == 4
    assert store.asked == [(BOX, (14,), "stable_rear"), (BOX, (15,), "stable_rear")]


def test_a_source_may_be_an_enum():
    (found,) = hashes(Store(row(source=Source.SATELLITE)))
    assert found.source == "satellite"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(X + 2), "lies outside the box"),
        (row(X, Y - 1), "lies outside the box"),
        (Row(TileId(14, 91.0, 0.0)), "lies outside the box"),
        (Row(TileId(14, float("nan"), 0.0)), "lies outside the box"),
        (row(content_sha256_hex=HASH.upper()), "is not 64 hex digits"),
        (row(content_sha256_hex=HASH[:-1]), "is not 64 hex digits"),
        (row(content_sha256_hex=f"{HASH}\n"), "is not 64 hex digits"),
        (row(content_sha256_hex=None), "the hash None"),
        (row(content_sha256_hex=bytes.fromhex(HASH)), "is not 64 hex digits"),
        (row(source=""), "without a source"),
        (row(source=None), "without a source"),
        (Row(None), "a row without tile_id"),
        (Row(SimpleNamespace(zoom_level=14, lat="46", lon=2.0)), "a row without tile_id"),
        (Row(SimpleNamespace(zoom_level=14.0, lat=46.0, lon=2.0)), "a row without tile_id"),
        (Row(SimpleNamespace(zoom_level=14, lat=46.0, lon=True)), "a row without tile_id"),
    ],
)
def test_a_bad_row_is_refused_and_named(bad, said):
    with pytest.raises(TileContentError, match=said) as caught:
        hashes(Store(*FOUR, bad))
    assert str(caught.value).endswith("Repair the store")


def test_a_row_of_another_zoom_is_refused():
    class Confused(Store):
        def query_by_bbox(self, *, bbox, zoom):
            return self.rows

    with pytest.raises(TileContentError, match="for a query of zoom 15"):
        hashes(Confused(*FOUR), zooms=(15,))


def test_a_row_that_comes_twice_is_refused_even_with_other_bytes():
    with pytest.raises(TileContentError, match=r"tile 14 at .* of source 'memory' twice"):
        hashes(Store(*FOUR, replace(FOUR[2], content_sha256_hex="a" * 64)))


def test_two_positions_in_one_tile_are_the_same_tile():
    lat, lon = tile_center(14, X, Y)
    with pytest.raises(TileContentError, match="twice"):
        hashes(Store(row(), Row(TileId(14, lat + 1e-4, lon))))


def test_a_zoom_that_is_asked_for_twice_is_no_row_twice():
    assert len(hashes(Store(*FOUR), zooms=(14, 14))) == 4


def test_a_tile_that_only_touches_the_box_is_outside():
    inside = tile_bounds(14, X, Y)
    with pytest.raises(TileContentError, match="outside"):
        hashes(Store(row(X + 1)), box=inside)
    assert len(hashes(Store(row()), box=inside)) == 1


@pytest.mark.parametrize("error", [RuntimeError("no route"), KeyError("x"), TypeError("y")])
def test_an_error_of_the_store_is_translated_and_kept_as_the_cause(error):
    class Broken:
        def query_by_bbox(self, *, bbox, zoom):
            yield row()
            raise error

    with pytest.raises(DatabaseError, match=f"cannot be queried at zoom 14: {type(error).__name__}") as caught:
        hashes(Broken())
    assert caught.value.__cause__ is error


def test_an_error_of_this_package_is_raised_as_it_is():
    class Ours:
        def query_by_bbox(self, *, bbox, zoom):
            raise DatabaseError("no server")

    with pytest.raises(DatabaseError, match="no server"):
        hashes(Ours())


def test_boxes_that_share_a_tile_give_it_once():
    wide = BoundingBox(BOX.lat_min, BOX.lon_min - 1e-9, BOX.lat_max, BOX.lon_max)

    class Exact(Store):
        def query_by_bbox(self, *, bbox, zoom):
            return self.rows

    rows = rows_of_boxes(Exact(*FOUR), [BOX, wide], (14,), "stable_rear")
    assert rows == sorted(FOUR, key=key_of)
    assert checked_rows(Exact(*FOUR), BOX, (14,), "stable_rear") == rows
