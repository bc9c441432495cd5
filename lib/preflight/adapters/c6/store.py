"""A whole tile store over a C6 metadata store that can only be queried: no revision, no provenance, no capture dates.

What C6 does not promise is derived. The revision is a hash of all rows of the area, so each look at it is a whole query.
A tile without a capture date counts as captured when this cache root saw its bytes for the first time; a small table keeps
these times. The log says both.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from preflight.adapters.c6.queries import checked_rows, key_of, rows_of_boxes, source_name
from preflight.area.web_mercator import tile_at, tile_bounds, tile_center
from preflight.errors import TileContentError
from preflight.ports import C6TileMetadataStore, Clock, ManifestRow, TileIdShape, TileMetadataShape
from preflight.records import BoundingBox, SectorClass, SourceRecord, StoreRevision, TileRow

__all__ = ["QueriedTileStore"]

log = logging.getLogger("c10_provisioning")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SEEN = np.dtype([("sha256", "u1", (32,)), ("us", "<i8")])

WriteFile = Callable[[Path, bytes], object]


class QueriedTileStore:
    """`ports.TileMetadataStore` for the area of one build, over `query_by_bbox`.

    boxes: the area, in boxes. seen: the file with the times when tiles without a date were seen first.
    """

    def __init__(
        self,
        store: C6TileMetadataStore,
        boxes: Sequence[BoundingBox],
        zoom_levels: Sequence[int],
        sector_class: SectorClass,
        *,
        clock: Clock,
        seen: Path,
        write: WriteFile,
    ) -> None:
        self._store = store
        self._boxes = tuple(boxes)
        self._zooms = tuple(zoom_levels)
        self._sector = sector_class
        self._clock = clock
        self._seen = seen
        self._write = write
        self._rows: list[TileRow] = []
        self._digest: str | None = None
        self.tiles: dict[str, TileIdShape] = {}
        """Path of a row -> the tile_id that the store gave for it. One dictionary for the life of the store."""

    def revision(self) -> StoreRevision:
        """Queries the whole area and returns a revision that stands for exactly these rows."""
        if self._digest is None:
            log.warning(
                "the tile store has no revision: the whole area is queried to find out whether it changed",
                extra={"event": "c10.tiles.no_revision", "fields": {"zoom_levels": list(self._zooms)}},
            )
        rows = self._queried()
        digest = hashlib.sha256()
        for row in rows:
            tile = row.tile_id
            text = f"{tile.zoom_level}|{float(tile.lat)!r}|{float(tile.lon)!r}|{source_name(row.source)}|"
            digest.update(f"{text}{row.content_sha256_hex}|{_date(row)}\n".encode())
        if digest.hexdigest() != self._digest:
            self._digest = digest.hexdigest()
            self._take(rows)
        return StoreRevision(self._digest, 0)

    def query_by_bbox(
        self,
        *,
        bbox: BoundingBox,
        zoom: int | None = None,
        zoom_levels: Sequence[int] = (),
        sector_class: SectorClass | None = None,
    ) -> Iterator[TileRow]:
        """As `ports.TileMetadataStore`, from the store itself."""
        zooms = sorted({*zoom_levels, *(() if zoom is None else (zoom,))})
        wanted = {key_of(row) for row in checked_rows(self._store, bbox, zooms, sector_class or self._sector)}
        return (row for row in self._known() if (row.zoom, row.lat, row.lon, row.source) in wanted)

    def changed_since(self, revision: int) -> None:
        """Returns None: a store without a revision cannot say what changed."""

    def rows_of_tiles(self, tiles: Iterable[tuple[int, int, int]]) -> list[TileRow]:
        """As `ports.TileMetadataStore`."""
        wanted = frozenset(tiles)
        return [row for row in self._known() if (row.zoom, row.x, row.y) in wanted]

    def rows_in_box(self, zoom: int, x_range: tuple[int, int], y_range: tuple[int, int]) -> Iterator[TileRow]:
        """As `ports.TileMetadataStore`."""
        for row in self._known():
            inside = x_range[0] <= row.x <= x_range[1] and y_range[0] <= row.y <= y_range[1]
            if row.zoom == zoom and inside:
                yield row

    def count(self) -> int:
        """Returns the number of rows of the area."""
        return len(self._known())

    def upsert(self, rows: Iterable[TileRow], *, replace: bool) -> int:  # noqa: ARG002 - the port's signature
        """Raises TileContentError: this product never writes into a C6 store."""
        raise TileContentError("tiles cannot be imported into this tile store. Let the C11 TileDownloader write them")

    def record_source(self, record: SourceRecord) -> None:
        """Does nothing: a C6 store keeps no provenance."""

    def sources(self) -> list[SourceRecord]:
        """Returns no provenance: C6 does not promise any."""
        return []

    def record_manifest(self, row: ManifestRow) -> None:
        """Hands the row to the store if it keeps `manifests` rows; the log says if it does not."""
        keep = getattr(self._store, "record_manifest", None)
        if callable(keep):
            keep(row)
            return
        log.info(
            f"the tile store keeps no manifests row for generation {row.generation}",
            extra={
                "event": "c10.manifest.row_not_kept",
                "fields": {"generation": row.generation, "status": row.status},
            },
        )

    def manifests(self, cache_root: str) -> list[ManifestRow]:
        """Returns the rows of a cache root, if the store keeps any."""
        read = getattr(self._store, "manifests", None)
        return list(read(cache_root)) if callable(read) else []

    def _known(self) -> list[TileRow]:
        if self._digest is None:
            self.revision()
        return self._rows

    def _queried(self) -> list[TileMetadataShape]:
        return rows_of_boxes(self._store, self._boxes, self._zooms, self._sector)

    def _take(self, rows: Sequence[TileMetadataShape]) -> None:
        undated = [bytes.fromhex(row.content_sha256_hex) for row in rows if _date(row) is None]
        first_seen = self._first_seen(undated) if undated else {}
        self._rows = []
        self.tiles.clear()
        aside = [row.tile_id for row in rows if not _near_centre(row.tile_id)]
        if aside:
            log.warning(
                f"{len(aside):,} tiles are placed far from their centres, such as at a corner: the cache tells the aircraft "
                "these positions. Let the tile store give the centre of each tile",
                extra={"event": "c10.tiles.off_centre", "fields": {"tiles": len(aside), "first": repr(aside[0])}},
            )
        for row in rows:
            tile = row.tile_id
            x, y = tile_at(tile.zoom_level, tile.lat, tile.lon)
            lat, lon, source = float(tile.lat), float(tile.lon), source_name(row.source)
            path = f"{source}/{tile.zoom_level}/{lat!r}/{lon!r}"
            captured = _date(row) or first_seen[bytes.fromhex(row.content_sha256_hex)]
            self.tiles[path] = tile
            self._rows.append(TileRow(tile.zoom_level, x, y, lat, lon, source, row.content_sha256_hex, path, captured))

    def _first_seen(self, digests: Sequence[bytes]) -> dict[bytes, datetime]:
        """Returns when each digest was seen first. Writes the file if there are new ones."""
        known: dict[bytes, int] = {}
        if self._seen.is_file():
            table = np.frombuffer(self._seen.read_bytes(), _SEEN)
            known = dict(zip(map(bytes, table["sha256"]), table["us"].tolist(), strict=True))
        now = (self._clock() - _EPOCH) // timedelta(microseconds=1)
        fresh = [digest for digest in dict.fromkeys(digests) if digest not in known]
        if fresh:
            log.warning(
                f"{len(fresh):,} tiles have no capture date: they count as captured now, so their age cannot be checked",
                extra={"event": "c10.tiles.undated", "fields": {"tiles": len(fresh)}},
            )
            known.update(dict.fromkeys(fresh, now))
            rows = np.empty(len(known), _SEEN)
            rows["sha256"] = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
            rows["us"] = list(known.values())
            self._write(self._seen, rows.tobytes())
        return {digest: _EPOCH + timedelta(microseconds=known[digest]) for digest in digests}


def _near_centre(tile: TileIdShape) -> bool:
    """Returns whether a tile's position is at most a quarter of its height and of its width from its centre."""
    x, y = tile_at(tile.zoom_level, tile.lat, tile.lon)
    bounds, (lat, lon) = tile_bounds(tile.zoom_level, x, y), tile_center(tile.zoom_level, x, y)
    height, width = bounds.lat_max - bounds.lat_min, bounds.lon_max - bounds.lon_min
    return abs(tile.lat - lat) <= height / 4 and abs(tile.lon - lon) <= width / 4


def _date(row: TileMetadataShape) -> datetime | None:
    """Returns the capture date of a row, if the store gives one. Raises TileContentError for a date without a zone."""
    found = getattr(row, "captured_at", None)
    if found is None:
        return None
    if not isinstance(found, datetime) or found.tzinfo is None:
        raise TileContentError(
            f"the tile store returns the capture date {found!r}, which has no time zone. Repair the store"
        )
    return found
