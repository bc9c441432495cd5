"""Tiles from any source into the tile store: each checked, hashed, stored by content, then its row.

The pixels of a chunk are durable before its rows are committed, so a killed import leaves no row without its file; the
next run goes through what is there without decoding or writing it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime

from preflight.errors import ImportSourceError
from preflight.ports import Clock, TileMetadataStore, TilePixelStore
from preflight.records import MOST_AHEAD, SourceRecord
from preflight.tile_import.request import ImportProgress, ImportReport
from preflight.tile_import.source import BadTile, OfferedTile
from preflight.tile_import.storing import Keeper, TileImage

__all__ = ["import_tiles"]

_LOG = logging.getLogger(__name__)
_CHUNK = 500
_CHUNK_BYTES = 64 << 20
_WORKERS = 4  # decoding and fsync release the interpreter's lock


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
    _check_name(source)
    captured_at = _checked_date(source, captured_at, start)
    keeper = Keeper(source, captured_at or start, metadata, pixels, check_image, replace=replace, skip_bad=skip_bad)
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


def _check_name(source: str) -> None:
    if not source or not source.isprintable() or "|" in source:
        # The aggregate over the tile set separates its fields by bars and its rows by line ends.
        raise ImportSourceError(f"{source!r} cannot name a source: use printable characters without `|`")


def _checked_date(source: str, captured_at: datetime | None, now: datetime) -> datetime | None:
    """The date of capture that counts, which is never ahead of now; a warning where there is none."""
    if captured_at is None:
        _LOG.warning(
            f"tiles of {source} count as captured now, {now:%Y-%m-%d %H:%M} UTC: their real age is unknown. "
            "Give the date of capture to have it checked"
        )
        return None
    if captured_at.tzinfo is None:
        raise ImportSourceError(
            f"captured_at {captured_at} has no time zone: write it in UTC, such as 2025-06-01T12:00Z"
        )
    if captured_at - now > MOST_AHEAD:
        raise ImportSourceError(
            f"the tiles of {source} are said to be captured {captured_at:%Y-%m-%d}, but it is {now:%Y-%m-%d}: a wrong date "
            "would make old tiles look fresh. Give the real one (--captured-at), or set this computer's clock"
        )
    return min(captured_at, now)


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
