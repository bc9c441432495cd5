from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from preflight.area.web_mercator import tile_center
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.inventory import Inventory, read_header, tile_id
from preflight.tileset.sealing import seal

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)


def row(zoom, x, y, source="a", content=b"tile"):
    lat, lon = tile_center(zoom, x, y)
    sha256 = hashlib.sha256(content).hexdigest()
    return TileRow(zoom, x, y, lat, lon, source, sha256, f"objects/{sha256[:2]}/{sha256}.png", THEN)


def in_order(rows):
    return sorted(rows, key=lambda one: (one.zoom, one.lat, one.lon, one.source))


def written(path, rows):
    with path.open("wb") as out:
        return seal(rows, out)


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "tiles.inventory"
    rows = in_order([row(12, 2000, 1500), row(12, 2001, 1500, "b"), row(13, 4000, 3000, "a", b"other")])
    return path, rows, written(path, rows)


def test_ids_follow_the_specification():
    digest = hashlib.sha256(b"19|0.348470|32.5").digest()
    assert tile_id(19, 0.348470, 32.5) != int.from_bytes(digest[:8], "big", signed=True), "the id hashes repr()"
    assert tile_id(19, 0.34847, 32.5) == int.from_bytes(
        hashlib.sha256(b"19|0.34847|32.5").digest()[:8], "big", signed=True
    )
    assert tile_id(19, 0.348470230102539, 32.58991241455078) == -2264715062491817582


def test_an_inventory_returns_what_was_sealed(sealed):
    path, rows, header = sealed
    assert read_header(path) == header
    assert (header.count, header.sources, header.zooms) == (3, ("a", "b"), (12, 13))
    inventory = Inventory.open(path)
    assert len(inventory) == 3
    for index, one in enumerate(rows):
        record = inventory.rows[index]
        assert (record["zoom"], record["x"], record["y"]) == (one.zoom, one.x, one.y)
        assert (record["lat"], record["lon"]) == (one.lat, one.lon)
        assert record["id"] == tile_id(one.zoom, one.lat, one.lon)
        assert (inventory.path(index), inventory.source(index)) == (one.path, one.source)
        assert inventory.sha256(index) == one.sha256
    assert not inventory.rows.flags.writeable


def test_the_layout_is_as_documented(sealed):
    path, rows, header = sealed
    content = path.read_bytes()
    assert content[:12] == b"PFTILES\0\x01\0\0\0"
    length = int.from_bytes(content[12:16], "little")
    text = content[48 : 48 + length]
    assert hashlib.sha256(text).digest() == content[16:48]
    assert text.startswith(b'{"aggregate":"')
    assert text.endswith(b',"sources":["a","b"],"zooms":[12,13]}')
    body = content[48 + length :]
    assert hashlib.sha256(body).hexdigest() == header.body_sha256
    assert body[:8] == tile_id(rows[0].zoom, rows[0].lat, rows[0].lon).to_bytes(8, "little", signed=True)
    assert body[35:67].hex() == rows[0].sha256
    assert len(body) == 3 * 67 + 4 * 4 + sum(len(one.path) for one in rows)


def test_a_change_of_any_byte_is_refused(sealed):
    path, _, _ = sealed
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(TileContentError, match=r"tiles\.inventory"):
            Inventory.open(path)


@pytest.mark.parametrize("keep", [0, 10, 48, 100, -1])
def test_reading_the_header_refuses_a_truncated_file(sealed, keep):
    path, _, _ = sealed
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TileContentError, match=r"tiles\.inventory"):
        read_header(path)


def test_a_longer_or_missing_file_is_refused(sealed, tmp_path):
    path, _, _ = sealed
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(TileContentError, match="do not fit"):
        read_header(path)
    with pytest.raises(TileContentError, match=r"gone\.inventory"):
        read_header(tmp_path / "gone.inventory")


def test_a_header_that_is_not_canonical_is_refused(sealed):
    path, _, _ = sealed
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    text = content[48 : 48 + length].replace(b",", b", ")
    digest = hashlib.sha256(text).digest()
    prefix = content[:12] + len(text).to_bytes(4, "little") + digest
    path.write_bytes(prefix + text + content[48 + length :])
    with pytest.raises(TileContentError, match="malformed"):
        read_header(path)


def test_an_empty_set_can_be_sealed(tmp_path):
    path = tmp_path / "tiles.inventory"
    assert written(path, []).count == 0
    inventory = Inventory.open(path)
    assert len(inventory.rows) == 0


def test_a_header_is_read_without_numpy(sealed):
    path, _, _ = sealed
    code = (
        "import sys; from pathlib import Path; from preflight.tileset.inventory import read_header;"
        "read_header(Path(sys.argv[1])); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
