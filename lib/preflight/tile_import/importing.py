"""Imports the tiles of one source into the tile store. Each tile is checked, hashed and stored under its hash.

The pixels of a chunk are durable before its rows are committed. A killed import therefore leaves no row without its
file. The next run neither decodes nor writes the tiles that are stored already.
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
from preflight.tile_import.storing import ChunkWriter, TileImage

__all__ = ["import_tiles"]

_LOG = logging.getLogger("c10_provisioning.tile_import")
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
    """Import tiles in chunks of at most 500, with one transaction for each chunk.

    A tile that is stored with the same bytes is decoded only if its texture is unknown; the texture is then filled in.
    Its file is written again if it is missing or damaged.

    Args:
        tiles: the tiles of the source.
        source: the name under which the tiles are stored.
        captured_at: when the pictures were taken, timezone-aware. None counts as now and logs one warning.
        metadata: the rows of the tile store.
        pixels: the files of the tile store.
        check_image: decodes and measures an image, or raises TileContentError. It is called from several threads.
        clock: the clock.
        replace: replace tiles that are stored with other bytes. Tiles with the same bytes take this import's path, and
            its capture date if that is earlier.
        skip_bad: skip tiles that cannot be imported.
        origin: where the tiles come from. If given, the provenance of the source is recorded.
        terms: licence or attribution from the operator. Without it the recorded terms stay, or `stated_terms` count.
        stated_terms: licence or attribution that the source states.
        total: the largest possible number of tiles, for the progress.
        progress: called after each chunk.

    Returns:
        The counts of the import.

    Raises:
        ImportSourceError: the message names the tile if it is off the map, does not decode or is not square (without
            `skip_bad`), or is stored with other bytes (without `replace`). The chunks before it stay stored. Also
            raised if `source` is no valid name, if `captured_at` has no time zone or lies in the future, and if there
            are no tiles or only bad ones.
        DatabaseError: the store does not answer.
    """
    start = clock()
    _check_name(source)
    captured_at = _checked_date(source, captured_at, start)
    writer = ChunkWriter(
        source, captured_at or start, metadata, pixels, check_image, replace=replace, skip_bad=skip_bad
    )
    provenance = _Provenance(metadata, source, origin, terms, stated_terms, captured_at)
    tally = writer.tally
    # Close the source here even after an error: it may own threads and files.
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="import") as pool, closing(_chunks(tiles)) as chunks:
        for chunk in chunks:
            writer.write(chunk, pool)
            if tally.offered > len(tally.skipped):
                # Record it with the first chunk, so that the tiles of a killed import have a provenance.
                provenance.record(clock(), changed=tally.dated, final=False)
            _report_progress(tally.offered, total, (clock() - start).total_seconds(), source, progress)
    report = tally.report()
    _refuse_empty(report, source)
    provenance.record(clock(), changed=tally.dated, final=True)
    return report


def _check_name(source: str) -> None:
    if not source or not source.isprintable() or "|" in source:
        # The aggregate over the tile set separates fields by `|` and rows by line ends.
        raise ImportSourceError(f"{source!r} is no valid name of a source: use printable characters other than `|`")


def _checked_date(source: str, captured_at: datetime | None, now: datetime) -> datetime | None:
    """Return the effective capture date, which is never later than now. Logs a warning if there is none."""
    if captured_at is None:
        _LOG.warning(
            f"tiles of {source} count as captured now, {now:%Y-%m-%d %H:%M} UTC, because their real age is unknown. "
            "Give the capture date (--captured-at), so that their age can be checked"
        )
        return None
    if captured_at.tzinfo is None:
        raise ImportSourceError(
            f"captured_at {captured_at} has no time zone: write it in UTC, such as 2025-06-01T12:00Z"
        )
    if captured_at - now > MOST_AHEAD:
        raise ImportSourceError(
            f"the tiles of {source} have the capture date {captured_at:%Y-%m-%d}, but today is {now:%Y-%m-%d}: a wrong "
            "date would make old tiles look fresh. Give the real date (--captured-at), or set this computer's clock"
        )
    return min(captured_at, now)


class _Provenance:
    """The record of the source. The first chunk writes it; an import that changes nothing leaves it as it is."""

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
        self._old: SourceRecord | None = None
        if origin is not None:
            same = [one for one in metadata.sources() if (one.name, one.origin) == (source, origin)]
            self._old = same[0] if same else None
        self._terms = terms or (self._old.terms if self._old else None) or stated_terms

    def record(self, now: datetime, *, changed: bool, final: bool) -> None:
        """Write the record if it differs from the stored one. Raises DatabaseError."""
        if self._origin is None:
            return
        if changed or self._old is None:
            record = SourceRecord(self._source, self._origin, self._terms, self._captured_at, now)
        else:
            # No tile took the capture date of this import, so the record keeps its old date too.
            old = self._old
            record = SourceRecord(old.name, old.origin, self._terms, old.captured_at, old.imported_at)
            if record == old:
                return
        if final or self._written is None:
            self._metadata.record_source(record)
            self._written = record


def _refuse_empty(report: ImportReport, source: str) -> None:
    if report.offered == 0:
        raise ImportSourceError(f"{source} has no tiles to import. Check the folder or file, and the zooms if given")
    if report.offered == len(report.skipped):
        bad = report.skipped[0]
        raise ImportSourceError(
            f"none of the {report.offered:,} tiles of {source} can be imported: tile {bad.zoom}/{bad.x}/{bad.y} "
            f"{bad.reason}. Export them again as PNG, JPEG or WebP"
        )


def _report_progress(
    done: int, total: int | None, seconds: float, source: str, progress: Callable[[ImportProgress], None] | None
) -> None:
    rate = done / seconds if seconds > 0 else 0.0
    eta = None if total is None or rate == 0 else max(0.0, (total - done) / rate)
    current = ImportProgress(done, total, rate, eta)
    _LOG.debug(
        f"{done} tiles of {source}",
        extra={
            "event": "c10.import.progress",
            "fields": {"source": source, "done": done, "total": total, "tiles_per_s": round(rate, 1), "eta_s": eta},
        },
    )
    if progress is not None:
        progress(current)


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
