"""The port for sources of tiles, and helpers that several of its adapters share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

__all__ = [
    "MAX_TILE_BYTES",
    "BadTile",
    "OfferedTile",
    "TileSource",
    "Zooms",
    "looks_like_vector",
    "offered_tile",
    "plain_text",
    "read_date",
]

MAX_TILE_BYTES = 32 << 20
"""Size limit of a tile. For comparison: 1024 x 1024 RGBA without compression is 4 MiB."""

Zooms = tuple[int, int]
"""The first and the last zoom level to import."""


@dataclass(frozen=True, slots=True)
class OfferedTile:
    """The encoded image of one tile in the XYZ scheme. suffix: .png, .jpg or .webp."""

    zoom: int
    x: int
    y: int
    content: bytes
    suffix: str


@dataclass(frozen=True, slots=True)
class BadTile:
    """A tile that cannot be imported. reason: the predicate of a sentence, as in "tile 1/2/3 `does not decode`"."""

    zoom: int
    x: int
    y: int
    reason: str


class TileSource(Protocol):
    """The tiles of an opened folder or file, in the order in which it stores them."""

    @property
    def captured_at(self) -> datetime | None:
        """When the pictures were taken, timezone-aware; None if the source does not state it."""

    @property
    def terms(self) -> str | None:
        """Licence or attribution; None if the source does not state it."""

    def __len__(self) -> int:
        """Return the largest possible number of tiles."""

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        """Yield the tiles. Raises ImportSourceError if the source as a whole is broken."""


def offered_tile(zoom: int, x: int, y: int, content: bytes) -> OfferedTile | BadTile:
    """Return a tile of an archive with the suffix for the signature of the image; a BadTile for another format."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return OfferedTile(zoom, x, y, content, ".png")
    if content.startswith(b"\xff\xd8\xff"):
        return OfferedTile(zoom, x, y, content, ".jpg")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return OfferedTile(zoom, x, y, content, ".webp")
    start = f"begins with {content[:8].hex(' ')}" if content else "is empty"
    return BadTile(zoom, x, y, f"does not decode: it {start}, which is neither PNG, JPEG nor WebP")


def looks_like_vector(content: bytes) -> bool:
    """Return whether a tile is a Mapbox vector tile: its first field is a layer, usually within gzip or zlib."""
    return content.startswith((b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x1a"))


def plain_text(text: object) -> str | None:
    """Return a text from a source's metadata as one line of printable characters; None for no text."""
    if not isinstance(text, str):
        return None
    line = " ".join(text.split())
    return "".join(character for character in line if character.isprintable()) or None


def read_date(text: object) -> datetime | None:
    """Parse a date from a source's metadata, in ISO 8601 or in the format of EXIF and TIFF.

    Returns a timezone-aware date, or None if the text is no date. A date without a time zone is UTC.
    """
    if not isinstance(text, str):
        return None
    iso = text.strip().strip("\0").replace("Z", "+00:00")
    if len(iso) >= 10 and iso[4] == iso[7] == ":":
        iso = iso[:4] + "-" + iso[5:7] + "-" + iso[8:]
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
