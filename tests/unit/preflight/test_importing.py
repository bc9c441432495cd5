from __future__ import annotations

import io
import logging
from datetime import datetime, timezone
from pathlib import Path

import pytest

from preflight.adapters.embedded_postgres import EmbeddedPostgres
from preflight.adapters.postgres import PostgresTileStore
from preflight.adapters.tile_files import TileFiles
from preflight.adapters.tile_folder import TileFolder
from preflight.area import area_from_geojson, cover
from preflight.errors import ImportSourceError, TileContentError
from preflight.geometry import tile_center
from preflight.importing import ImportReport, OfferedTile, import_tiles
from preflight.tileset import rows_of_cover

DATA = Path(__file__).parents[4] / "shared" / "data"
THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)
NOW = datetime(2025, 7, 1, 9, 30, tzinfo=timezone.utc)


def check_image(content):
    from PIL import Image

    if content.startswith(b"tile"):
        return 256, 256
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image.size
    except OSError as error:
        raise TileContentError(str(error)) from error


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="preflight-test-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(Path(name)) as conninfo:
            yield conninfo


@pytest.fixture
def metadata(server):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("SET client_min_messages = error; DROP SCHEMA IF EXISTS preflight CASCADE")
    with PostgresTileStore(server) as store:
        yield store


@pytest.fixture
def bring(metadata, tmp_path):
    def run(tiles, captured_at=THEN, source="field", **more):
        return import_tiles(
            tiles,
            source=source,
            captured_at=captured_at,
            metadata=metadata,
            pixels=TileFiles(tmp_path / "store"),
            check_image=check_image,
            clock=lambda: NOW,
            **more,
        )

    return run


def tile(x, content=b"tile", zoom=10, y=5):
    return OfferedTile(zoom, x, y, content, ".png")


def test_tiles_are_counted_as_added_unchanged_and_replaced(bring, metadata):
    first = [tile(x, b"tile %d" % x) for x in range(5)]
    assert bring(first) == ImportReport(offered=5, added=5, unchanged=0, replaced=0)
    revision = metadata.revision()
    assert bring(first) == ImportReport(offered=5, added=0, unchanged=5, replaced=0)
    assert metadata.revision() == revision
    second = [*first[:3], tile(3, b"tile new"), tile(4, b"tile newer"), tile(9)]
    assert bring(second, replace=True) == ImportReport(offered=6, added=1, unchanged=3, replaced=2)


def test_a_row_says_where_and_what_the_tile_is(bring, metadata, tmp_path):
    bring([tile(7, b"tile seven")])
    [row] = metadata.rows_in_box(10, (7, 7), (5, 5))
    assert (row.lat, row.lon) == tile_center(10, 7, 5)
    assert (row.source, row.captured_at) == ("field", THEN)
    with TileFiles(tmp_path / "store").open_tile(row.path) as file:
        assert file.read() == b"tile seven"


def test_progress_is_told_chunk_by_chunk(bring, monkeypatch):
    monkeypatch.setattr("preflight.importing._CHUNK", 4)
    seen = []
    assert bring((tile(x) for x in range(10)), progress=seen.append).added == 10
    assert seen == [4, 8, 10]


def test_a_set_without_a_date_counts_as_captured_now_with_one_warning(bring, metadata, caplog):
    with caplog.at_level(logging.WARNING):
        bring([tile(1), tile(2)], captured_at=None)
    assert len(caplog.records) == 1
    assert "real age is unknown" in caplog.text
    assert {row.captured_at for row in metadata.rows_in_box(10, (0, 9), (5, 5))} == {NOW}


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ([], "offers no tiles"),
        ([tile(1024)], "10/1024/5 of field: at zoom 10 x and y go from 0 to 1023"),
        ([tile(1, y=-1)], "10/1/-1 of field: at zoom 10"),
        ([tile(1, zoom=25)], "25/1/5 of field: zooms go from 0 to 24"),
        ([tile(1), tile(2, b"\x89PNG nonsense")], "10/2/5 of field does not decode"),
        ([tile(1), tile(1, b"tile, but other bytes")], "10/1/5 of field"),
    ],
)
def test_a_chunk_with_a_bad_tile_is_refused_whole(bring, metadata, offered, reason):
    with pytest.raises(ImportSourceError, match=reason):
        bring(offered)
    assert metadata.count() == 0


def test_an_image_that_is_not_square_is_refused(bring):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (256, 128)).save(out, "PNG")
    with pytest.raises(ImportSourceError, match="10/1/5 of field is 256 x 128"):
        bring([tile(1, out.getvalue())])


def test_other_bytes_are_refused_unless_asked_for(bring):
    bring([tile(1)])
    with pytest.raises(ImportSourceError, match=r"10/1/5 of field.*replacement"):
        bring([tile(1, b"tile, but other bytes")])
    assert bring([tile(1, b"tile, but other bytes")], source="other").added == 1


@pytest.mark.parametrize("source", ["", "a|b", "a\nb"])
def test_a_source_the_aggregate_could_not_hold_is_refused(bring, source):
    with pytest.raises(ImportSourceError, match="cannot name a source"):
        bring([tile(1)], source=source)


def test_a_date_without_a_zone_is_refused(bring):
    with pytest.raises(ImportSourceError, match="no time zone"):
        bring([tile(1)], captured_at=datetime(2025, 6, 1))  # noqa: DTZ001 - the fault under test


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_the_real_tiles_are_imported_and_cover_their_area(bring, metadata):
    assert bring(TileFolder(DATA / "oam")) == ImportReport(offered=147, added=147, unchanged=0, replaced=0)
    tiles = cover(area_from_geojson((DATA / "oam-area.geojson").read_bytes()), [19, 20, 21])
    rows = list(rows_of_cover(metadata, tiles))
    assert len(rows) == len(tiles) == 147
    assert rows == sorted(rows, key=lambda row: (row.zoom, row.lat, row.lon, row.source))
    assert bring(TileFolder(DATA / "oam")).unchanged == 147
