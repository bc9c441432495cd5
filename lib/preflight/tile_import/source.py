"""What a source of tiles hands to the import, and how its adapters read what is common to all."""

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
"""No tile is larger: 1024 x 1024 RGBA without compression is 4 MiB."""

Zooms = tuple[int, int]
"""The first and the last zoom asked for."""


@dataclass(frozen=True, slots=True)
class OfferedTile:
    """An encoded image for one XYZ tile. suffix: .png, .jpg or .webp."""

    zoom: int
    x: int
    y: int
    content: bytes
    suffix: str


@dataclass(frozen=True, slots=True)
class BadTile:
    """A tile that cannot be imported. reason: a predicate, as in "tile 1/2/3 `does not decode`"."""

    zoom: int
    x: int
    y: int
    reason: str


class TileSource(Protocol):
    """What an adapter makes of a folder or file: tiles, in the order they are stored there."""

    @property
    def captured_at(self) -> datetime | None:
        """When the pictures were taken, aware, if the source says so."""

    @property
    def terms(self) -> str | None:
        """Licence or attribution, if the source says so."""

    def __len__(self) -> int:
        """How many tiles come at most."""

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        """The tiles. Raises ImportSourceError where the source as a whole turns out broken."""


def offered_tile(zoom: int, x: int, y: int, content: bytes) -> OfferedTile | BadTile:
    """A tile of an archive, its suffix by the image's signature."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return OfferedTile(zoom, x, y, content, ".png")
    if content.startswith(b"\xff\xd8\xff"):
        return OfferedTile(zoom, x, y, content, ".jpg")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return OfferedTile(zoom, x, y, content, ".webp")
    what = f"begins with {content[:8].hex(' ')}" if content else "is empty"
    return BadTile(zoom, x, y, f"does not decode: it {what}, which is neither PNG, JPEG nor WebP")


def looks_like_vector(content: bytes) -> bool:
    """Whether a tile is a Mapbox vector tile: its first field is a layer, mostly under gzip or zlib."""
    return content.startswith((b"\x1f\x8b", b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x1a"))


def plain_text(text: object) -> str | None:
    """A text of a source's own metadata on one line; None where there is none."""
    if not isinstance(text, str):
        return None
    line = " ".join(text.split())
    return "".join(sign for sign in line if sign.isprintable()) or None


def read_date(text: object) -> datetime | None:
    """A date of a source's own metadata, as ISO 8601 or as EXIF and TIFF write it; without a zone it is UTC."""
    if not isinstance(text, str):
        return None
    written = text.strip().strip("\0").replace("Z", "+00:00")
    if len(written) >= 10 and written[4] == written[7] == ":":
        written = written[:4] + "-" + written[5:7] + "-" + written[8:]
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
