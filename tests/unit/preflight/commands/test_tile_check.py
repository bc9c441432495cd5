"""`doit verify` names each tile that drifted, and each tile file that differs from the signed one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from preflight.adapters.tile_files import TileFiles
from preflight.area.web_mercator import tile_center
from preflight.commands import tile_check, tile_hashing
from preflight.commands.tile_check import drift, file_failures, sealed_tiles, with_tiles_checked
from preflight.commands.tile_hashing import TwoProcesses
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.inventory import Inventory
from preflight.tileset.sealing import seal
from takeoff import errors
from takeoff.verify import VerificationResult

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)


def stored(pixels, zoom, x, y, source="oam"):
    content = f"{zoom}/{x}/{y} {source}".encode()
    sha256 = hashlib.sha256(content).hexdigest()
    lat, lon = tile_center(zoom, x, y)
    return TileRow(zoom, x, y, lat, lon, source, sha256, pixels.put(content, sha256, ".png")[0], THEN)


@pytest.fixture
def pixels(tmp_path):
    return TileFiles(tmp_path / "tiles")


@pytest.fixture
def rows(pixels):
    found = [stored(pixels, 12, 2000 + x, 1500 + y, "oäm" if x else "b") for x in range(3) for y in range(2)]
    return sorted(found, key=lambda row: (row.zoom, row.lat, row.lon, row.source))


@pytest.fixture
def inventory(tmp_path, rows):
    with (tmp_path / "tiles.inventory").open("wb") as out:
        seal(rows, out)
    return Inventory.open(tmp_path / "tiles.inventory")


def test_the_inventory_returns_the_rows_that_were_sealed(inventory, rows):
    found = [(t.zoom, t.x, t.y, t.lat, t.lon, t.source, t.sha256, t.path) for t in sealed_tiles(inventory)]
    assert found == [(r.zoom, r.x, r.y, r.lat, r.lon, r.source, r.sha256, r.path) for r in rows]


def test_no_drift(inventory, rows):
    assert list(drift(inventory, rows)) == []


def test_every_drifted_missing_and_added_tile_is_named(inventory, rows, pixels):
    other = replace(rows[1], sha256="ab" * 32)
    moved = replace(rows[2], source="c", lat=rows[2].lat + 1e-9)
    more = stored(pixels, 13, 4000, 3000)
    found = {failure.file: failure.message for failure in drift(inventory, [rows[0], other, moved, *rows[3:5], more])}
    names = [f"{row.zoom}/{row.x}/{row.y} {row.source}".encode("ascii", "backslashreplace").decode() for row in rows]
    assert found.keys() == {
        names[1],
        names[2].replace(rows[2].source, "c").replace("o\\xe4m", "c"),
        names[5],
        "13/4000/3000 oam",
    }
    assert found[names[1]] == f"drifted: SHA-256 was {rows[1].sha256} when the cache was signed, is now {'ab' * 32}"
    assert found[names[5]].startswith("missing: ")
    assert found["13/4000/3000 oam"].startswith("added: ")
    (both,) = (message for message in found.values() if "source" in message)
    assert f"source was {errors.printable(rows[2].source)} when the cache was signed, is now c" in both
    assert "centre" in both


def failures_of(inventory, pixels):
    with TwoProcesses(len(inventory)) as hashing:
        return list(file_failures(inventory, pixels, hashing))


def test_every_tile_file_is_hashed_and_every_failure_named(inventory, rows, pixels, tmp_path):
    assert failures_of(inventory, pixels) == []
    files = [tmp_path / "tiles" / row.path for row in rows]
    files[0].write_bytes(b"other")
    files[3].unlink()
    files[5].write_bytes(files[5].read_bytes() + b"\0")
    found = failures_of(inventory, pixels)
    assert {failure.code for failure in found} == {"tile_file"}
    named = [f"{rows[n].zoom}/{rows[n].x}/{rows[n].y} {rows[n].source}" for n in (0, 3, 5)]
    assert [failure.file for failure in found] == [name.encode("ascii", "backslashreplace").decode() for name in named]
    assert f"not {rows[0].sha256}" in found[0].message
    assert "cannot be opened" in found[1].message


def test_two_processes_and_several_blocks_find_the_same_failures(inventory, rows, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(tile_hashing, "MIN_TILES_FOR_PROCESS", 1)
    monkeypatch.setattr(tile_check, "_BLOCK", 4)
    assert failures_of(inventory, pixels) == []
    files = [tmp_path / "tiles" / row.path for row in rows]
    files[0].unlink()
    files[1].write_bytes(b"other")
    files[4].write_bytes(b"other")
    # A link to a file inside the tile store is accepted. A link that leaves the store is not.
    files[2].rename(files[2].with_suffix(".moved"))
    files[2].symlink_to(files[2].with_suffix(".moved").name)
    files[5].rename(tmp_path / "outside")
    files[5].symlink_to(tmp_path / "outside")
    found = failures_of(inventory, pixels)
    assert [failure.file.split()[0] for failure in found] == [
        f"{rows[number].zoom}/{rows[number].x}/{rows[number].y}" for number in (0, 1, 4, 5)
    ]
    assert "leaves the tile store" in found[3].message


def test_a_link_does_not_redirect_the_hashing_of_other_tiles(inventory, rows, pixels, tmp_path):
    """The first tile is a link into an intact copy of all tiles. The damage of tiles 3 and 4 is found all the same."""
    store = tmp_path / "tiles"
    for row in rows:
        copy = store / "backup" / row.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((store / row.path).read_bytes())
    (store / rows[0].path).unlink()
    (store / rows[0].path).symlink_to(store / "backup" / rows[0].path)
    (store / rows[3].path).unlink()
    (store / rows[4].path).write_bytes(b"other")
    assert [failure.file.split()[0] for failure in failures_of(inventory, pixels)] == [
        f"{rows[number].zoom}/{rows[number].x}/{rows[number].y}" for number in (3, 4)
    ]


class InMemory:
    """A tile store that keeps no files."""

    def folder(self):
        return None

    def open_tile(self, path):
        raise TileContentError(f"no {path} in memory")


def test_a_store_without_files_is_asked_for_every_tile(inventory, rows):
    found = failures_of(inventory, InMemory())
    assert [failure.message for failure in found] == [f"no {row.path} in memory" for row in rows]


def verdict(tmp_path, artifacts, failures=()):
    sha256 = hashlib.sha256((tmp_path / "tiles.inventory").read_bytes()).hexdigest()
    manifest = type("Signed", (), {"subjects": {"tiles.inventory": sha256}})()
    return VerificationResult(str(tmp_path), tuple(failures), True, artifacts, None, manifest)


def test_the_failures_of_tiles_are_sorted_into_the_verdict(inventory, rows, pixels, tmp_path):
    (tmp_path / "tiles" / rows[0].path).unlink()
    before = (errors.FileMissingError("is missing", "x"), errors.TileDriftError("was signed over", "manifest.json"))
    result = with_tiles_checked(verdict(tmp_path, {"tiles.inventory": True}, before), store=rows[:-1], pixels=pixels)
    assert [failure.code for failure in result.failures] == ["file_missing", "tile_drift", "tile_drift", "tile_file"]
    assert result.exit_status == 28


def test_a_list_of_tiles_that_is_not_the_signed_one_is_not_used(inventory, rows, pixels, tmp_path):
    damaged = verdict(tmp_path, {"tiles.inventory": False}, [errors.ContentHashMismatchError("no", "tiles.inventory")])
    assert with_tiles_checked(damaged, store=[], pixels=pixels) is damaged
    unread = damaged._replace(manifest=None)
    assert with_tiles_checked(unread, store=[], pixels=pixels) is unread
    swapped = verdict(tmp_path, {"tiles.inventory": True})
    Path(tmp_path / "tiles.inventory").write_bytes(b"swapped after it was verified")
    with pytest.raises(errors.ContentHashMismatchError):
        with_tiles_checked(swapped, store=[], pixels=pixels)


def test_a_cache_without_a_list_of_tiles_fails(inventory, pixels, tmp_path):
    result = with_tiles_checked(verdict(tmp_path, {"other": True}), store=None, pixels=pixels)
    assert [failure.code for failure in result.failures] == ["tile_file"]
