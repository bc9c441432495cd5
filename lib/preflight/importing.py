"""Tiles from any source into the tile store: each checked, hashed, stored by content, then its row.

The pixels of a chunk are durable before its rows are committed, so a killed import leaves no row without its file; the
next run goes through what is there without decoding or writing it again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from preflight.errors import ImportSourceError, TileContentError
from preflight.geometry import MAX_ZOOM, tile_center
from preflight.ports import Clock, TileMetadataStore, TilePixelStore
from preflight.records import SourceRecord, TileRow
from preflight.tile_offers import MAX_TILE_BYTES, BadTile, OfferedTile, TileSource, Zooms
from preflight.tileset import MOST_AHEAD

__all__ = [
    "BadTile",
    "ImportProgress",
    "ImportReport",
    "ImportRequest",
    "OfferedTile",
    "TileImage",
    "TileSource",
    "import_tiles",
]

_LOG = logging.getLogger(__name__)
_CHUNK = 500
_CHUNK_BYTES = 64 << 20
_WORKERS = 4  # decoding and fsync release the interpreter's lock


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


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What an operator asks to import. scheme: None means what the source's format says."""

    path: Path
    source: str
    zooms: Zooms | None = None
    scheme: Literal["xyz", "tms"] | None = None
    captured_at: datetime | None = None
    terms: str | None = None
    update: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of tiles; offered is the sum of the others and of the skipped tiles.

    replaced: there with other bytes before. repaired: there with the same bytes, but their file was missing or spoilt, or, with
    update, their row named another file or a later date of capture.
    """

    offered: int
    added: int
    unchanged: int
    replaced: int
    repaired: int = 0
    skipped: tuple[BadTile, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is. total is what comes at most, None where it is not known; eta_s seconds to go."""

    done: int
    total: int | None
    tiles_per_s: float
    eta_s: float | None


@dataclass(slots=True)
class _Tally:
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
        unchanged = self.offered - self.added - self.replaced - self.repaired - len(self.skipped)
        return ImportReport(self.offered, self.added, unchanged, self.replaced, self.repaired, tuple(self.skipped))


def import_tiles(
    tiles: Iterable[OfferedTile | BadTile],
    *,
    source: str,
    captured_at: datetime | None,
    metadata: TileMetadataStore,
    pixels: TilePixelStore,
    check_image: Callable[[bytes], TileImage],
    clock: Clock,
    replace: bool = False,
    skip_bad: bool = False,
    origin: str | None = None,
    terms: str | None = None,
    stated_terms: str | None = None,
    total: int | None = None,
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Import tiles in chunks of at most 500, one transaction each; chunks before a refused tile stay.

    captured_at: when the images were taken, aware; None counts as now, with one warning. check_image decodes an image
    and measures it, or raises TileContentError; it is called from several threads. What is there with the same bytes is
    decoded again only where its texture is not known, which is then filled in; its file is written again where it is
    missing or spoilt. replace: what is there with other bytes is replaced, and what is there with the same is made to name
    the file kept here and the earlier date of capture. origin: where the tiles come from; with it the source's provenance
    is recorded. terms: as the operator gives them; without, those recorded before, or the ones the source states. progress
    is called after each chunk.

    Raises:
        ImportSourceError: a tile out of range, undecodable or not square and not `skip_bad`, or there with other bytes
            and not `replace`; it is named. Also when `source` or `captured_at` cannot be used (a date without a zone, or
            in the future), and when nothing is offered or everything would be skipped.
        DatabaseError: the store does not answer.
    """
    start = clock()
    _check_arguments(source, captured_at, start)
    if captured_at is None:
        _LOG.warning(
            f"tiles of {source} count as captured now, {start:%Y-%m-%d %H:%M} UTC: their real age is unknown. "
            "Give the date of capture to have it checked"
        )
    else:
        captured_at = min(captured_at, start)
    keeper = _Keeper(source, captured_at or start, metadata, pixels, check_image, replace=replace, skip_bad=skip_bad)
    provenance = _Provenance(metadata, source, origin, terms, stated_terms, captured_at)
    tally = keeper.tally
    # Closed here and not when the error is forgotten: a source may have threads and files of its own.
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="import") as pool, closing(_chunks(tiles)) as chunks:
        for chunk in chunks:
            keeper.keep(chunk, pool)
            if tally.offered > len(tally.skipped):
                # At once: tiles that a killed import has brought have their provenance too.
                provenance.record(clock(), changed=tally.dated, final=False)
            _tell(tally.offered, total, (clock() - start).total_seconds(), source, progress)
    report = tally.report()
    _refuse_nothing(report, source)
    provenance.record(clock(), changed=tally.dated, final=True)
    return report


class _Keeper:
    """Stores chunks."""

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
        self.tally = _Tally()

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
        there = self._pixels.find(tile.content, found.sha256, tile.suffix)
        path = there or self._pixels.put(tile.content, found.sha256, tile.suffix)
        place = tile.zoom, tile.x, tile.y
        row = TileRow(*place, *tile_center(*place), self._source, found.sha256, path, self._captured_at, found.texture)
        return _Kept(row, there is None)


class _Provenance:
    """The source's record: written with its first tiles, left alone by an import that changes nothing."""

    def __init__(
        self,
        metadata: TileMetadataStore,
        source: str,
        origin: str | None,
        terms: str | None,
        stated_terms: str | None,
        captured_at: datetime | None,
    ) -> None:
        self._metadata = metadata
        self._source = source
        self._origin = origin
        self._captured_at = captured_at
        self._written: SourceRecord | None = None
        self._held: SourceRecord | None = None
        if origin is not None:
            found = [one for one in metadata.sources() if (one.name, one.origin) == (source, origin)]
            self._held = found[0] if found else None
        self._terms = terms or (self._held.terms if self._held else None) or stated_terms

    def record(self, now: datetime, *, changed: bool, final: bool) -> None:
        """Write what there is to say. Raises DatabaseError."""
        if self._origin is None:
            return
        if changed or self._held is None:
            record = SourceRecord(self._source, self._origin, self._terms, self._captured_at, now)
        else:
            # No tile took the date of this import, so the record does not either.
            held = self._held
            record = SourceRecord(held.name, held.origin, self._terms, held.captured_at, held.imported_at)
            if record == held:
                return
        if final or self._written is None:
            self._metadata.record_source(record)
            self._written = record


def _check_arguments(source: str, captured_at: datetime | None, now: datetime) -> None:
    if not source or not source.isprintable() or "|" in source:
        # The aggregate over the tile set separates its fields by bars and its rows by line ends.
        raise ImportSourceError(f"{source!r} cannot name a source: use printable characters without `|`")
    if captured_at is not None and captured_at.tzinfo is None:
        raise ImportSourceError(
            f"captured_at {captured_at} has no time zone: write it in UTC, such as 2025-06-01T12:00Z"
        )
    if captured_at is not None and captured_at - now > MOST_AHEAD:
        raise ImportSourceError(
            f"the tiles of {source} are said to be captured {captured_at:%Y-%m-%d}, but it is {now:%Y-%m-%d}: a wrong date "
            "would make old tiles look fresh. Give the real one (--captured-at), or set this computer's clock"
        )


def _off_the_map(tile: OfferedTile | BadTile) -> str | None:
    if not 0 <= tile.zoom <= MAX_ZOOM:
        return f"is no tile: zooms go from 0 to {MAX_ZOOM}"
    last = (1 << tile.zoom) - 1
    if not (0 <= tile.x <= last and 0 <= tile.y <= last):
        return f"is off the map: at zoom {tile.zoom} x and y go from 0 to {last}"
    return None


def _refuse_nothing(report: ImportReport, source: str) -> None:
    if report.offered == 0:
        raise ImportSourceError(
            f"{source} offers no tiles. Check the folder or file that was named, and the zooms if they were given"
        )
    if report.offered == len(report.skipped):
        bad = report.skipped[0]
        raise ImportSourceError(
            f"none of the {report.offered:,} tiles of {source} can be imported: tile {bad.zoom}/{bad.x}/{bad.y} "
            f"{bad.reason}. Export them again as PNG, JPEG or WebP"
        )


def _tell(
    done: int, total: int | None, seconds: float, source: str, progress: Callable[[ImportProgress], None] | None
) -> None:
    rate = done / seconds if seconds > 0 else 0.0
    eta = None if total is None or rate == 0 else max(0.0, (total - done) / rate)
    now = ImportProgress(done, total, rate, eta)
    _LOG.debug(
        f"{done} tiles of {source}",
        extra={
            "event": "import_progress",
            "fields": {"source": source, "done": done, "total": total, "tiles_per_s": round(rate, 1), "eta_s": eta},
        },
    )
    if progress is not None:
        progress(now)


def _chunks(tiles: Iterable[OfferedTile | BadTile]) -> Generator[list[OfferedTile | BadTile], None, None]:
    chunk: list[OfferedTile | BadTile] = []
    size = 0
    for tile in tiles:
        chunk.append(tile)
        size += len(tile.content) if isinstance(tile, OfferedTile) else 0
        if len(chunk) == _CHUNK or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
