from __future__ import annotations

import hashlib
import io
import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from preflight import wiring
from preflight.adapters.postgres.embedded import EmbeddedPostgres
from preflight.adapters.postgres.tile_store import PostgresTileStore
from preflight.adapters.tile_files import TileFiles
from preflight.adapters.tile_folder import TileFolder
from preflight.area.area import area_from_geojson, cover
from preflight.area.web_mercator import tile_center
from preflight.errors import ImportSourceError, TileContentError
from preflight.records import SourceRecord
from preflight.run.tile_access import TileAccess
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.request import ImportReport, ImportRequest
from preflight.tile_import.source import BadTile, OfferedTile
from preflight.tile_import.storing import TileImage
from preflight.tileset.source_choice import rows_of_cover

DATA = Path(__file__).parents[5] / "shared" / "data"
THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)
NOW = datetime(2025, 7, 1, 9, 30, tzinfo=timezone.utc)


def check_image(content):
    if content.startswith(b"tile"):
        return TileImage(256, 256, 30.0)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return TileImage(*image.size, 30.0)
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


def test_a_row_holds_the_place_source_and_date_of_its_tile(bring, metadata, tmp_path):
    bring([tile(7, b"tile seven")])
    [row] = metadata.rows_in_box(10, (7, 7), (5, 5))
    assert (row.lat, row.lon) == tile_center(10, 7, 5)
    assert (row.source, row.captured_at) == ("field", THEN)
    with TileFiles(tmp_path / "store").open_tile(row.path) as file:
        assert file.read() == b"tile seven"


def test_progress_is_reported_after_each_chunk(bring, monkeypatch):
    monkeypatch.setattr("preflight.tile_import.importing._CHUNK", 4)
    seen = []
    assert bring((tile(x) for x in range(10)), progress=seen.append).added == 10
    assert [one.done for one in seen] == [4, 8, 10]
    assert {(one.total, one.eta_s) for one in seen} == {(None, None)}


def test_progress_has_a_rate_and_a_remaining_time_if_the_total_is_known(bring, monkeypatch, caplog):
    monkeypatch.setattr("preflight.tile_import.importing._CHUNK", 4)
    times = iter(NOW + timedelta(seconds=second) for second in range(100))
    seen = []
    with caplog.at_level(logging.DEBUG, "c10_provisioning.tile_import"):
        bring((tile(x) for x in range(8)), progress=seen.append, total=12, clock=lambda: next(times))
    assert [(one.done, one.tiles_per_s > 0, one.eta_s > 0) for one in seen] == [(4, True, True), (8, True, True)]
    assert seen[1].eta_s == pytest.approx(4 / seen[1].tiles_per_s)
    logged = [record.fields for record in caplog.records if getattr(record, "event", "") == "c10.import.progress"]
    assert [(one["done"], one["total"]) for one in logged] == [(4, 12), (8, 12)]


def test_a_set_without_a_date_counts_as_captured_now_with_one_warning(bring, metadata, caplog):
    with caplog.at_level(logging.WARNING):
        bring([tile(1), tile(2)], captured_at=None)
    assert len(caplog.records) == 1
    assert "real age is unknown" in caplog.text
    assert {row.captured_at for row in metadata.rows_in_box(10, (0, 9), (5, 5))} == {NOW}


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ([], "field has no tiles to import"),
        ([tile(1024)], "10/1024/5 of field is off the map: at zoom 10, x and y go from 0 to 1023"),
        ([tile(1, y=-1)], "10/1/-1 of field is off the map: at zoom 10"),
        ([tile(1, zoom=25)], "25/1/5 of field has an invalid zoom: zooms go from 0 to 24"),
        ([tile(1), tile(2, b"\x89PNG nonsense")], "10/2/5 of field does not decode"),
        ([tile(1), tile(1, b"tile, but other bytes")], "10/1/5 of field"),
    ],
)
def test_a_chunk_with_a_bad_tile_is_refused_completely(bring, metadata, offered, reason):
    with pytest.raises(ImportSourceError, match=reason):
        bring(offered)
    assert metadata.count() == 0


def test_an_image_that_is_not_square_is_refused(bring):
    out = io.BytesIO()
    Image.new("RGB", (256, 128)).save(out, "PNG")
    with pytest.raises(ImportSourceError, match="10/1/5 of field is 256 x 128"):
        bring([tile(1, out.getvalue())])


def test_other_bytes_are_refused_without_replace(bring):
    bring([tile(1)])
    with pytest.raises(ImportSourceError, match=r"10/1/5 of field.*--update"):
        bring([tile(1, b"tile, but other bytes")])
    assert bring([tile(1, b"tile, but other bytes")], source="other").added == 1


@pytest.mark.parametrize("source", ["", "a|b", "a\nb"])
def test_a_name_that_the_aggregate_cannot_hold_is_refused(bring, source):
    with pytest.raises(ImportSourceError, match="is no valid name of a source"):
        bring([tile(1)], source=source)


def test_a_date_without_a_zone_is_refused(bring):
    with pytest.raises(ImportSourceError, match="no time zone"):
        bring([tile(1)], captured_at=datetime(2025, 6, 1))  # noqa: DTZ001 - the fault under test


def test_skipped_tiles_are_reported(bring, metadata):
    offered = [tile(1), tile(2, b"nonsense"), BadTile(10, 3, 5, "does not decompress"), tile(4), tile(9999)]
    report = bring(offered, skip_bad=True)
    assert (report.offered, report.added, report.unchanged, report.replaced) == (5, 2, 0, 0)
    assert [(one.zoom, one.x, one.y) for one in report.skipped] == [(10, 2, 5), (10, 3, 5), (10, 9999, 5)]
    for word, one in zip(("decode", "decompress", "off the map"), report.skipped, strict=True):
        assert word in one.reason
    assert {row.x for row in metadata.rows_in_box(10, (0, 1023), (0, 1023))} == {1, 4}
    again = bring(offered, skip_bad=True)
    assert (again.added, again.unchanged, len(again.skipped)) == (0, 2, 3)


def test_the_message_names_a_bad_tile_of_the_source(bring):
    with pytest.raises(ImportSourceError, match=r"10/3/5 of field does not decompress.*--skip-bad"):
        bring([tile(1), BadTile(10, 3, 5, "does not decompress")])


def test_a_source_with_only_bad_tiles_is_refused_even_with_skip_bad(bring, metadata):
    with pytest.raises(ImportSourceError, match="none of the 2 tiles of field can be imported: tile 10/1/5"):
        bring([tile(1, b"nonsense"), tile(2, b"nonsense")], skip_bad=True)
    assert metadata.count() == 0


def test_skip_bad_does_not_hide_tiles_with_other_bytes_or_a_full_disk(bring, monkeypatch):
    bring([tile(1)])
    with pytest.raises(ImportSourceError, match="10/1/5 of field"):
        bring([tile(1, b"tile, but other bytes")], skip_bad=True)

    def full(*_):
        raise ImportSourceError("No space left on device")

    monkeypatch.setattr(TileFiles, "put", full)
    with pytest.raises(ImportSourceError, match="No space left"):
        bring([tile(2, b"tile two")], skip_bad=True)


def test_stored_tiles_are_not_decoded_again(bring):
    tiles = [tile(x, b"tile %d" % x) for x in range(6)]
    bring(tiles[:4])
    decoded = []

    def check(content):
        decoded.append(content)
        return TileImage(256, 256, 0.0)

    assert bring(tiles, check_image=check).added == 2
    assert sorted(decoded) == [b"tile 4", b"tile 5"]


def test_a_missing_file_of_a_stored_tile_is_written_again(bring, tmp_path):
    bring([tile(1)])
    [file] = (tmp_path / "store").rglob("*.png")
    file.unlink()
    assert bring([tile(1)]) == ImportReport(offered=1, added=0, unchanged=0, replaced=0, repaired=1)
    assert file.read_bytes() == b"tile"


def test_damaged_files_are_written_again_and_counted_without_replace(bring, metadata, tmp_path):
    tiles = [tile(x, b"tile %d" % x) for x in range(5)]
    bring(tiles[:4], origin="/media/a")
    revision, provenance = metadata.revision(), metadata.sources()
    files = {file.read_bytes(): file for file in (tmp_path / "store").rglob("*.png")}
    for number, damaged in ((1, b"tile I"), (2, b"")):
        files[b"tile %d" % number].chmod(0o644)
        files[b"tile %d" % number].write_bytes(damaged)
    later = NOW + timedelta(days=1)
    done = bring(tiles[:4], origin="/media/a", captured_at=later, clock=lambda: later)
    assert done == ImportReport(offered=4, added=0, unchanged=2, replaced=0, repaired=2)
    assert (metadata.revision(), metadata.sources()) == (revision, provenance)
    assert {file.read_bytes() for file in files.values()} == set(files)
    assert bring(tiles) == ImportReport(offered=5, added=1, unchanged=4, replaced=0)


@pytest.fixture
def foreign(bring, metadata):
    """Rows of tiles 1 to 4 that another program wrote. Only their hashes are right."""
    bring([tile(x, b"tile %d" % x) for x in range(1, 5)], source="ours")
    rows = metadata.rows_of_tiles([(10, x, 5) for x in range(1, 5)])
    rows = [replace(row, source="c11", path=f"c11/{row.x}.png") for row in rows]
    rows[1] = replace(rows[1], captured_at=NOW + timedelta(days=300))
    metadata.upsert(rows, replace=False)
    return rows


def foreign_rows(metadata):
    return sorted(
        (row for row in metadata.rows_of_tiles([(10, x, 5) for x in range(1, 5)]) if row.source == "c11"),
        key=lambda row: row.x,
    )


def test_an_update_corrects_the_path_of_a_row_and_keeps_its_date(bring, metadata, foreign, tmp_path):
    offered = [tile(x, b"tile %d" % x) for x in range(1, 5)]
    assert bring(offered, source="c11", captured_at=NOW).unchanged == 4
    assert foreign_rows(metadata) == foreign
    before = metadata.revision().revision
    done = bring(offered[2:], source="c11", captured_at=NOW, replace=True)
    assert done == ImportReport(offered=2, added=0, unchanged=0, replaced=0, repaired=2)
    rows = foreign_rows(metadata)
    assert rows[:2] == foreign[:2]
    for row, old in zip(rows[2:], foreign[2:], strict=True):
        assert row == replace(old, path=row.path)
        with TileFiles(tmp_path / "store").open_tile(row.path) as file:
            assert file.read() == b"tile %d" % row.x
    assert metadata.changed_since(before) == {(10, 3, 5), (10, 4, 5)}
    corrected = metadata.revision()
    assert bring(offered[2:], source="c11", captured_at=NOW, replace=True).unchanged == 2
    assert metadata.revision() == corrected


def test_an_update_takes_an_earlier_date_and_records_it_as_provenance(bring, metadata, foreign):
    """This corrects dates in the future. No import makes a tile with the same bytes younger."""
    offered = [tile(x, b"tile %d" % x) for x in range(1, 5)]
    later = NOW + timedelta(days=1)
    bring(offered, source="c11", captured_at=NOW, origin="/media/a", replace=True)
    [first] = [record for record in metadata.sources() if record.name == "c11"]
    assert [row.captured_at for row in foreign_rows(metadata)] == [THEN, NOW, THEN, THEN]
    assert first.captured_at == NOW
    done = bring(offered, source="c11", captured_at=THEN, origin="/media/a", clock=lambda: later, replace=True)
    assert done == ImportReport(offered=4, added=0, unchanged=3, replaced=0, repaired=1)
    assert {row.captured_at for row in foreign_rows(metadata)} == {THEN}
    assert metadata.sources() == [SourceRecord("c11", "/media/a", None, THEN, later)]
    done = bring(offered, source="c11", captured_at=NOW, origin="/media/a", clock=lambda: later, replace=True)
    assert done.unchanged == 4
    assert metadata.sources() == [SourceRecord("c11", "/media/a", None, THEN, later)]


def test_tiles_that_share_a_missing_file_are_repaired_together(bring, tmp_path):
    bring([tile(x) for x in range(9)])
    [file] = (tmp_path / "store").rglob("*.png")
    file.unlink()
    done = bring([tile(x) for x in range(10)])
    assert done == ImportReport(offered=10, added=1, unchanged=0, replaced=0, repaired=9)


def test_a_file_under_another_path_than_the_row_names_repairs_nothing(bring, foreign, tmp_path):
    for file in (tmp_path / "store").rglob("*.png"):
        file.unlink()
    assert bring([tile(1, b"tile 1")], source="c11").unchanged == 1


def test_an_interrupted_import_is_continued(bring, metadata, monkeypatch):
    monkeypatch.setattr("preflight.tile_import.importing._CHUNK", 4)

    def breaking():
        yield from (tile(x) for x in range(6))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(breaking(), origin="/media/map")
    assert metadata.count() == 4
    assert [one.origin for one in metadata.sources()] == ["/media/map"]
    report = bring([tile(x) for x in range(6)], origin="/media/map")
    assert (report.added, report.unchanged) == (2, 4)


def test_the_source_is_closed_when_a_tile_is_refused(bring, monkeypatch):
    """It is closed while the caller still holds the error, which keeps the traceback's frames alive."""
    monkeypatch.setattr("preflight.tile_import.importing._CHUNK", 1)
    closed = []

    class Source:
        def __iter__(self):
            try:
                yield from (tile(x, b"nonsense") for x in range(3))
            finally:
                closed.append(True)

    with pytest.raises(ImportSourceError) as error:
        bring(Source())
    assert closed == [True]
    assert "does not decode" in str(error.value)


def test_a_chunk_is_limited_in_bytes_too(bring, monkeypatch):
    monkeypatch.setattr("preflight.tile_import.importing._CHUNK_BYTES", 30)
    seen = []
    bring((tile(x, b"tile" + bytes(12)) for x in range(5)), progress=seen.append)
    assert [one.done for one in seen] == [2, 4, 5]


def test_a_tile_that_is_too_large_is_refused(bring, monkeypatch):
    monkeypatch.setattr("preflight.tile_import.storing.MAX_TILE_BYTES", 3)
    with pytest.raises(ImportSourceError, match="10/1/5 of field has 4 bytes"):
        bring([tile(1)])


def test_provenance_is_recorded_and_changes_only_with_tiles_or_terms(bring, metadata):
    later = NOW + timedelta(days=1)
    bring([tile(1)], origin="/media/a", terms="CC BY 4.0")
    assert metadata.sources() == [SourceRecord("field", "/media/a", "CC BY 4.0", THEN, NOW)]
    # No tile changed, so the record keeps its date. Only new terms change it.
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


def test_given_terms_win_over_recorded_ones_and_recorded_over_stated_ones(bring, metadata):
    def terms_after(**given):
        bring([tile(1)], origin="/media/a", **given)
        return metadata.sources()[0].terms

    assert terms_after() is None
    assert terms_after(stated_terms="stated") == "stated"
    assert terms_after(terms="given", stated_terms="stated") == "given"
    assert terms_after(stated_terms="stated") == "given"


def test_the_measured_texture_is_stored(bring, metadata):
    bring([tile(1)], check_image=lambda _: TileImage(256, 256, 12.345))
    [row] = metadata.rows_in_box(10, (1, 1), (5, 5))
    assert row.texture == 12.345


def test_a_missing_texture_is_filled_in_without_any_other_change(bring, metadata):
    bring([tile(1), tile(2)], origin="/media/a")
    rows = [replace(row, texture=None) for row in metadata.rows_of_tiles([(10, 1, 5), (10, 2, 5)])]
    # Another program writes rows without texture.
    metadata.upsert([replace(row, source="c11") for row in rows], replace=False)
    before, provenance = metadata.revision().revision, metadata.sources()
    offered, decoded = [tile(1), tile(2)], []

    def check(content):
        decoded.append(content)
        return TileImage(256, 256, 8.5)

    later = NOW + timedelta(days=1)
    report = bring(offered, source="c11", captured_at=later, clock=lambda: later, check_image=check)
    assert report == ImportReport(offered=2, added=0, unchanged=2, replaced=0)
    assert len(decoded) == 2
    filled_in = [row for row in metadata.rows_of_tiles([(10, 1, 5), (10, 2, 5)]) if row.source == "c11"]
    assert filled_in == [replace(row, source="c11", texture=8.5) for row in rows]
    assert metadata.sources() == provenance
    filled = metadata.revision().revision
    assert filled > before
    assert bring(offered, source="c11", check_image=check).unchanged == 2
    assert len(decoded) == 2
    assert metadata.revision().revision == filled


def test_a_tile_without_texture_is_decoded_and_refused_if_it_does_not_decode(bring, metadata):
    bring([tile(1)])
    [row] = metadata.rows_of_tiles([(10, 1, 5)])
    nonsense = b"\x89PNG nonsense"
    digest = hashlib.sha256(nonsense).hexdigest()
    metadata.upsert([replace(row, source="c11", sha256=digest, texture=None)], replace=False)
    with pytest.raises(ImportSourceError, match="10/1/5 of c11 does not decode"):
        bring([tile(1, nonsense)], source="c11")


@pytest.mark.parametrize("ahead", [timedelta(days=1, seconds=1), timedelta(days=400)])
def test_a_date_in_the_future_is_refused(bring, metadata, ahead):
    with pytest.raises(ImportSourceError, match=r"of field have the capture date 202[56]-.* but today is 2025-07-01"):
        bring([tile(1)], captured_at=NOW + ahead, origin="/media/a")
    assert (metadata.count(), metadata.sources()) == (0, [])


def dated_mbtiles(path, date):
    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "PNG")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        connection.execute("INSERT INTO tiles VALUES (9, 1, 1, ?)", [picture.getvalue()])
        connection.execute("CREATE TABLE metadata (name, value)")
        connection.execute("INSERT INTO metadata VALUES ('capture_date', ?)", [date])
        connection.commit()


def dated_geotiff(path, date):
    origin = rasterio.transform.from_origin(1_000_000, 1_000_000, 100, 100)
    grid = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:3857", transform=origin, **grid) as dataset:
        dataset.write(np.arange(512 * 512, dtype=np.uint8).reshape(1, 512, 512))
        dataset.update_tags(TIFFTAG_DATETIME=date)


@pytest.mark.parametrize(
    ("write", "name", "wrong", "right"),
    [
        (dated_mbtiles, "a.mbtiles", "2062-05-01", "2025-05-01"),
        (dated_geotiff, "a.tif", "2062:05:01 12:00:00", "2025:05:01 00:00:00"),
    ],
)
def test_a_future_date_that_the_source_states_is_refused_unless_another_is_given(
    metadata, tmp_path, caplog, write, name, wrong, right
):
    access = TileAccess(tmp_path / "store", lambda _: metadata, lambda: TileFiles(tmp_path / "store"))

    def bring(date, **options):
        (tmp_path / name).unlink(missing_ok=True)
        write(tmp_path / name, date)
        request = ImportRequest(tmp_path / name, "field", **options)
        added = wiring.import_source(access, request, lambda: NOW).added
        return added, [one.captured_at for one in metadata.sources()]

    with pytest.raises(ImportSourceError, match=r"capture date 2062-05-01, but today is 2025-07-01.*--captured-at"):
        bring(wrong)
    assert (metadata.count(), metadata.sources()) == (0, [])
    caplog.set_level(logging.WARNING)
    added, dates = bring(wrong, captured_at=THEN)
    assert added > 0
    assert dates == [THEN]
    assert "says it was captured 2062-05-01" in caplog.text
    assert bring(right)[0] == 0


def test_a_date_that_may_be_today_in_another_time_zone_counts_as_now(bring, metadata):
    """A date without a time zone is read as UTC, which is behind local time in half of the world."""
    bring([tile(1)], captured_at=NOW + timedelta(hours=14), origin="/media/a")
    assert {row.captured_at for row in metadata.rows_in_box(10, (0, 9), (5, 5))} == {NOW}
    assert [one.captured_at for one in metadata.sources()] == [NOW]


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_real_tiles_have_more_texture_than_water_or_fog(bring, metadata):
    """The reason to measure texture on 16 x 16 areas: it separates real tiles from pictures that show no place."""
    from preflight.adapters import images

    noise = np.random.default_rng(0)
    pictures = [images.decode_rgb(one.content) for one in list(TileFolder(DATA / "oam"))[::7]]
    glint = [90 + 150 * (noise.random((256, 256, 1)) < 0.02) for _ in range(9)]
    swell = [noise.normal(0, 1, (128, 128)).astype("f4") for _ in range(9)]
    waves = [60 + 10 * np.array(Image.fromarray(one).resize((256, 256)))[..., None] for one in swell]
    fog = [0.92 * 225 + 0.08 * picture for picture in pictures]

    def texture(picture):
        out = io.BytesIO()
        Image.fromarray(np.broadcast_to(picture, (256, 256, 3)).clip(0, 255).astype("u1")).save(out, "PNG")
        return wiring.check_image(out.getvalue()).texture

    assert min(map(texture, pictures)) > 15
    assert max(map(texture, [*glint, *waves, *fog])) < 5.5


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_the_real_tiles_are_imported_and_cover_their_area(bring, metadata):
    assert bring(TileFolder(DATA / "oam")) == ImportReport(offered=147, added=147, unchanged=0, replaced=0)
    tiles = cover(area_from_geojson((DATA / "oam-area.geojson").read_bytes()), [19, 20, 21])
    rows = list(rows_of_cover(metadata, tiles))
    assert len(rows) == len(tiles) == 147
    assert rows == sorted(rows, key=lambda row: (row.zoom, row.lat, row.lon, row.source))
    assert bring(TileFolder(DATA / "oam")).unchanged == 147
