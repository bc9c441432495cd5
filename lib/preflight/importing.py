"""Tiles from any source into the tile store: each checked, hashed, stored by content, then its row.

The pixels of a chunk are durable before its rows are committed, so a killed import leaves no row without its file; the
next run goes through what is there without writing it again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from preflight.errors import ImportSourceError, TileContentError
from preflight.geometry import MAX_ZOOM, tile_center
from preflight.ports import Clock, TileMetadataStore, TilePixelStore
from preflight.records import TileRow

__all__ = ["ImportReport", "OfferedTile", "import_tiles"]

_LOG = logging.getLogger(__name__)
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class OfferedTile:
    """An encoded image for one XYZ tile. suffix: .png, .jpg or .webp."""

    zoom: int
    x: int
    y: int
    content: bytes
    suffix: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of tiles; offered is the sum of the others."""

    offered: int
    added: int
    unchanged: int
    replaced: int


def import_tiles(
    tiles: Iterable[OfferedTile],
    *,
    source: str,
    captured_at: datetime | None,
    metadata: TileMetadataStore,
    pixels: TilePixelStore,
    check_image: Callable[[bytes], tuple[int, int]],
    clock: Clock,
    replace: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import tiles in chunks of 1000, one transaction each; chunks before a refused tile stay.

    captured_at: when the images were taken, aware; None counts as now, with one warning. check_image decodes an image
    and returns (width, height), or raises TileContentError. progress is called with the tiles done so far.

    Raises:
        ImportSourceError: a tile out of range, undecodable, not square, or there with other bytes and not `replace`; it
            is named. Also when `source` or `captured_at` cannot be used, and when nothing is offered.
        DatabaseError: the store does not answer.
    """
    _check_arguments(source, captured_at)
    if captured_at is None:
        captured_at = clock()
        _LOG.warning(
            f"tiles of {source} count as captured now, {captured_at:%Y-%m-%d %H:%M} UTC: their real age is unknown. "
            "Give the date of capture to have it checked"
        )
    before = metadata.count()
    offered = changed = 0
    for chunk in _chunks(tiles):
        rows = [_store(tile, source, captured_at, pixels, check_image) for tile in chunk]
        changed += metadata.upsert(rows, replace=replace)
        offered += len(chunk)
        if progress is not None:
            progress(offered)
    if offered == 0:
        raise ImportSourceError(f"{source} offers no tiles. Check the folder or file that was named")
    added = max(0, min(changed, metadata.count() - before))
    return ImportReport(offered=offered, added=added, unchanged=offered - changed, replaced=changed - added)


def _check_arguments(source: str, captured_at: datetime | None) -> None:
    if not source or not source.isprintable() or "|" in source:
        # The aggregate over the tile set separates its fields by bars and its rows by line ends.
        raise ImportSourceError(f"{source!r} cannot name a source: use printable characters without `|`")
    if captured_at is not None and captured_at.tzinfo is None:
        raise ImportSourceError(
            f"captured_at {captured_at} has no time zone: write it in UTC, such as 2025-06-01T12:00Z"
        )


def _store(
    tile: OfferedTile,
    source: str,
    captured_at: datetime,
    pixels: TilePixelStore,
    check_image: Callable[[bytes], tuple[int, int]],
) -> TileRow:
    name = f"tile {tile.zoom}/{tile.x}/{tile.y} of {source}"
    if not 0 <= tile.zoom <= MAX_ZOOM:
        raise ImportSourceError(f"{name}: zooms go from 0 to {MAX_ZOOM}. Is the folder laid out as ZOOM/X/Y?")
    last = (1 << tile.zoom) - 1
    if not (0 <= tile.x <= last and 0 <= tile.y <= last):
        raise ImportSourceError(f"{name}: at zoom {tile.zoom} x and y go from 0 to {last}. Correct or remove it")
    try:
        width, height = check_image(tile.content)
    except TileContentError as error:
        raise ImportSourceError(f"{name} does not decode: {error}. Fetch it again, or remove it") from error
    if width != height:
        raise ImportSourceError(f"{name} is {width} x {height} pixels; tiles are square. Fetch it again, or remove it")
    sha256 = hashlib.sha256(tile.content).hexdigest()
    path = pixels.put(tile.content, sha256, tile.suffix)
    lat, lon = tile_center(tile.zoom, tile.x, tile.y)
    return TileRow(tile.zoom, tile.x, tile.y, lat, lon, source, sha256, path, captured_at)


def _chunks(tiles: Iterable[OfferedTile]) -> Iterator[list[OfferedTile]]:
    chunk: list[OfferedTile] = []
    for tile in tiles:
        chunk.append(tile)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
