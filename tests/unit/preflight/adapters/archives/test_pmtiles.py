from __future__ import annotations

import gzip
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pmtiles import tile as codec
from pmtiles.writer import Writer

from preflight.adapters.archives import pmtiles as adapter
from preflight.adapters.archives.pmtiles import PmTiles
from preflight.errors import ImportSourceError
from preflight.tile_import.source import BadTile, OfferedTile

REAL = Path(__file__).parents[6] / "shared" / "data" / "containers" / "usgs-mt-whitney-8-15-webp-512.pmtiles"
PNG = b"\x89PNG\r\n\x1a\n and more"
WEBP = b"RIFF\0\0\0\0WEBPVP8 "


def archive(tiles, metadata=None, **header):
    """An archive by the format's own writer. tiles: (zoom, x, y) -> bytes."""
    out = io.BytesIO()
    writer = Writer(out)
    for tile_id, content in sorted((codec.zxy_to_tileid(*place), content) for place, content in tiles.items()):
        writer.write_tile(tile_id, content)
    facts = {"tile_type": codec.TileType.PNG, "tile_compression": codec.Compression.NONE, **header}
    facts = {"min_zoom": 0, "max_zoom": 0, "center_zoom": 0, "center_lon_e7": 0, "center_lat_e7": 0, **facts}
    facts |= {f"{end}_{axis}_e7": 0 for end in ("min", "max") for axis in ("lon", "lat")}
    writer.finalize(facts, metadata or {})
    return out.getvalue()


def rewritten(content, **changes):
    """The same archive with other header fields."""
    header = {**codec.deserialize_header(content[:127]), **changes}
    return codec.serialize_header(header) + content[127:]


@pytest.fixture
def read(tmp_path):
    def run(content, zooms=None):
        path = tmp_path / "a.pmtiles"
        path.write_bytes(content)
        return PmTiles(path, zooms)

    return run


def test_tiles_come_with_their_bytes_and_suffix(read):
    tiles = read(archive({(1, 0, 1): PNG, (0, 0, 0): WEBP, (3, 5, 6): b"\xff\xd8\xff"}))
    assert len(tiles) == 3
    assert list(tiles) == [
        OfferedTile(0, 0, 0, WEBP, ".webp"),
        OfferedTile(1, 0, 1, PNG, ".png"),
        OfferedTile(3, 5, 6, b"\xff\xd8\xff", ".jpg"),
    ]


def test_tiles_of_equal_bytes_stored_once_come_each(read):
    places = {(2, x, y): PNG for x in range(4) for y in range(4)}
    tiles = read(archive(places))
    assert len(tiles) == 16
    assert {(one.zoom, one.x, one.y) for one in tiles} == set(places)


def test_compressed_tiles_are_unpacked_and_a_damaged_one_is_named(read):
    content = {(1, 0, 0): gzip.compress(PNG), (1, 1, 0): b"\x1f\x8bnonsense"}
    good, bad = read(archive(content, tile_compression=codec.Compression.GZIP))
    assert good == OfferedTile(1, 0, 0, PNG, ".png")
    assert isinstance(bad, BadTile)
    assert (bad.zoom, bad.x, bad.y) == (1, 1, 0)
    assert "does not decompress" in bad.reason


def test_a_tile_that_unpacks_without_end_is_named(read, monkeypatch):
    monkeypatch.setattr(adapter, "MAX_TILE_BYTES", 10_000)
    [tile] = read(archive({(0, 0, 0): gzip.compress(bytes(1 << 20))}, tile_compression=codec.Compression.GZIP))
    assert isinstance(tile, BadTile)
    assert "larger than 10,000 bytes" in tile.reason


def test_directories_without_compression_are_read(read):
    content = archive({(1, 0, 1): PNG, (2, 3, 1): WEBP})
    header = codec.deserialize_header(content[:127])

    def section(name):
        start = header[f"{name}_offset"]
        return gzip.decompress(content[start : start + header[f"{name}_length"]])

    root, facts = section("root"), section("metadata")
    data = content[header["tile_data_offset"] :]
    plain = rewritten(
        content[:127],
        internal_compression=codec.Compression.NONE,
        root_length=len(root),
        metadata_offset=127 + len(root),
        metadata_length=len(facts),
        tile_data_offset=127 + len(root) + len(facts),
    )
    assert [(one.zoom, one.x, one.y) for one in read(plain + root + facts + data)] == [(1, 0, 1), (2, 3, 1)]


def test_leaves_are_followed(read):
    # Gaps and lengths without a pattern, so that the directory does not fit the root.
    random = Random(1)
    places = {
        (13, random.randrange(8192), random.randrange(8192)): PNG + random.randbytes(random.randrange(40))
        for _ in range(9000)
    }
    content = archive(places)
    assert codec.deserialize_header(content[:127])["leaf_directory_length"] > 0
    assert {(one.zoom, one.x, one.y): one.content for one in read(content)} == places


def test_zooms_are_chosen(read):
    tiles = read(archive({(zoom, 0, 0): PNG for zoom in range(6)}), (2, 3))
    assert len(tiles) == 2
    assert [one.zoom for one in tiles] == [2, 3]


def test_date_and_terms_come_from_the_metadata(read):
    facts = {"attribution": "Some\u00a0Body", "capture_date": "2025-06-01T10:00:00Z", "vector_layers": 3}
    tiles = read(archive({(0, 0, 0): PNG}, facts))
    assert tiles.terms == "Some Body"
    assert tiles.captured_at == datetime(2025, 6, 1, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tile_type": codec.TileType.MVT}, "holds vector tiles"),
        ({"tile_type": codec.TileType.AVIF}, "holds AVIF pictures"),
        ({"tile_compression": codec.Compression.ZSTD}, "compressed by zstd"),
        ({"internal_compression": codec.Compression.BROTLI}, "compressed by brotli"),
        ({"root_offset": 1 << 40}, "a section ends at byte"),
        ({"metadata_length": 3}, "does not decompress"),
        ({"tile_data_offset": 1 << 50}, "a tile ends at byte"),
        ({"addressed_tiles_count": 7}, "list 1 tiles, its header 7"),
    ],
)
def test_archives_that_cannot_be_imported_say_why(read, change, reason):
    with pytest.raises(ImportSourceError, match=reason):
        read(rewritten(archive({(0, 0, 0): PNG}), **change))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "fewer than a header"),
        (b"PMTiles\x03", "fewer than a header"),
        (b"PMTiles\x02" + bytes(200), "another version"),
        (b"PMTiles\x03" + b"\xff" * 200, "no whole PMTiles archive"),
        (b"nothing of the kind" * 20, "no whole PMTiles archive"),
        (b"\xff" * 200, "no whole PMTiles archive"),
    ],
)
def test_what_is_no_archive_is_refused(read, content, reason):
    with pytest.raises(ImportSourceError, match=reason):
        read(content)


def test_directories_in_a_circle_are_refused(read):
    content = archive({(0, 0, 0): PNG})
    root = codec.serialize_directory([codec.Entry(0, 0, 0, 0)])
    leaf_length = len(codec.serialize_directory([codec.Entry(0, 0, len(root), 0)]))
    leaf = codec.serialize_directory([codec.Entry(0, 0, leaf_length, 0)])
    facts = gzip.compress(json.dumps({}).encode())
    start = len(content)
    header = rewritten(
        content,
        root_offset=start,
        root_length=len(leaf),
        leaf_directory_offset=start,
        metadata_offset=start + len(leaf),
        metadata_length=len(facts),
    )
    with pytest.raises(ImportSourceError, match="circle"):
        read(header + leaf + facts)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_read_but_nothing_else(tmp_path_factory, data):
    content = bytearray(archive({(4, x, 3): PNG + bytes([x]) for x in range(12)}, {"attribution": "a"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("pm") / "a.pmtiles"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 130]))])
    try:
        tiles = PmTiles(path)
    except ImportSourceError:
        return
    for _, tile in zip(range(20), tiles, strict=False):
        assert isinstance(tile, OfferedTile | BadTile)


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data is not here")
def test_the_real_archive_holds_its_fifty_tiles():
    tiles = PmTiles(REAL)
    found = list(tiles)
    assert len(tiles) == len(found) == 50
    assert {one.suffix for one in found} == {".webp"}
    assert {one.zoom for one in found} == set(range(8, 16))
    assert "QGIS" in tiles.terms
    assert len(PmTiles(REAL, (15, 15))) == 30
