from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from preflight.area.web_mercator import tile_center
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.sealing import pack_row, seal

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)


def row(zoom, x, y, source="a", content=b"tile"):
    lat, lon = tile_center(zoom, x, y)
    sha256 = hashlib.sha256(content).hexdigest()
    return TileRow(zoom, x, y, lat, lon, source, sha256, f"objects/{sha256[:2]}/{sha256}.png", THEN)


def in_order(rows):
    return sorted(rows, key=lambda one: (one.zoom, one.lat, one.lon, one.source))


def test_the_aggregate_of_a_known_set():
    rows = [
        TileRow(1, 1, 0, 66.51326044311185, 90.0, "esri", "00" * 32, "a.png", THEN),
        TileRow(2, 2, 1, 40.97989806962013, 45.0, "oäm", "ff" * 32, "b.png", THEN),
    ]
    lines = (
        "1|66.51326044311185|90.0|esri|" + "00" * 32 + "\n" + "2|40.97989806962013|45.0|oäm|" + "ff" * 32 + "\n"
    ).encode()
    header = seal(rows, io.BytesIO())
    assert header.aggregate == hashlib.sha256(lines).hexdigest()
    assert header.aggregate == "4315abc49a27e351dfe12f700e8c7de1449d3751d63dd7d7cc1e0a58376b771f"


def test_two_tiles_with_the_same_id_are_refused():
    one, other = row(12, 2000, 1500), row(12, 2000, 1500, "b")
    with pytest.raises(TileContentError, match="tiles 12/2000/1500 and 12/2000/1500 have the same id"):
        seal([one, other], io.BytesIO())


def test_a_tile_that_occurs_twice_with_different_centres_is_refused():
    one = row(12, 2000, 1500)
    other = replace(one, lon=one.lon + 1e-9, source="b")
    with pytest.raises(TileContentError, match="12/2000/1500 occurs twice"):
        seal([one, other], io.BytesIO())


def test_the_reserved_id_is_refused(monkeypatch):
    monkeypatch.setattr("preflight.tileset.sealing.tile_id", lambda *_: -1)
    with pytest.raises(TileContentError, match="-1"):
        seal([row(12, 2000, 1500)], io.BytesIO())


def test_a_centre_outside_its_tile_is_refused():
    with pytest.raises(TileContentError, match="outside the tile"):
        seal([replace(row(12, 2000, 1500), x=2001)], io.BytesIO())


def test_an_invalid_hash_is_refused():
    with pytest.raises(TileContentError, match="no SHA-256"):
        seal([replace(row(12, 2000, 1500), sha256="abc")], io.BytesIO())


def test_more_sources_than_the_format_can_number_are_refused():
    with pytest.raises(TileContentError, match=r"more than 65,536 sources.*--source"):
        pack_row(row(12, 2000, 1500), 1 << 16)


def test_sources_whose_names_do_not_fit_the_header_are_refused():
    """A reader would refuse such a file."""
    rows = in_order([row(12, 2000 + number, 1500, f"{number}" * 100_000) for number in range(11)])
    with pytest.raises(TileContentError, match=r"names of the 11 sources .* exceed the header .*--source"):
        seal(rows, io.BytesIO())


def test_unsorted_rows_are_an_error_of_the_caller():
    rows = in_order([row(12, 2000, 1500), row(12, 2001, 1500, "b"), row(13, 4000, 3000, "a", b"other")])
    with pytest.raises(ValueError, match="rows must be sorted by"):
        seal(rows[::-1], io.BytesIO())
