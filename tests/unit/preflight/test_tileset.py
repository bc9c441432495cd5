from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from preflight.errors import TileContentError
from preflight.geometry import tile_center
from preflight.records import TileRow
from preflight.tileset import Inventory, choose_sources, pack_row, read_header, seal, tile_id

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


def test_ids_are_those_of_the_specification():
    digest = hashlib.sha256(b"19|0.348470|32.5").digest()
    assert tile_id(19, 0.348470, 32.5) != int.from_bytes(digest[:8], "big", signed=True), "repr, not the digits typed"
    assert tile_id(19, 0.34847, 32.5) == int.from_bytes(
        hashlib.sha256(b"19|0.34847|32.5").digest()[:8], "big", signed=True
    )
    assert tile_id(19, 0.348470230102539, 32.58991241455078) == -2264715062491817582


def test_the_aggregate_is_a_vector():
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


def test_an_inventory_gives_back_what_was_sealed(sealed):
    path, rows, header = sealed
    assert read_header(path) == header
    assert (header.count, header.sources, header.zooms) == (3, ("a", "b"), (12, 13))
    inventory = Inventory.open(path)
    assert len(inventory) == 3
    for at, one in enumerate(rows):
        record = inventory.rows[at]
        assert (record["zoom"], record["x"], record["y"]) == (one.zoom, one.x, one.y)
        assert (record["lat"], record["lon"]) == (one.lat, one.lon)
        assert record["id"] == tile_id(one.zoom, one.lat, one.lon)
        assert (inventory.path(at), inventory.source(at), inventory.sha256(at)) == (one.path, one.source, one.sha256)
    assert not inventory.rows.flags.writeable


def test_the_layout_is_as_written_down(sealed):
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


def test_every_altered_byte_is_refused(sealed):
    path, _, _ = sealed
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(TileContentError, match=r"tiles\.inventory"):
            Inventory.open(path)


@pytest.mark.parametrize("keep", [0, 10, 48, 100, -1])
def test_a_truncated_file_is_refused_by_its_header_alone(sealed, keep):
    path, _, _ = sealed
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TileContentError, match=r"tiles\.inventory"):
        read_header(path)


def test_a_longer_or_absent_file_is_refused(sealed, tmp_path):
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


def test_the_same_id_twice_is_refused():
    one, other = row(12, 2000, 1500), row(12, 2000, 1500, "b")
    with pytest.raises(TileContentError, match="tiles 12/2000/1500 and 12/2000/1500 have the same id"):
        seal([one, other], io.BytesIO())


def test_a_tile_twice_with_other_centres_is_refused():
    one = row(12, 2000, 1500)
    other = replace(one, lon=one.lon + 1e-9, source="b")
    with pytest.raises(TileContentError, match="12/2000/1500 comes twice"):
        seal([one, other], io.BytesIO())


def test_the_id_that_means_none_is_refused(monkeypatch):
    monkeypatch.setattr("preflight.tileset.tile_id", lambda *_: -1)
    with pytest.raises(TileContentError, match="-1"):
        seal([row(12, 2000, 1500)], io.BytesIO())


def test_a_centre_outside_its_tile_is_refused():
    with pytest.raises(TileContentError, match="outside the tile"):
        seal([replace(row(12, 2000, 1500), x=2001)], io.BytesIO())


def test_a_hash_that_is_none_is_refused():
    with pytest.raises(TileContentError, match="no SHA-256"):
        seal([replace(row(12, 2000, 1500), sha256="abc")], io.BytesIO())


def test_more_sources_than_the_file_can_number_are_refused():
    with pytest.raises(TileContentError, match=r"more than 65,536 sources.*--source"):
        pack_row(row(12, 2000, 1500), 1 << 16)


def test_sources_whose_names_do_not_fit_the_header_are_refused():
    """Written, the file would be refused by its reader."""
    rows = in_order([row(12, 2000 + number, 1500, f"{number}" * 100_000) for number in range(11)])
    with pytest.raises(TileContentError, match=r"names of its 11 sources exceed .*--source"):
        seal(rows, io.BytesIO())


def test_rows_out_of_order_are_a_callers_error(sealed):
    _, rows, _ = sealed
    with pytest.raises(ValueError, match="rows must come by"):
        seal(rows[::-1], io.BytesIO())


def test_an_empty_set_can_be_sealed(tmp_path):
    path = tmp_path / "tiles.inventory"
    assert written(path, []).count == 0
    inventory = Inventory.open(path)
    assert len(inventory.rows) == 0


def test_the_first_source_in_order_is_kept_then_by_name():
    tile = [row(12, 2000, 1500, source) for source in ("a", "b", "c")]
    assert [one.source for one in choose_sources(tile, ["c", "b"])] == ["c"]
    assert [one.source for one in choose_sources(tile, [])] == ["a"]
    assert [one.source for one in choose_sources(tile, ["z"])] == ["a"]


def test_sources_that_disagree_about_a_centre_still_give_one_tile():
    west, east = row(12, 2000, 1500, "a"), row(12, 2001, 1500, "a")
    nudged = replace(row(12, 2000, 1500, "b"), lat=east.lat + 1e-12)
    assert list(choose_sources([west, east, nudged], ["b"])) == [east, nudged]


def test_a_header_is_read_without_numpy(sealed):
    path, _, _ = sealed
    code = (
        "import sys; from pathlib import Path; from preflight.tileset import read_header;"
        "read_header(Path(sys.argv[1])); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
