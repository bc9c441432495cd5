"""Tiles offered by a PMTiles archive, version 3: https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md."""

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
_HEADER = 127
_MAX_DIRECTORY = 64 << 20  # decompressed; a directory of a million tiles has about 10 MB
_MAX_DEPTH = 4  # as the format's own reader
_DATES = ("captured_at", "capture_date", "acquisition_date")  # no standard names one
_IMAGES = (codec.TileType.PNG, codec.TileType.JPEG, codec.TileType.WEBP, codec.TileType.UNKNOWN)


class PmTiles:
    """A TileSource over a PMTiles archive, by tile id. All directories are read and checked before the first tile."""

    def __init__(self, path: Path, zooms: Zooms | None = None) -> None:
        """Read header, metadata and directories.

        Raises:
            ImportSourceError: it is no such archive, of another version, cut short, damaged, compressed by something
                else than gzip, or holds no PNG, JPEG or WebP.
        """
        self._path = path
        self._bytes = _map(path)
        self._header = self._read_header()
        facts = self._read_metadata()
        low, high = zooms or (0, 31)
        self._entries = [one for one in self._walk() if low <= _zoom_of(one) <= high]
        self.captured_at: datetime | None = next(
            (date for date in (read_date(facts.get(name)) for name in _DATES) if date), None
        )
        self.terms: str | None = plain_text(facts.get("license")) or plain_text(facts.get("attribution"))

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
        """A tile's bytes, or what is wrong with it."""
        if length > MAX_TILE_BYTES:
            return f"has {length:,} bytes; no tile has more than {MAX_TILE_BYTES:,}"
        content = self._bytes[start : start + length]
        if self._header["tile_compression"] is not codec.Compression.GZIP:
            return content
        try:
            return _gunzip(content, MAX_TILE_BYTES)
        except (zlib.error, ValueError) as error:
            return f"does not decompress: {error}"

    def _read_header(self) -> dict[str, Any]:
        if len(self._bytes) < _HEADER:
            raise self._damaged(f"it has {len(self._bytes)} bytes, fewer than a header")
        try:
            header: dict[str, Any] = dict(codec.deserialize_header(self._bytes[:_HEADER]))
        except codec.SpecVersionUnsupported as error:
            raise ImportSourceError(
                f"{self._path} is a PMTiles archive of another version; convert it to version 3 (`pmtiles convert`)"
            ) from error
        except (codec.MagicNumberNotFound, ValueError) as error:
            raise self._damaged(f"its header does not read ({error or 'no PMTiles signature'})") from error
        if header["tile_type"] not in _IMAGES:
            kind = header["tile_type"].name
            what = "vector tiles" if kind in ("MVT", "MLT") else f"{kind} pictures"
            raise ImportSourceError(
                f"{self._path} holds {what}; only PNG, JPEG and WebP can be imported. Export the map as such tiles"
            )
        known = (codec.Compression.NONE, codec.Compression.GZIP)
        for name in ("internal_compression", "tile_compression"):
            # Unknown is what writers of pictures say for tiles that are as they are.
            if header[name] not in (*known, *((codec.Compression.UNKNOWN,) if name.startswith("tile") else ())):
                raise ImportSourceError(
                    f"{self._path} is compressed by {header[name].name.lower()}, which is not read here; write it again "
                    "with gzip or none"
                )
        return header

    def _read_metadata(self) -> dict[str, object]:
        try:
            facts = json.loads(self._section(self._header["metadata_offset"], self._header["metadata_length"]) or b"{}")
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its metadata does not read ({error})") from error
        return facts if isinstance(facts, dict) else {}

    def _walk(self) -> list[codec.Entry]:
        """All tile entries, by id. Bounded: each directory and their depth, and the tiles by the header's own count."""
        found: list[codec.Entry] = []
        waiting = [(self._header["root_offset"], self._header["root_length"], 1)]
        seen: set[int] = set()
        while waiting:
            offset, length, depth = waiting.pop()
            if depth > _MAX_DEPTH or offset in seen:
                raise self._damaged("its directories are nested in a circle")
            seen.add(offset)
            for entry in self._directory(offset, length):
                if entry.run_length == 0:
                    waiting.append((self._header["leaf_directory_offset"] + entry.offset, entry.length, depth + 1))
                else:
                    self._check(entry)
                    found.append(entry)
        count, claimed = sum(entry.run_length for entry in found), self._header["addressed_tiles_count"]
        if claimed not in (0, count):
            raise self._damaged(f"its directories list {count:,} tiles, its header {claimed:,}")
        return sorted(found, key=lambda entry: int(entry.tile_id))

    def _directory(self, offset: int, length: int) -> list[codec.Entry]:
        raw = self._section(offset, length)
        try:
            # The library reads compressed directories alone.
            entries: list[codec.Entry] = codec.deserialize_directory(gzip.compress(raw, 1))
        except (EOFError, ValueError, IndexError) as error:
            raise self._damaged(f"a directory does not read ({error})") from error
        return entries

    def _check(self, entry: codec.Entry) -> None:
        end = self._header["tile_data_offset"] + entry.offset + entry.length
        if entry.offset < 0 or end > len(self._bytes):
            raise self._damaged(f"a tile ends at byte {end:,} of {len(self._bytes):,}")
        if _zoom_of(entry) > 31 or entry.tile_id + entry.run_length > (1 << 64) // 3:
            raise self._damaged("a tile id is beyond zoom 31")

    def _section(self, offset: int, length: int) -> bytes:
        if offset + length > len(self._bytes):
            raise self._damaged(f"a section ends at byte {offset + length:,} of {len(self._bytes):,}")
        content = self._bytes[offset : offset + length]
        if not content or self._header["internal_compression"] is codec.Compression.NONE:
            return content
        try:
            return _gunzip(content, _MAX_DIRECTORY)
        except (zlib.error, ValueError) as error:
            raise self._damaged(f"a section does not decompress ({error})") from error

    def _damaged(self, what: str) -> ImportSourceError:
        return ImportSourceError(f"{self._path} is no whole PMTiles archive: {what}. Copy or export it again")


def _map(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise ImportSourceError(f"{path} cannot be read: {error}. Make it readable") from error


def _zoom_of(entry: codec.Entry) -> int:
    return int(((3 * entry.tile_id + 1).bit_length() - 1) // 2)


def _gunzip(content: bytes, limit: int) -> bytes:
    """Decompress, at most `limit` bytes. Raises zlib.error; ValueError where there is more, or less than promised."""
    reader = zlib.decompressobj(wbits=31)
    plain = reader.decompress(content, limit)
    if reader.unconsumed_tail:
        raise ValueError(f"it is larger than {limit:,} bytes")
    if not reader.eof:
        raise ValueError("it is cut short")
    return plain
