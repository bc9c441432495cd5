from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.adapters.archives.mbtiles import MbTiles
from preflight.errors import ImportSourceError
from preflight.tile_import.source import MAX_TILE_BYTES, BadTile, OfferedTile

CONTAINERS = Path(__file__).parents[6] / "shared" / "data" / "containers"
PNG = b"\x89PNG\r\n\x1a\n and more"
JPG = b"\xff\xd8\xff and more"
WEBP = b"RIFF\0\0\0\0WEBPVP8 "


def lay(path, rows, metadata=()):
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        connection.execute("CREATE TABLE metadata (name text, value text)")
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", metadata)
        connection.commit()
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "some map ?#%.mbtiles"


def test_rows_count_from_the_south_and_pictures_are_told_by_their_bytes(file):
    lay(file, [(2, 0, 0, PNG), (2, 1, 3, JPG), (3, 7, 2, WEBP)])
    assert list(MbTiles(file)) == [
        OfferedTile(2, 0, 3, PNG, ".png"),
        OfferedTile(2, 1, 0, JPG, ".jpg"),
        OfferedTile(3, 7, 5, WEBP, ".webp"),
    ]


def test_a_file_against_the_format_is_read_by_its_scheme(file):
    lay(file, [(2, 0, 1, PNG)])
    assert [tile.y for tile in MbTiles(file, scheme="xyz")] == [1]
    assert [tile.y for tile in MbTiles(file, scheme="tms")] == [2]


def test_zooms_are_chosen_and_counted(file):
    lay(file, [(zoom, 0, 0, PNG) for zoom in range(6)])
    tiles = MbTiles(file, (2, 4))
    assert len(tiles) == 3
    assert [tile.zoom for tile in tiles] == [2, 3, 4]
    assert len(MbTiles(file, (7, 9))) == 0


def test_date_and_terms_come_from_the_metadata(file):
    facts = [("attribution", " © Some\n Body "), ("capture_date", "2025-06-01"), ("format", "png")]
    tiles = MbTiles(lay(file, [(0, 0, 0, PNG)], facts))
    assert tiles.terms == "© Some Body"
    assert tiles.captured_at == datetime(2025, 6, 1, tzinfo=timezone.utc)
    tiles = MbTiles(lay(file, [(0, 0, 0, PNG)], [("attribution", ""), ("capture_date", "soon")]))
    assert (tiles.terms, tiles.captured_at) == (None, None)


@pytest.mark.parametrize(
    ("rows", "metadata"),
    [([(0, 0, 0, PNG)], [("format", "pbf")]), ([(0, 0, 0, b"\x1f\x8b\x08layer")], []), ([(0, 0, 0, b"\x1a\x05x")], [])],
)
def test_vector_tiles_are_refused(file, rows, metadata):
    with pytest.raises(ImportSourceError, match="holds vector tiles"):
        MbTiles(lay(file, rows, metadata))


def test_one_that_is_no_picture_is_named_and_the_others_come(file):
    lay(file, [(1, 0, 0, PNG), (1, 1, 0, b"nonsense"), (1, 0, 1, None), (1, 1, 1, JPG)])
    first, second, third, fourth = MbTiles(file)
    assert isinstance(first, OfferedTile)
    assert isinstance(fourth, OfferedTile)
    assert (second.zoom, second.x, second.y) == (1, 1, 1)
    assert "neither PNG, JPEG nor WebP" in second.reason
    assert third == BadTile(1, 0, 0, "does not decode: it is empty, which is neither PNG, JPEG nor WebP")


def test_a_blob_too_large_is_not_read(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        connection.execute("INSERT INTO tiles VALUES (1, 0, 0, zeroblob(?))", (MAX_TILE_BYTES + 1,))
        connection.commit()
    [tile] = MbTiles(file)
    assert isinstance(tile, BadTile)
    assert "no tile has more" in tile.reason


def test_places_that_are_no_numbers_or_off_the_map(file):
    with pytest.raises(ImportSourceError, match="no whole numbers"):
        list(MbTiles(lay(file, [("a", 0, 0, PNG)])))
    assert [(one.zoom, one.x, one.y) for one in MbTiles(lay(file, [(60, 1, 2, PNG), (-3, 0, 0, PNG)]))] == [
        (60, 1, 2),
        (-3, 0, 0),
    ]


def test_a_file_cut_short_is_refused_before_a_tile(file):
    content = lay(file, [(9, x, 0, PNG * 100) for x in range(100)]).read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportSourceError, match=r"cut short|no whole MBTiles"):
        MbTiles(file)


def test_a_damaged_page_ends_the_reading(file):
    content = bytearray(lay(file, [(9, x, 0, PNG * 100) for x in range(400)]).read_bytes())
    content[4096 * 3 :] = b"\xa5" * (len(content) - 4096 * 3)
    file.write_bytes(content)
    with pytest.raises(ImportSourceError, match="no whole MBTiles file"):
        list(MbTiles(file))


def test_what_is_no_database_and_what_has_no_tiles(file):
    file.write_bytes(b"SQLite format 3\0" + b"nonsense" * 100)
    with pytest.raises(ImportSourceError, match="no whole MBTiles file"):
        MbTiles(file)
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE other (a)")
        connection.commit()
    with pytest.raises(ImportSourceError, match="no table `tiles`"):
        MbTiles(file)


def test_a_file_is_read_while_another_program_has_it_open(file):
    lay(file, [(0, 0, 0, PNG)])
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.executemany("INSERT INTO tiles VALUES (9, ?, 0, ?)", [(x, JPG * 100) for x in range(100)])
        writer.commit()
        assert len(list(MbTiles(file))) == 101


def test_a_file_that_is_being_written_is_not_read_halfway(file, monkeypatch):
    lay(file, [(0, 0, 0, PNG)])
    monkeypatch.setattr("preflight.adapters.archives.mbtiles._LOCK_TIMEOUT_S", 0)
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ImportSourceError, match="database is locked"):
            MbTiles(file)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 24), st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1)), max_size=20))
def test_every_place_of_the_map_comes_back(tmp_path_factory, places):
    places = {(zoom, x % (1 << zoom), y % (1 << zoom)) for zoom, x, y in places}
    path = tmp_path_factory.mktemp("mb") / "a.mbtiles"
    lay(path, [(zoom, x, (1 << zoom) - 1 - y, PNG) for zoom, x, y in places])
    assert {(tile.zoom, tile.x, tile.y) for tile in MbTiles(path)} == places


@pytest.mark.skipif(not CONTAINERS.is_dir(), reason="../shared/data is not here")
class TestRealFiles:
    @pytest.mark.parametrize("kind", ["jpg", "webp"])
    def test_the_world_in_five_tiles(self, kind):
        tiles = list(MbTiles(CONTAINERS / f"geography-class-{kind}.mbtiles"))
        assert {(one.zoom, one.x, one.y) for one in tiles} == {(0, 0, 0), *((1, x, y) for x in (0, 1) for y in (0, 1))}
        assert {one.suffix for one in tiles} == {f".{kind}"}

    def test_the_broken_ones(self):
        with pytest.raises(ImportSourceError, match="no table `tiles`"):
            MbTiles(CONTAINERS / "invalid.mbtiles")
        tiles = list(MbTiles(CONTAINERS / "invalid-tile-format.mbtiles"))
        assert [type(one) for one in tiles] == [BadTile, BadTile]
