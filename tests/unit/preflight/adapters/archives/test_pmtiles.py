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
    """Write an archive with the writer of the format's authors. tiles: (zoom, x, y) -> bytes."""
    out = io.BytesIO()
    writer = Writer(out)
    for tile_id, content in sorted((codec.zxy_to_tileid(*zxy), content) for zxy, content in tiles.items()):
        writer.write_tile(tile_id, content)
    fields = {"tile_type": codec.TileType.PNG, "tile_compression": codec.Compression.NONE, **header}
    fields = {"min_zoom": 0, "max_zoom": 0, "center_zoom": 0, "center_lon_e7": 0, "center_lat_e7": 0, **fields}
    fields |= {f"{end}_{axis}_e7": 0 for end in ("min", "max") for axis in ("lon", "lat")}
    writer.finalize(fields, metadata or {})
    return out.getvalue()


def rewritten(content, **changes):
    """The same archive with changed header fields."""
    header = {**codec.deserialize_header(content[:127]), **changes}
    return codec.serialize_header(header) + content[127:]


@pytest.fixture
def read(tmp_path):
    def run(content, zooms=None):
        path = tmp_path / "a.pmtiles"
        path.write_bytes(content)
        return PmTiles(path, zooms)

    return run


def test_tiles_have_their_bytes_and_the_suffix_of_their_format(read):
    tiles = read(archive({(1, 0, 1): PNG, (0, 0, 0): WEBP, (3, 5, 6): b"\xff\xd8\xff"}))
    assert len(tiles) == 3
    assert list(tiles) == [
        OfferedTile(0, 0, 0, WEBP, ".webp"),
        OfferedTile(1, 0, 1, PNG, ".png"),
        OfferedTile(3, 5, 6, b"\xff\xd8\xff", ".jpg"),
    ]


def test_tiles_that_share_their_bytes_are_all_read(read):
    places = {(2, x, y): PNG for x in range(4) for y in range(4)}
    tiles = read(archive(places))
    assert len(tiles) == 16
    assert {(tile.zoom, tile.x, tile.y) for tile in tiles} == set(places)


def test_compressed_tiles_are_decompressed_and_a_damaged_one_is_reported(read):
    content = {(1, 0, 0): gzip.compress(PNG), (1, 1, 0): b"\x1f\x8bnonsense"}
    good, bad = read(archive(content, tile_compression=codec.Compression.GZIP))
    assert good == OfferedTile(1, 0, 0, PNG, ".png")
    assert isinstance(bad, BadTile)
    assert (bad.zoom, bad.x, bad.y) == (1, 1, 0)
    assert "cannot be decompressed" in bad.reason


def test_a_tile_that_decompresses_beyond_the_limit_is_reported(read, monkeypatch):
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

    root, metadata = section("root"), section("metadata")
    data = content[header["tile_data_offset"] :]
    plain = rewritten(
        content[:127],
        internal_compression=codec.Compression.NONE,
        root_length=len(root),
        metadata_offset=127 + len(root),
        metadata_length=len(metadata),
        tile_data_offset=127 + len(root) + len(metadata),
    )
    assert [(tile.zoom, tile.x, tile.y) for tile in read(plain + root + metadata + data)] == [(1, 0, 1), (2, 3, 1)]


def test_leaf_directories_are_read(read):
    # Random gaps and lengths do not compress well, so the directory does not fit into the root.
    random = Random(1)
    places = {
        (13, random.randrange(8192), random.randrange(8192)): PNG + random.randbytes(random.randrange(40))
        for _ in range(9000)
    }
    content = archive(places)
    assert codec.deserialize_header(content[:127])["leaf_directory_length"] > 0
    assert {(tile.zoom, tile.x, tile.y): tile.content for tile in read(content)} == places


def test_only_the_requested_zooms_are_read(read):
    tiles = read(archive({(zoom, 0, 0): PNG for zoom in range(6)}), (2, 3))
    assert len(tiles) == 2
    assert [tile.zoom for tile in tiles] == [2, 3]


def test_date_and_terms_come_from_the_metadata(read):
    metadata = {"attribution": "Some\u00a0Body", "capture_date": "2025-06-01T10:00:00Z", "vector_layers": 3}
    tiles = read(archive({(0, 0, 0): PNG}, metadata))
    assert tiles.terms == "Some Body"
    assert tiles.captured_at == datetime(2025, 6, 1, 10, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tile_type": codec.TileType.MVT}, "holds vector tiles"),
        ({"tile_type": codec.TileType.AVIF}, "holds AVIF images"),
        ({"tile_compression": codec.Compression.ZSTD}, "uses the compression zstd"),
        ({"internal_compression": codec.Compression.BROTLI}, "uses the compression brotli"),
        ({"root_offset": 1 << 40}, "a section ends at byte"),
        ({"metadata_length": 3}, "cannot be decompressed"),
        ({"tile_data_offset": 1 << 50}, "a tile ends at byte"),
        ({"addressed_tiles_count": 7}, "list 1 tiles, its header 7"),
    ],
)
def test_the_message_says_why_an_archive_cannot_be_imported(read, change, reason):
    with pytest.raises(ImportSourceError, match=reason):
        read(rewritten(archive({(0, 0, 0): PNG}), **change))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "fewer than the header"),
        (b"PMTiles\x03", "fewer than the header"),
        (b"PMTiles\x02" + bytes(200), "another version"),
        (b"PMTiles\x03" + b"\xff" * 200, "not an intact PMTiles archive"),
        (b"nothing of the kind" * 20, "not an intact PMTiles archive"),
        (b"\xff" * 200, "not an intact PMTiles archive"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(read, content, reason):
    with pytest.raises(ImportSourceError, match=reason):
        read(content)


def test_directories_in_a_circle_are_refused(read):
    content = archive({(0, 0, 0): PNG})
    root = codec.serialize_directory([codec.Entry(0, 0, 0, 0)])
    leaf_length = len(codec.serialize_directory([codec.Entry(0, 0, len(root), 0)]))
    leaf = codec.serialize_directory([codec.Entry(0, 0, leaf_length, 0)])
    metadata = gzip.compress(json.dumps({}).encode())
    start = len(content)
    header = rewritten(
        content,
        root_offset=start,
        root_length=len(leaf),
        leaf_directory_offset=start,
        metadata_offset=start + len(leaf),
        metadata_length=len(metadata),
    )
    with pytest.raises(ImportSourceError, match="circle"):
        read(header + leaf + metadata)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_read_without_another_error(tmp_path_factory, data):
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
def test_all_fifty_tiles_of_a_real_archive_are_read():
    archive = PmTiles(REAL)
    tiles = list(archive)
    assert len(archive) == len(tiles) == 50
    assert {tile.suffix for tile in tiles} == {".webp"}
    assert {tile.zoom for tile in tiles} == set(range(8, 16))
    assert "QGIS" in archive.terms
    assert len(PmTiles(REAL, (15, 15))) == 30
