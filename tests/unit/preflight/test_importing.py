from __future__ import annotations

import io
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from preflight.adapters.embedded_postgres import EmbeddedPostgres
from preflight.adapters.postgres import PostgresTileStore
from preflight.adapters.tile_files import TileFiles
from preflight.adapters.tile_folder import TileFolder
from preflight.area import area_from_geojson, cover
from preflight.errors import ImportSourceError, TileContentError
from preflight.geometry import tile_center
from preflight.importing import BadTile, ImportReport, OfferedTile, import_tiles
from preflight.records import SourceRecord
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
            **{"clock": lambda: NOW, "check_image": check_image, **more},
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
    assert [one.done for one in seen] == [4, 8, 10]
    assert {(one.total, one.eta_s) for one in seen} == {(None, None)}


def test_rate_and_time_to_go_are_told_with_the_total(bring, monkeypatch, caplog):
    monkeypatch.setattr("preflight.importing._CHUNK", 4)
    times = iter(NOW + timedelta(seconds=second) for second in range(100))
    seen = []
    with caplog.at_level(logging.DEBUG, "preflight.importing"):
        bring((tile(x) for x in range(8)), progress=seen.append, total=12, clock=lambda: next(times))
    assert [(one.done, one.tiles_per_s > 0, one.eta_s > 0) for one in seen] == [(4, True, True), (8, True, True)]
    assert seen[1].eta_s == pytest.approx(4 / seen[1].tiles_per_s)
    told = [record.fields for record in caplog.records if getattr(record, "event", "") == "import_progress"]
    assert [(one["done"], one["total"]) for one in told] == [(4, 12), (8, 12)]


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
        ([tile(1024)], "10/1024/5 of field is off the map: at zoom 10 x and y go from 0 to 1023"),
        ([tile(1, y=-1)], "10/1/-1 of field is off the map: at zoom 10"),
        ([tile(1, zoom=25)], "25/1/5 of field is no tile: zooms go from 0 to 24"),
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


def test_bad_tiles_are_skipped_where_asked_and_reported(bring, metadata):
    offered = [tile(1), tile(2, b"nonsense"), BadTile(10, 3, 5, "does not decompress"), tile(4), tile(9999)]
    report = bring(offered, skip_bad=True)
    assert (report.offered, report.added, report.unchanged, report.replaced) == (5, 2, 0, 0)
    assert [(one.zoom, one.x, one.y) for one in report.skipped] == [(10, 2, 5), (10, 3, 5), (10, 9999, 5)]
    for word, one in zip(("decode", "decompress", "off the map"), report.skipped, strict=True):
        assert word in one.reason
    assert {row.x for row in metadata.rows_in_box(10, (0, 1023), (0, 1023))} == {1, 4}
    again = bring(offered, skip_bad=True)
    assert (again.added, again.unchanged, len(again.skipped)) == (0, 2, 3)


def test_a_bad_tile_of_the_source_itself_is_named(bring):
    with pytest.raises(ImportSourceError, match=r"10/3/5 of field does not decompress.*--skip-bad"):
        bring([tile(1), BadTile(10, 3, 5, "does not decompress")])


def test_nothing_but_bad_tiles_is_refused_also_where_skipping_is_asked(bring, metadata):
    with pytest.raises(ImportSourceError, match="none of the 2 tiles of field can be imported: tile 10/1/5"):
        bring([tile(1, b"nonsense"), tile(2, b"nonsense")], skip_bad=True)
    assert metadata.count() == 0


def test_skipping_does_not_hide_tiles_with_other_bytes_or_a_full_disk(bring, monkeypatch):
    bring([tile(1)])
    with pytest.raises(ImportSourceError, match="10/1/5 of field"):
        bring([tile(1, b"tile, but other bytes")], skip_bad=True)

    def full(*_):
        raise ImportSourceError("No space left on device")

    monkeypatch.setattr(TileFiles, "put", full)
    with pytest.raises(ImportSourceError, match="No space left"):
        bring([tile(2)], skip_bad=True)


def test_what_is_there_is_not_decoded_again(bring):
    tiles = [tile(x, b"tile %d" % x) for x in range(6)]
    bring(tiles[:4])
    decoded = []

    def check(content):
        decoded.append(content)
        return 256, 256

    assert bring(tiles, check_image=check).added == 2
    assert sorted(decoded) == [b"tile 4", b"tile 5"]


def test_a_lost_file_of_a_tile_that_is_there_comes_back(bring, tmp_path):
    bring([tile(1)])
    [file] = (tmp_path / "store").rglob("*.png")
    file.unlink()
    assert bring([tile(1)]).unchanged == 1
    assert file.read_bytes() == b"tile"


def test_an_import_that_breaks_off_is_continued(bring, metadata, monkeypatch):
    monkeypatch.setattr("preflight.importing._CHUNK", 4)

    def breaking():
        yield from (tile(x) for x in range(6))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(breaking(), origin="/media/map")
    assert metadata.count() == 4
    assert [one.origin for one in metadata.sources()] == ["/media/map"]
    report = bring([tile(x) for x in range(6)], origin="/media/map")
    assert (report.added, report.unchanged) == (2, 4)


def test_a_chunk_is_bounded_in_bytes_too(bring, monkeypatch):
    monkeypatch.setattr("preflight.importing._CHUNK_BYTES", 30)
    seen = []
    bring((tile(x, b"tile" + bytes(12)) for x in range(5)), progress=seen.append)
    assert [one.done for one in seen] == [2, 4, 5]


def test_a_tile_too_large_is_bad(bring, monkeypatch):
    monkeypatch.setattr("preflight.importing.MAX_TILE_BYTES", 3)
    with pytest.raises(ImportSourceError, match="10/1/5 of field has 4 bytes"):
        bring([tile(1)])


def test_provenance_is_recorded_and_changes_only_with_tiles(bring, metadata):
    later = NOW + timedelta(days=1)
    bring([tile(1)], origin="/media/a", terms="CC BY 4.0")
    assert metadata.sources() == [SourceRecord("field", "/media/a", "CC BY 4.0", THEN, NOW)]
    # Nothing changed: neither does the record, whatever the date, but for terms that are new.
    bring([tile(1)], origin="/media/a", captured_at=later, clock=lambda: later)
    assert metadata.sources() == [SourceRecord("field", "/media/a", "CC BY 4.0", THEN, NOW)]
    bring([tile(1)], origin="/media/a", terms="CC0", clock=lambda: later)
    assert metadata.sources() == [SourceRecord("field", "/media/a", "CC0", THEN, NOW)]
    bring([tile(2)], origin="/media/a", captured_at=None, clock=lambda: later)
    assert metadata.sources() == [SourceRecord("field", "/media/a", "CC0", None, later)]
    bring([tile(1)], origin="/media/b")
    assert [one.origin for one in metadata.sources()] == ["/media/a", "/media/b"]


def test_a_refused_import_leaves_no_provenance(bring, metadata):
    for skip_bad in (False, True):
        with pytest.raises(ImportSourceError):
            bring([tile(1, b"nonsense")], origin="/media/a", skip_bad=skip_bad)
    assert metadata.sources() == []


def test_terms_given_go_before_those_recorded_and_these_before_those_stated(bring, metadata):
    def terms_after(**given):
        bring([tile(1)], origin="/media/a", **given)
        return metadata.sources()[0].terms

    assert terms_after() is None
    assert terms_after(stated_terms="stated") == "stated"
    assert terms_after(terms="given", stated_terms="stated") == "given"
    assert terms_after(stated_terms="stated") == "given"


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_the_real_tiles_are_imported_and_cover_their_area(bring, metadata):
    assert bring(TileFolder(DATA / "oam")) == ImportReport(offered=147, added=147, unchanged=0, replaced=0)
    tiles = cover(area_from_geojson((DATA / "oam-area.geojson").read_bytes()), [19, 20, 21])
    rows = list(rows_of_cover(metadata, tiles))
    assert len(rows) == len(tiles) == 147
    assert rows == sorted(rows, key=lambda row: (row.zoom, row.lat, row.lon, row.source))
    assert bring(TileFolder(DATA / "oam")).unchanged == 147
