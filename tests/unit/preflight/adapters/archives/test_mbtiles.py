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


def write_mbtiles(path, rows, metadata=()):
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


def test_rows_count_from_the_south_and_the_bytes_tell_the_format(file):
    write_mbtiles(file, [(2, 0, 0, PNG), (2, 1, 3, JPG), (3, 7, 2, WEBP)])
    assert list(MbTiles(file)) == [
        OfferedTile(2, 0, 3, PNG, ".png"),
        OfferedTile(2, 1, 0, JPG, ".jpg"),
        OfferedTile(3, 7, 5, WEBP, ".webp"),
    ]


def test_the_scheme_sets_the_numbering_of_rows(file):
    write_mbtiles(file, [(2, 0, 1, PNG)])
    assert [tile.y for tile in MbTiles(file, scheme="xyz")] == [1]
    assert [tile.y for tile in MbTiles(file, scheme="tms")] == [2]


def test_only_the_requested_zooms_are_read_and_counted(file):
    write_mbtiles(file, [(zoom, 0, 0, PNG) for zoom in range(6)])
    tiles = MbTiles(file, (2, 4))
    assert len(tiles) == 3
    assert [tile.zoom for tile in tiles] == [2, 3, 4]
    assert len(MbTiles(file, (7, 9))) == 0


def test_date_and_terms_come_from_the_metadata(file):
    metadata = [("attribution", " © Some\n Body "), ("capture_date", "2025-06-01"), ("format", "png")]
    tiles = MbTiles(write_mbtiles(file, [(0, 0, 0, PNG)], metadata))
    assert tiles.terms == "© Some Body"
    assert tiles.captured_at == datetime(2025, 6, 1, tzinfo=timezone.utc)
    tiles = MbTiles(write_mbtiles(file, [(0, 0, 0, PNG)], [("attribution", ""), ("capture_date", "soon")]))
    assert (tiles.terms, tiles.captured_at) == (None, None)


@pytest.mark.parametrize(
    ("rows", "metadata"),
    [([(0, 0, 0, PNG)], [("format", "pbf")]), ([(0, 0, 0, b"\x1f\x8b\x08layer")], []), ([(0, 0, 0, b"\x1a\x05x")], [])],
)
def test_vector_tiles_are_refused(file, rows, metadata):
    with pytest.raises(ImportSourceError, match="holds vector tiles"):
        MbTiles(write_mbtiles(file, rows, metadata))


def test_a_tile_that_is_no_image_is_reported_and_the_others_are_read(file):
    write_mbtiles(file, [(1, 0, 0, PNG), (1, 1, 0, b"nonsense"), (1, 0, 1, None), (1, 1, 1, JPG)])
    first, second, third, fourth = MbTiles(file)
    assert isinstance(first, OfferedTile)
    assert isinstance(fourth, OfferedTile)
    assert (second.zoom, second.x, second.y) == (1, 1, 1)
    assert "neither PNG, JPEG nor WebP" in second.reason
    assert third == BadTile(1, 0, 0, "does not decode: it is empty, which is neither PNG, JPEG nor WebP")


def test_a_tile_that_is_too_large_is_not_read(file):
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        connection.execute("INSERT INTO tiles VALUES (1, 0, 0, zeroblob(?))", (MAX_TILE_BYTES + 1,))
        connection.commit()
    [tile] = MbTiles(file)
    assert isinstance(tile, BadTile)
    assert "but the limit is" in tile.reason


def test_coordinates_must_be_integers_and_may_lie_off_the_map(file):
    with pytest.raises(ImportSourceError, match="must be integers"):
        list(MbTiles(write_mbtiles(file, [("a", 0, 0, PNG)])))
    assert [
        (tile.zoom, tile.x, tile.y) for tile in MbTiles(write_mbtiles(file, [(60, 1, 2, PNG), (-3, 0, 0, PNG)]))
    ] == [
        (60, 1, 2),
        (-3, 0, 0),
    ]


def test_a_truncated_file_is_refused_before_a_tile_is_read(file):
    content = write_mbtiles(file, [(9, x, 0, PNG * 100) for x in range(100)]).read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportSourceError, match=r"truncated|not an intact MBTiles"):
        MbTiles(file)


def test_a_damaged_page_stops_the_reading(file):
    content = bytearray(write_mbtiles(file, [(9, x, 0, PNG * 100) for x in range(400)]).read_bytes())
    content[4096 * 3 :] = b"\xa5" * (len(content) - 4096 * 3)
    file.write_bytes(content)
    with pytest.raises(ImportSourceError, match="not an intact MBTiles file"):
        list(MbTiles(file))


def test_a_file_that_is_no_database_or_has_no_table_of_tiles_is_refused(file):
    file.write_bytes(b"SQLite format 3\0" + b"nonsense" * 100)
    with pytest.raises(ImportSourceError, match="not an intact MBTiles file"):
        MbTiles(file)
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE other (a)")
        connection.commit()
    with pytest.raises(ImportSourceError, match="no table `tiles`"):
        MbTiles(file)


def test_a_file_is_read_while_another_program_has_it_open(file):
    write_mbtiles(file, [(0, 0, 0, PNG)])
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.executemany("INSERT INTO tiles VALUES (9, ?, 0, ?)", [(x, JPG * 100) for x in range(100)])
        writer.commit()
        assert len(list(MbTiles(file))) == 101


def test_a_file_that_another_program_has_locked_is_refused(file, monkeypatch):
    write_mbtiles(file, [(0, 0, 0, PNG)])
    monkeypatch.setattr("preflight.adapters.archives.mbtiles._LOCK_TIMEOUT_S", 0)
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ImportSourceError, match="database is locked"):
            MbTiles(file)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 24), st.integers(0, 2**24 - 1), st.integers(0, 2**24 - 1)), max_size=20))
def test_every_tile_of_the_map_is_read_back(tmp_path_factory, expected):
    expected = {(zoom, x % (1 << zoom), y % (1 << zoom)) for zoom, x, y in expected}
    path = tmp_path_factory.mktemp("mb") / "a.mbtiles"
    write_mbtiles(path, [(zoom, x, (1 << zoom) - 1 - y, PNG) for zoom, x, y in expected])
    assert {(tile.zoom, tile.x, tile.y) for tile in MbTiles(path)} == expected


@pytest.mark.skipif(not CONTAINERS.is_dir(), reason="../shared/data is not here")
class TestRealFiles:
    @pytest.mark.parametrize("kind", ["jpg", "webp"])
    def test_a_world_map_of_five_tiles(self, kind):
        tiles = list(MbTiles(CONTAINERS / f"geography-class-{kind}.mbtiles"))
        assert {(tile.zoom, tile.x, tile.y) for tile in tiles} == {
            (0, 0, 0),
            *((1, x, y) for x in (0, 1) for y in (0, 1)),
        }
        assert {tile.suffix for tile in tiles} == {f".{kind}"}

    def test_invalid_files(self):
        with pytest.raises(ImportSourceError, match="no table `tiles`"):
            MbTiles(CONTAINERS / "invalid.mbtiles")
        tiles = list(MbTiles(CONTAINERS / "invalid-tile-format.mbtiles"))
        assert [type(tile) for tile in tiles] == [BadTile, BadTile]
