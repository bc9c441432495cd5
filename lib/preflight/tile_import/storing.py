"""Checks one chunk of offered tiles and stores the good ones: first their pixels, then their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from preflight.area.web_mercator import MAX_ZOOM, tile_center
from preflight.errors import ImportSourceError, TileContentError
from preflight.ports import TileMetadataStore, TilePixelStore
from preflight.records import TileRow
from preflight.tile_import.request import ImportReport
from preflight.tile_import.source import MAX_TILE_BYTES, BadTile, OfferedTile

__all__ = ["ChunkWriter", "Tally", "TileImage"]


class TileImage(NamedTuple):
    """The properties of a decoded tile image.

    Attributes:
        width, height: size in pixels.
        texture: the standard deviation of the mean luminance (ITU-R BT.601, 0..255) of 16 x 16 equal areas. Transparent
            parts count as black.

    The texture uses areas instead of pixels because waves, glints and sensor noise vary every pixel of a picture that
    shows no place. With areas, real map and aerial tiles have 5.9 and more; synthetic water, glints and dense fog have
    at most 5.1. With pixels the ranges overlap: the same real tiles have 13.9 and more, the synthetic ones up to 14.6.
    """

    width: int
    height: int
    texture: float


class _Checked(NamedTuple):
    """The result of the check of a good tile."""

    sha256: str
    texture: float | None


class _Stored(NamedTuple):
    """A tile whose file is intact. written: the file was missing or damaged before."""

    row: TileRow
    written: bool


@dataclass(slots=True)
class Tally:
    """The counts of an import so far. redated: the repaired tiles that took an earlier capture date."""

    offered: int = 0
    added: int = 0
    replaced: int = 0
    repaired: int = 0
    redated: int = 0
    skipped: list[BadTile] = field(default_factory=list)

    @property
    def dated(self) -> bool:
        """Whether a tile took the capture date of this import."""
        return bool(self.added or self.replaced or self.redated)

    def report(self) -> ImportReport:
        """Return the counts. Tiles that are in no other count are unchanged."""
        unchanged = self.offered - self.added - self.replaced - self.repaired - len(self.skipped)
        return ImportReport(self.offered, self.added, unchanged, self.replaced, self.repaired, tuple(self.skipped))


class ChunkWriter:
    """Checks and stores the chunks of one source. `tally` holds the counts."""

    def __init__(
        self,
        source: str,
        captured_at: datetime,
        metadata: TileMetadataStore,
        pixels: TilePixelStore,
        check_image: Callable[[bytes], TileImage],
        *,
        replace: bool,
        skip_bad: bool,
    ) -> None:
        self._source = source
        self._captured_at = captured_at
        self._metadata = metadata
        self._pixels = pixels
        self._check_image = check_image
        self._replace = replace
        self._skip_bad = skip_bad
        self.tally = Tally()

    def write(self, chunk: list[OfferedTile | BadTile], pool: Executor) -> None:
        """Check a chunk, then store its pixels, then its rows. pool: runs the checks and the writes of files.

        Raises:
            ImportSourceError: a tile is refused. Nothing of the chunk is stored if a check fails.
            DatabaseError: as the tile store raises.
        """
        tiles = [(tile.zoom, tile.x, tile.y) for tile in chunk if _off_the_map(tile) is None]
        rows = self._metadata.rows_of_tiles(tiles)
        old_rows = {(row.zoom, row.x, row.y): row for row in rows if row.source == self._source}
        # All checks come before the first write, because a chunk with a refused tile must leave nothing behind.
        checked = list(pool.map(lambda tile: self._check(tile, old_rows), chunk))
        bad = [result for result in checked if isinstance(result, BadTile)]
        if bad and not self._skip_bad:
            raise ImportSourceError(
                f"tile {bad[0].zoom}/{bad[0].x}/{bad[0].y} of {self._source} {bad[0].reason}. Fetch it again or remove "
                "it, or import the others with --skip-bad"
            )
        good = [(tile, result) for tile, result in zip(chunk, checked, strict=True) if isinstance(result, _Checked)]
        self._write_rows(list(pool.map(lambda pair: self._write_pixels(*pair), good)), old_rows)
        self.tally.offered += len(chunk)
        self.tally.skipped += bad

    def _write_rows(self, stored: Sequence[_Stored], old_rows: Mapping[tuple[int, int, int], TileRow]) -> None:
        """Write the rows of tiles whose files are stored. Raises ImportSourceError, DatabaseError."""
        rows, repaired, redated = [], 0, 0
        # Tiles with the same bytes share a file, and only one of them writes it. So compare paths, not tiles.
        written = {one.row.path for one in stored if one.written}
        for row, _ in stored:
            old = old_rows.get((row.zoom, row.x, row.y))
            if old is None or old.sha256 != row.sha256:
                rows.append(row)
                continue
            other_path = row.path != old.path
            earlier = self._replace and row.captured_at < old.captured_at
            corrected = earlier or (self._replace and other_path)
            if corrected or row.texture != old.texture:
                rows.append(row)
            # A file written under another path than the row names repairs no tile.
            repaired += corrected or (row.path in written and not other_path)
            redated += earlier
        changed = self._metadata.upsert(rows, replace=self._replace) if rows else 0
        added = len({(row.zoom, row.x, row.y) for row in rows} - old_rows.keys())
        self.tally.added += added
        self.tally.replaced += max(0, changed - added)
        self.tally.repaired += repaired
        self.tally.redated += redated

    def _check(
        self, tile: OfferedTile | BadTile, old_rows: Mapping[tuple[int, int, int], TileRow]
    ) -> _Checked | BadTile:
        if isinstance(tile, BadTile):
            return tile
        reason = _off_the_map(tile)
        if reason is None:
            sha256 = hashlib.sha256(tile.content).hexdigest()
            old = old_rows.get((tile.zoom, tile.x, tile.y))
            # A stored tile with a texture was decoded when it was imported.
            if old is not None and old.sha256 == sha256 and old.texture is not None:
                return _Checked(sha256, old.texture)
            texture = self._texture(tile.content)
            if not isinstance(texture, str):
                return _Checked(sha256, texture)
            reason = texture
        return BadTile(tile.zoom, tile.x, tile.y, reason)

    def _texture(self, content: bytes) -> float | str:
        """Return the texture of an image, or the reason why it cannot be imported."""
        if len(content) > MAX_TILE_BYTES:
            return f"has {len(content):,} bytes; no tile has more than {MAX_TILE_BYTES:,}"
        try:
            width, height, texture = self._check_image(content)
        except TileContentError as error:
            return f"does not decode: {error}"
        return texture if width == height else f"is {width} x {height} pixels; a tile must be square"

    def _write_pixels(self, tile: OfferedTile | BadTile, checked: _Checked) -> _Stored:
        assert isinstance(tile, OfferedTile)  # noqa: S101 - a BadTile is never checked successfully
        path, written = self._pixels.put(tile.content, checked.sha256, tile.suffix)
        key = tile.zoom, tile.x, tile.y
        row = TileRow(*key, *tile_center(*key), self._source, checked.sha256, path, self._captured_at, checked.texture)
        return _Stored(row, written)


def _off_the_map(tile: OfferedTile | BadTile) -> str | None:
    """Return why a tile is not on the map; None if it is."""
    if not 0 <= tile.zoom <= MAX_ZOOM:
        return f"has an invalid zoom: zooms go from 0 to {MAX_ZOOM}"
    last = (1 << tile.zoom) - 1
    if not (0 <= tile.x <= last and 0 <= tile.y <= last):
        return f"is off the map: at zoom {tile.zoom}, x and y go from 0 to {last}"
    return None
