"""`doit import` of every kind of source, on the command line as an operator runs it."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from io import BytesIO

import pytest
from PIL import Image

AREA = {"bbox": {"lat_min": 0.3460, "lon_min": 32.5880, "lat_max": 0.3520, "lon_max": 32.6000}}
DATED = "--captured-at=2026-05-01"


def jpeg(number):
    """Return an image that differs for each number."""
    out = BytesIO()
    colour = number % 256, number // 256 % 256, 77
    Image.new("RGB", (256, 256), colour).save(out, "JPEG")
    return out.getvalue()


def mbtiles(path, tiles):
    """Write an MBTiles file. tiles: the content of each tile by zoom, x and y, counted from the north."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        connection.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)",
            [(zoom, x, (1 << zoom) - 1 - y, content) for (zoom, x, y), content in tiles.items()],
        )
        connection.commit()
    return path


@pytest.fixture(scope="module")
def bare(room, place_in):
    """A mission with an empty tile store that was started once. Tests must not change it."""
    place = place_in(room / "bare-imports", AREA, [18])
    access = place.tiles()
    try:
        access.metadata().revision()
    finally:
        access.close()
    return place


@pytest.fixture
def place(bare, copy_of):
    return copy_of(bare)


@pytest.fixture
def look(place):
    """look(): the number of rows at each zoom, and the provenance of the sources."""

    def run():
        access = place.tiles()
        try:
            store = access.metadata()
            zooms = Counter()
            for zoom in range(25):
                last = (1 << zoom) - 1
                zooms[zoom] = sum(1 for _ in store.rows_in_box(zoom, (0, last), (0, last)))
            return dict(+zooms), store.sources()
        finally:
            access.close()

    return run


def refused(done):
    """Return the message of a failed import."""
    assert done.status == 1
    assert "Traceback" not in done.said
    [line] = [line for line in done.err.splitlines() if line.startswith("doit import failed: ")]
    return line


@pytest.fixture
def containers(oam):
    return oam / "containers"


@pytest.mark.parametrize(
    ("name", "zooms", "options"),
    [
        ("geography-class-jpg.mbtiles", {0: 1, 1: 4}, []),
        ("geography-class-webp.mbtiles", {1: 4}, ["--zoom=1"]),
        ("usgs-mt-whitney-8-15-webp-512.pmtiles", {14: 9, 15: 30}, ["--zoom=14-15"]),
        ("pix4d_alpha_nodata.tif", {18: 2, 19: 11}, ["--zoom=18-19"]),
    ],
)
def test_a_second_import_of_a_real_container_changes_nothing(place, look, containers, name, zooms, options):
    file = containers / name
    first = place.doit("import", str(file), DATED, "--terms=for tests", *options)
    assert first.status == 0, first.said
    assert f"{sum(zooms.values())} added" in first.out
    assert "tiles imported (" in first.out
    assert " s left)" in first.out
    rows, [record] = look()
    assert rows == zooms
    assert (record.name, record.origin, record.terms) == (file.stem, str(file.resolve()), "for tests")
    assert f"{record.captured_at:%Y-%m-%d}" == "2026-05-01"
    again = place.doit("import", str(file), DATED, *options)
    assert again.status == 0, again.said
    assert f"0 added, {sum(zooms.values())} unchanged" in again.out
    assert look() == (zooms, [record])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("invalid.mbtiles", "has no table `tiles`"),
        ("invalid-tile-format.mbtiles", "tile 0/0/0 of invalid-tile-format does not decode"),
    ],
)
def test_broken_containers_are_refused_with_one_message(place, look, containers, name, reason):
    assert reason in refused(place.doit("import", str(containers / name), DATED))
    assert "can be imported" in refused(place.doit("import", str(containers / name), DATED, "--skip-bad")) or (
        name == "invalid.mbtiles"
    )
    assert look() == ({}, [])


def test_tiles_keep_their_bytes(place, containers):
    file = containers / "geography-class-jpg.mbtiles"
    assert place.doit("import", str(file), DATED).status == 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
        given = {content for (content,) in connection.execute("SELECT tile_data FROM tiles")}
    assert {path.read_bytes() for path in (place.folder / "tiles" / "objects").rglob("*.jpg")} == given


def test_a_tms_folder_gives_the_same_tiles_as_its_xyz_folder(place, look, tmp_path):
    for y in range(3):
        target = tmp_path / "set" / "5" / "7" / f"{31 - y}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg(y))
    assert place.doit("import", str(tmp_path / "set"), DATED, "--scheme=tms").status == 0
    same = mbtiles(tmp_path / "set.mbtiles", {(5, 7, y): jpeg(y) for y in range(3)})
    done = place.doit("import", str(same), DATED)
    assert done.status == 0
    assert "0 added, 3 unchanged" in done.out
    rows, records = look()
    assert rows == {5: 3}
    assert {record.name for record in records} == {"set"}
    assert len(records) == 2


def test_a_picture_with_corners(place, look, tmp_path):
    Image.radial_gradient("L").resize((600, 600)).convert("RGB").save(tmp_path / "field.jpg")
    (tmp_path / "field.csv").write_text(
        "corner,lat,lon\ntop_left,0.3520,32.5940\ntop_right,0.3520,32.6000\n"
        "bottom_right,0.3460,32.6000\nbottom_left,0.3460,32.5940\n"
    )
    done = place.doit("import", str(tmp_path / "field.jpg"), "--source=drone", "--zoom=17-18")
    assert done.status == 0, done.said
    assert "captured now" in done.sentences
    rows, [record] = look()
    assert set(rows) == {17, 18}
    assert (record.name, record.captured_at) == ("drone", None)


def test_one_bad_tile_stops_the_import_unless_skipped_and_is_reported(place, look, tmp_path):
    tiles = {(9, x, 3): jpeg(x) for x in range(8)}
    tiles[9, 5, 3] = tiles[9, 5, 3][:300]
    file = mbtiles(tmp_path / "a.mbtiles", tiles)
    assert "tile 9/5/3 of a does not decode" in refused(place.doit("import", str(file), DATED))
    assert look() == ({}, [])
    done = place.doit("import", str(file), DATED, "--skip-bad", "log=json")
    assert done.status == 0, done.said
    [event] = done.event("c10.import.complete")
    assert (event["added"], [(one["x"], one["y"]) for one in event["skipped"]]) == (7, [(5, 3)])
    [progress] = done.event("c10.import.progress")
    assert (progress["done"], progress["total"], progress["level"]) == (8, 8, "DEBUG")
    report = json.loads((place.folder / "tiles" / "import_report.json").read_bytes())
    assert (report["offered"], report["added"], len(report["skipped"])) == (8, 7, 1)
    assert "9/5/3 does not decode" in (place.folder / "tiles" / "import_report.txt").read_text()
    text = place.doit("import", str(file), DATED, "--skip-bad").out
    assert "1 tiles were skipped" in text
    assert "9/5/3 does not decode" in text


def test_other_bytes_stop_the_import_unless_updated(place, tmp_path):
    assert place.doit("import", str(mbtiles(tmp_path / "a.mbtiles", {(9, 1, 1): jpeg(1)})), DATED).status == 0
    (tmp_path / "a.mbtiles").unlink()
    file = str(mbtiles(tmp_path / "a.mbtiles", {(9, 1, 1): jpeg(2), (9, 1, 2): jpeg(3)}))
    assert "9/1/1 of a" in refused(place.doit("import", file, DATED, "--skip-bad"))
    done = place.doit("import", file, DATED, "--update")
    assert done.status == 0, done.said
    assert "1 added, 0 unchanged, 1 replaced, 0 repaired" in done.out


def test_a_spoilt_file_is_repaired_and_the_report_says_so(place, tmp_path):
    file = str(mbtiles(tmp_path / "a.mbtiles", {(9, x, 1): jpeg(99 * x) for x in range(3)}))
    assert place.doit("import", file, DATED).status == 0
    spoilt, lost, _ = (place.folder / "tiles" / "objects").rglob("*.jpg")
    spoilt.chmod(0o644)
    spoilt.write_bytes(b"\xff\xd8\xff and nothing")
    lost.unlink()
    done = place.doit("import", file, DATED, "log=json")
    assert done.status == 0, done.said
    [event] = done.event("c10.import.complete")
    counts = {"offered": 3, "added": 0, "unchanged": 1, "replaced": 0, "repaired": 2}
    assert {name: event[name] for name in counts} == counts
    report = json.loads((place.folder / "tiles" / "import_report.json").read_bytes())
    assert {name: report[name] for name in counts} == counts
    text = (place.folder / "tiles" / "import_report.txt").read_text()
    assert "0 added, 1 unchanged, 0 replaced, 2 repaired" in text
    assert "0 added, 3 unchanged, 0 replaced, 0 repaired" in place.doit("import", file, DATED).out


def test_files_that_are_no_source_are_refused_with_one_message(place, tmp_path):
    cases = {
        "empty.mbtiles": b"",
        "text.pmtiles": b"this is no archive of any kind",
        "cut.pmtiles": b"PMTiles\x03",
        "cut.tif": b"II*\0 and nothing",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert name in refused(place.doit("import", str(tmp_path / name), DATED))


@pytest.mark.parametrize("option", ["--zoom=5-4", "--zoom=a", "--zoom=25", "--scheme=wmts"])
def test_invalid_options(bare, option):
    assert option in refused(bare.doit("import", "demo-folder", option))


def test_a_scheme_is_refused_where_the_file_states_its_own(bare, tmp_path):
    (tmp_path / "a.pmtiles").write_bytes(b"PMTiles\x03" + bytes(200))
    assert "states its own" in refused(bare.doit("import", str(tmp_path / "a.pmtiles"), "--scheme=tms"))


def test_a_killed_import_is_continued(place, look, tmp_path):
    count = 6000
    file = mbtiles(tmp_path / "a.mbtiles", {(12, number // 80, number % 80): jpeg(number) for number in range(count)})
    process = subprocess.Popen(
        place.command("import", str(file), DATED), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in process.stdout:
            if "tiles imported" in line:
                break
        else:
            pytest.fail("it ended without a word")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    done = place.doit("import", str(file), DATED)
    assert done.status == 0, done.said
    report = json.loads((place.folder / "tiles" / "import_report.json").read_bytes())
    assert report["unchanged"] >= 500
    assert report["unchanged"] % 500 == 0
    assert report["added"] + report["unchanged"] == count
    rows, [record] = look()
    assert rows == {12: count}
    assert record.origin == str(file)
