"""Overlapping windows: which ones exist, what identifies them, and their file."""

from __future__ import annotations

import hashlib

import pytest

from preflight.area.web_mercator import tile_bounds, tile_center
from preflight.errors import TileContentError
from preflight.records import STEPS, TileRow
from preflight.tileset.inventory import tile_id
from preflight.tileset.windows import SealedTiles, Windows, count_windows, cut, parts_of, write_windows

ZOOM, X, Y = 18, 154804, 130807


def row(x, y, zoom=ZOOM, nudge=0.0):
    lat, lon = tile_center(zoom, x, y)
    sha256 = hashlib.sha256(f"{zoom}/{x}/{y}".encode()).hexdigest()
    return TileRow(zoom, x, y, lat + nudge, lon, "a", sha256, "p", None)


def block(columns, rows, **options):
    return SealedTiles.of_rows([row(X + i, Y + j, **options) for j in range(rows) for i in range(columns)])


def keys(rows):
    return {tuple(map(int, window)): bytes(sha) for *window, sha in rows[["zoom", "x", "y", "sha256"]].tolist()}


@pytest.mark.parametrize(("overlap", "steps"), STEPS.items())
def test_every_square_whose_tiles_exist_is_a_window(overlap, steps):
    rows = cut(block(3, 2), steps)
    assert len(rows) == (2 * steps + 1) * (steps + 1)  # (3 - 1) * steps + 1 columns, (2 - 1) * steps + 1 rows
    assert set(zip(rows["x"].tolist(), rows["y"].tolist(), strict=True)) == {
        (X * steps + i, Y * steps + j) for i in range(2 * steps + 1) for j in range(steps + 1)
    }
    assert overlap == 1 - 1 / steps
    assert count_windows(block(3, 2), steps) == len(rows)


def test_a_window_that_coincides_with_a_tile_is_that_tile():
    tiles = block(2, 2, nudge=1e-9)  # centres as the store may hold them; no formula gives these
    rows = cut(tiles, 4)
    own = rows[(rows["x"] % 4 == 0) & (rows["y"] % 4 == 0)]
    assert sorted(own["id"].tolist()) == sorted(tiles.ids.tolist())
    assert {bytes(sha) for sha in own["sha256"]} == {bytes(sha) for sha in tiles.sha256}
    assert set(own["lat"].tolist()) == set(tiles.lats.tolist())


def test_the_id_of_a_window_follows_from_its_centre_like_that_of_a_tile():
    for window in cut(block(2, 2), 4):
        assert window["id"] == tile_id(ZOOM, float(window["lat"]), float(window["lon"]))


def test_the_centre_of_a_window_is_that_of_its_square():
    rows = cut(block(2, 2), 2)
    corner = next(window for window in rows if (window["x"], window["y"]) == (X * 2 + 1, Y * 2 + 1))
    # The point half a tile east and south of a tile's centre is its south-eastern corner.
    bounds = tile_bounds(ZOOM, X, Y)
    assert corner["lat"] == pytest.approx(bounds.lat_min, abs=1e-12)
    assert corner["lon"] == pytest.approx(bounds.lon_max, abs=1e-12)


def test_rows_are_sorted_by_zoom_latitude_and_longitude():
    tiles = block(3, 3).joined(SealedTiles.of_rows([row(X >> 1, Y >> 1, zoom=17)]))
    rows = cut(tiles, 4)
    order = [(int(r["zoom"]), float(r["lat"]), float(r["lon"])) for r in rows]
    assert order == sorted(order)
    assert order[0][0] == 17


def test_the_hash_covers_the_tiles_under_the_window_and_its_offset():
    tiles = block(2, 2)
    own, east, south, south_east = (bytes(sha) for sha in tiles.sha256)
    hashes = keys(cut(tiles, 4))

    def expected(i, j, *under):
        return hashlib.sha256(b"preflight window\n" + bytes([i, j]) + b"".join(under)).digest()

    assert hashes[ZOOM, X * 4 + 1, Y * 4] == expected(1, 0, own, east)
    assert hashes[ZOOM, X * 4, Y * 4 + 3] == expected(0, 3, own, south)
    assert hashes[ZOOM, X * 4 + 2, Y * 4 + 1] == expected(2, 1, own, east, south, south_east)
    assert len(set(hashes.values())) == len(hashes)


def test_a_window_has_the_same_hash_with_both_overlaps():
    half, quarter = keys(cut(block(3, 3), 2)), keys(cut(block(3, 3), 4))
    assert {(z, 2 * x, 2 * y): sha for (z, x, y), sha in half.items()}.items() <= quarter.items()


def test_a_changed_tile_changes_exactly_the_windows_over_it():
    before = block(3, 3)
    after = before.without([(ZOOM, X + 1, Y + 1)])
    changed = row(X + 1, Y + 1)
    fresh = SealedTiles.of_rows([TileRow(*(getattr(changed, n) for n in changed.__slots__[:6]), "ab" * 32, "p", None)])
    old, new = keys(cut(before, 4)), keys(cut(after.joined(fresh), 4))
    assert old.keys() == new.keys()
    differing = {window for window in old if old[window] != new[window]}
    middle = ((X + 1) * 4, (Y + 1) * 4)
    assert differing == {
        (ZOOM, x, y) for x in range(middle[0] - 3, middle[0] + 4) for y in range(middle[1] - 3, middle[1] + 4)
    }
    touching = keys(cut(after.joined(fresh), 4, [(ZOOM, X + 1, Y + 1)]))
    assert touching == {window: new[window] for window in differing}


def test_there_is_no_window_over_a_missing_tile():
    complete, holed = keys(cut(block(3, 3), 2)), keys(cut(block(3, 3).without([(ZOOM, X + 1, Y + 1)]), 2))
    assert len(complete) == 25
    # A ring of eight tiles: the tiles themselves, and one window across each border between two of them.
    assert len(holed) == 8 + 8
    assert count_windows(block(3, 3).without([(ZOOM, X + 1, Y + 1)]), 2) == 16
    assert holed.items() <= complete.items()


def test_windows_cross_the_antimeridian():
    last = (1 << ZOOM) - 1
    rows = cut(SealedTiles.of_rows([row(last, Y), row(0, Y)]), 4)
    crossing = rows[rows["x"] > last * 4]
    assert sorted(crossing["x"].tolist()) == [last * 4 + i for i in (1, 2, 3)]
    assert all(-180 <= lon < 180 for lon in rows["lon"].tolist())
    assert -180.0 in crossing["lon"].tolist()


def test_no_window_crosses_the_southern_edge():
    last = (1 << 5) - 1
    rows = cut(SealedTiles.of_rows([row(3, last, zoom=5), row(3, 0, zoom=5)]), 2)
    assert sorted(rows["y"].tolist()) == [0, 2 * last]


def test_equal_and_reserved_ids_are_refused(monkeypatch):
    tiles = block(2, 1)
    monkeypatch.setattr("preflight.tileset.windows.tile_id", lambda *_: 7)
    with pytest.raises(TileContentError, match="have the same id 7"):
        cut(tiles, 4)
    monkeypatch.setattr("preflight.tileset.windows.tile_id", lambda *_: -1)
    with pytest.raises(TileContentError, match="the id -1, which means `no result`"):
        cut(tiles, 2)


@pytest.mark.parametrize("steps", [2, 4])
def test_parts_are_the_tiles_under_each_window(steps):
    tiles = block(3, 2)
    rows = cut(tiles, steps)
    for window, parts in zip(rows, parts_of(tiles, rows, steps), strict=True):
        x, y = int(window["x"]), int(window["y"])
        east, south = x % steps > 0, y % steps > 0
        wanted = [(0, 0, True), (1, 0, east), (0, 1, south), (1, 1, east and south)]
        for number, (i, j, covered) in zip(parts.tolist(), wanted, strict=True):
            if covered:
                assert (int(tiles.xs[number]), int(tiles.ys[number])) == (x // steps + i, y // steps + j)
            else:
                assert number == -1


def test_windows_of_another_tile_set_are_refused():
    rows = cut(block(3, 3), 2)
    with pytest.raises(TileContentError, match="do not belong to this tile set"):
        parts_of(block(2, 3), rows, 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "windows.inventory"
    with path.open("wb") as out:
        write_windows(out, cut(block(2, 2), 4), 4, "cd" * 32)
    return path


def test_the_file_returns_what_was_written(file):
    windows = Windows.open(file)
    assert (windows.rows == cut(block(2, 2), 4)).all()
    assert (len(windows), windows.steps, windows.tiles) == (25, 4, "cd" * 32)
    assert not windows.rows.flags.writeable


def test_an_empty_set_can_be_written(tmp_path):
    with (tmp_path / "w").open("wb") as out:
        write_windows(out, cut(block(2, 2), 4)[:0], 4, "")
    assert len(Windows.open(tmp_path / "w")) == 0


def test_a_change_of_any_byte_is_refused(file):
    content = file.read_bytes()
    for at in range(len(content)):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(TileContentError, match="windows"):
            Windows.open(file)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[:7], lambda c: b""])
def test_a_file_of_another_length_is_refused(file, change):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(TileContentError, match="damaged or has another format"):
        Windows.open(file, vouched=True)


def test_the_message_names_a_missing_file(tmp_path):
    with pytest.raises(TileContentError, match="nowhere"):
        Windows.open(tmp_path / "nowhere")
