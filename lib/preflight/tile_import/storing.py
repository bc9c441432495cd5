"""A chunk of offered tiles: which may be stored, and storing those: pixels first, then rows."""

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

__all__ = ["Keeper", "Tally", "TileImage"]


class TileImage(NamedTuple):
    """What decoding a tile's picture shows. width, height: pixels.

    texture: the standard deviation of the luminance (ITU-R BT.601, 0..255) of 16 x 16 equal areas. Of these areas and not of
    all pixels, because waves, glints and a sensor's noise fill every pixel of a picture that shows no place: real map and
    aerial tiles had 5.9 and more, made-up water, glints and dense fog 5.1 at most, where over all pixels the same were 13.9
    and more, and up to 14.6. Transparent parts count as black.
    """

    width: int
    height: int
    texture: float


class _Judged(NamedTuple):
    """A tile that may be stored."""

    sha256: str
    texture: float | None


class _Kept(NamedTuple):
    """A tile whose file is whole. written: it was not before."""

    row: TileRow
    written: bool


@dataclass(slots=True)
class Tally:
    """What was done so far."""

    offered: int = 0
    added: int = 0
    replaced: int = 0
    repaired: int = 0
    redated: int = 0  # of those repaired
    skipped: list[BadTile] = field(default_factory=list)

    @property
    def dated(self) -> bool:
        """Whether a tile took the date of this import."""
        return bool(self.added or self.replaced or self.redated)

    def report(self) -> ImportReport:
        """The counts; what was neither added, replaced nor repaired, nor skipped, is unchanged."""
        unchanged = self.offered - self.added - self.replaced - self.repaired - len(self.skipped)
        return ImportReport(self.offered, self.added, unchanged, self.replaced, self.repaired, tuple(self.skipped))


class Keeper:
    """Stores chunks of one source; `tally` counts them."""

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

    def keep(self, chunk: list[OfferedTile | BadTile], pool: Executor) -> None:
        """Pixels, then rows. Raises ImportSourceError, DatabaseError."""
        places = [(tile.zoom, tile.x, tile.y) for tile in chunk if _off_the_map(tile) is None]
        found = self._metadata.rows_of_tiles(places)
        held = {(row.zoom, row.x, row.y): row for row in found if row.source == self._source}
        # The faults first: a chunk with a refused tile leaves nothing behind, so one pass judges and one stores.
        judged = list(pool.map(lambda tile: self._judge(tile, held), chunk))
        bad = [one for one in judged if isinstance(one, BadTile)]
        if bad and not self._skip_bad:
            raise ImportSourceError(
                f"tile {bad[0].zoom}/{bad[0].x}/{bad[0].y} of {self._source} {bad[0].reason}. Fetch it again or remove "
                "it, or import the others with --skip-bad"
            )
        good = [(tile, found) for tile, found in zip(chunk, judged, strict=True) if isinstance(found, _Judged)]
        self._store(list(pool.map(lambda one: self._kept(*one), good)), held)
        self.tally.offered += len(chunk)
        self.tally.skipped += bad

    def _store(self, kept: Sequence[_Kept], held: Mapping[tuple[int, int, int], TileRow]) -> None:
        """The rows of tiles whose files are written. Raises ImportSourceError, DatabaseError."""
        rows, repaired, redated = [], 0, 0
        # By path: tiles that share their bytes share a file, which one of them writes.
        written = {one.row.path for one in kept if one.written}
        for row, _ in kept:
            there = held.get((row.zoom, row.x, row.y))
            if there is None or there.sha256 != row.sha256:
                rows.append(row)
                continue
            elsewhere = row.path != there.path
            earlier = self._replace and row.captured_at < there.captured_at
            mended = earlier or (self._replace and elsewhere)
            if mended or row.texture != there.texture:
                rows.append(row)
            # A file that no row names repairs nothing.
            repaired += mended or (row.path in written and not elsewhere)
            redated += earlier
        changed = self._metadata.upsert(rows, replace=self._replace) if rows else 0
        added = len({(row.zoom, row.x, row.y) for row in rows} - held.keys())
        self.tally.added += added
        self.tally.replaced += max(0, changed - added)
        self.tally.repaired += repaired
        self.tally.redated += redated

    def _judge(self, tile: OfferedTile | BadTile, held: Mapping[tuple[int, int, int], TileRow]) -> _Judged | BadTile:
        """The hash of a tile's content and what it shows, or what is wrong with it."""
        if isinstance(tile, BadTile):
            return tile
        reason = _off_the_map(tile)
        if reason is None:
            sha256 = hashlib.sha256(tile.content).hexdigest()
            there = held.get((tile.zoom, tile.x, tile.y))
            # What is held was decoded when it came, if its texture says so.
            if there is not None and there.sha256 == sha256 and there.texture is not None:
                return _Judged(sha256, there.texture)
            texture = self._texture(tile.content)
            if not isinstance(texture, str):
                return _Judged(sha256, texture)
            reason = texture
        return BadTile(tile.zoom, tile.x, tile.y, reason)

    def _texture(self, content: bytes) -> float | str:
        """Of a picture, or what is wrong with it."""
        if len(content) > MAX_TILE_BYTES:
            return f"has {len(content):,} bytes; no tile has more than {MAX_TILE_BYTES:,}"
        try:
            width, height, texture = self._check_image(content)
        except TileContentError as error:
            return f"does not decode: {error}"
        return texture if width == height else f"is {width} x {height} pixels; tiles are square"

    def _kept(self, tile: OfferedTile | BadTile, found: _Judged) -> _Kept:
        assert isinstance(tile, OfferedTile)  # noqa: S101 - only those have a hash
        path, written = self._pixels.put(tile.content, found.sha256, tile.suffix)
        place = tile.zoom, tile.x, tile.y
        row = TileRow(*place, *tile_center(*place), self._source, found.sha256, path, self._captured_at, found.texture)
        return _Kept(row, written)


def _off_the_map(tile: OfferedTile | BadTile) -> str | None:
    if not 0 <= tile.zoom <= MAX_ZOOM:
        return f"is no tile: zooms go from 0 to {MAX_ZOOM}"
    last = (1 << tile.zoom) - 1
    if not (0 <= tile.x <= last and 0 <= tile.y <= last):
        return f"is off the map: at zoom {tile.zoom} x and y go from 0 to {last}"
    return None
