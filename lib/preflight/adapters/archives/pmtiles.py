"""A source of tiles: a PMTiles archive, version 3, https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md."""

from __future__ import annotations

import gzip
import json
import mmap
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pmtiles import tile as codec

from preflight.errors import ImportSourceError
from preflight.tile_import.source import (
    MAX_TILE_BYTES,
    BadTile,
    OfferedTile,
    Zooms,
    offered_tile,
    plain_text,
    read_date,
)

__all__ = ["SIGNATURE", "PmTiles"]

SIGNATURE = b"PMTiles"
_HEADER = 127  # bytes
_MAX_DIRECTORY = 64 << 20  # decompressed bytes; a directory of a million tiles has about 10 MB
_MAX_DEPTH = 4  # the limit of the reader that the format's authors publish
_DATES = ("captured_at", "capture_date", "acquisition_date")  # names in use; the format defines none
_IMAGES = (codec.TileType.PNG, codec.TileType.JPEG, codec.TileType.WEBP, codec.TileType.UNKNOWN)


class PmTiles:
    """A TileSource over a PMTiles archive. Yields tiles by tile id, after it has read and checked all directories."""

    def __init__(self, path: Path, zooms: Zooms | None = None) -> None:
        """Read header, metadata and directories.

        Args:
            path: the archive.
            zooms: the first and last zoom; None for all.

        Raises:
            ImportSourceError: the file is no PMTiles archive, has another version, is truncated or damaged, uses a
                compression other than gzip, or holds no PNG, JPEG or WebP.
        """
        self._path = path
        self._bytes = _map(path)
        self._header = self._read_header()
        metadata = self._read_metadata()
        low, high = zooms or (0, 31)
        self._entries = [entry for entry in self._tile_entries() if low <= _zoom_of(entry) <= high]
        self.captured_at: datetime | None = next(
            (date for date in (read_date(metadata.get(name)) for name in _DATES) if date), None
        )
        self.terms: str | None = plain_text(metadata.get("license")) or plain_text(metadata.get("attribution"))

    def __len__(self) -> int:
        return sum(entry.run_length for entry in self._entries)

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        for entry in self._entries:
            start = self._header["tile_data_offset"] + entry.offset
            content = self._content(start, entry.length)
            for number in range(entry.run_length):
                zoom, x, y = codec.tileid_to_zxy(entry.tile_id + number)
                yield BadTile(zoom, x, y, content) if isinstance(content, str) else offered_tile(zoom, x, y, content)

    def _content(self, start: int, length: int) -> bytes | str:
        """Return the bytes of a tile, or the reason why it cannot be imported."""
        if length > MAX_TILE_BYTES:
            return f"has {length:,} bytes, but the limit is {MAX_TILE_BYTES:,}"
        content = self._bytes[start : start + length]
        if self._header["tile_compression"] is not codec.Compression.GZIP:
            return content
        try:
            return _gunzip(content, MAX_TILE_BYTES)
        except (zlib.error, ValueError) as error:
            return f"cannot be decompressed: {error}"

    def _read_header(self) -> dict[str, Any]:
        if len(self._bytes) < _HEADER:
            raise self._damaged(f"it has {len(self._bytes)} bytes, fewer than the header of {_HEADER}")
        try:
            header: dict[str, Any] = dict(codec.deserialize_header(self._bytes[:_HEADER]))
        except codec.SpecVersionUnsupported as error:
            raise ImportSourceError(
                f"{self._path} is a PMTiles archive of another version. Convert it to version 3 (`pmtiles convert`)"
            ) from error
        except (codec.MagicNumberNotFound, ValueError) as error:
            raise self._damaged(f"its header cannot be read ({error or 'no PMTiles signature'})") from error
        if header["tile_type"] not in _IMAGES:
            kind = header["tile_type"].name
            content = "vector tiles" if kind in ("MVT", "MLT") else f"{kind} images"
            raise ImportSourceError(
                f"{self._path} holds {content}, but only PNG, JPEG and WebP can be imported. "
                "Export the map as such tiles"
            )
        supported = (codec.Compression.NONE, codec.Compression.GZIP)
        for name in ("internal_compression", "tile_compression"):
            # Programs that write image tiles may declare UNKNOWN for tiles that are not compressed.
            if header[name] not in (*supported, *((codec.Compression.UNKNOWN,) if name.startswith("tile") else ())):
                raise ImportSourceError(
                    f"{self._path} uses the compression {header[name].name.lower()}, which is not supported. Write it "
                    "again with gzip or without compression"
                )
        return header

    def _read_metadata(self) -> dict[str, object]:
        try:
            metadata = json.loads(
                self._section(self._header["metadata_offset"], self._header["metadata_length"]) or b"{}"
            )
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its metadata cannot be read ({error})") from error
        return metadata if isinstance(metadata, dict) else {}

    def _tile_entries(self) -> list[codec.Entry]:
        """Read all directories and return the entries of tiles, by id.

        Limits the size of a directory and the depth of nesting. Compares the number of tiles with the header.
        """
        tiles: list[codec.Entry] = []
        pending = [(self._header["root_offset"], self._header["root_length"], 1)]
        seen: set[int] = set()
        while pending:
            offset, length, depth = pending.pop()
            if depth > _MAX_DEPTH or offset in seen:
                raise self._damaged("its directories are nested in a circle or too deep")
            seen.add(offset)
            for entry in self._directory(offset, length):
                if entry.run_length == 0:
                    pending.append((self._header["leaf_directory_offset"] + entry.offset, entry.length, depth + 1))
                else:
                    self._check(entry)
                    tiles.append(entry)
        count, declared = sum(entry.run_length for entry in tiles), self._header["addressed_tiles_count"]
        if declared not in (0, count):
            raise self._damaged(f"its directories list {count:,} tiles, its header {declared:,}")
        return sorted(tiles, key=lambda entry: int(entry.tile_id))

    def _directory(self, offset: int, length: int) -> list[codec.Entry]:
        raw = self._section(offset, length)
        try:
            # The library reads compressed directories only.
            entries: list[codec.Entry] = codec.deserialize_directory(gzip.compress(raw, 1))
        except (EOFError, ValueError, IndexError) as error:
            raise self._damaged(f"a directory cannot be read ({error})") from error
        return entries

    def _check(self, entry: codec.Entry) -> None:
        end = self._header["tile_data_offset"] + entry.offset + entry.length
        if entry.offset < 0 or end > len(self._bytes):
            raise self._damaged(f"a tile ends at byte {end:,}, but the file has {len(self._bytes):,}")
        if _zoom_of(entry) > 31 or entry.tile_id + entry.run_length > (1 << 64) // 3:
            raise self._damaged("a tile id is beyond zoom 31")

    def _section(self, offset: int, length: int) -> bytes:
        if offset + length > len(self._bytes):
            raise self._damaged(f"a section ends at byte {offset + length:,}, but the file has {len(self._bytes):,}")
        content = self._bytes[offset : offset + length]
        if not content or self._header["internal_compression"] is codec.Compression.NONE:
            return content
        try:
            return _gunzip(content, _MAX_DIRECTORY)
        except (zlib.error, ValueError) as error:
            raise self._damaged(f"a section cannot be decompressed ({error})") from error

    def _damaged(self, reason: str) -> ImportSourceError:
        return ImportSourceError(f"{self._path} is not an intact PMTiles archive: {reason}. Copy or export it again")


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise ImportSourceError(f"{path} cannot be read: {error}. Make it readable") from error


def _zoom_of(entry: codec.Entry) -> int:
    return int(((3 * entry.tile_id + 1).bit_length() - 1) // 2)


def _gunzip(content: bytes, limit: int) -> bytes:
    """Decompress at most `limit` bytes. Raises zlib.error, or ValueError if the result is larger or incomplete."""
    reader = zlib.decompressobj(wbits=31)
    plain = reader.decompress(content, limit)
    if reader.unconsumed_tail:
        raise ValueError(f"it is larger than {limit:,} bytes")
    if not reader.eof:
        raise ValueError("it is truncated")
    return plain
