"""The ports that list the tiles of a box, over a C6 metadata store. Every row is checked before it is used."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from preflight.area.web_mercator import tile_at, tile_bounds
from preflight.errors import DatabaseError, PreflightError, TileContentError
from preflight.ports import C6TileMetadataStore, TileMetadataShape, TilesByBboxBatchQuery, TilesByBboxQuery
from preflight.records import BoundingBox, TileBboxRecord, TileHashRecord

__all__ = [
    "c6_tile_metadata_store_to_tiles_batch_query",
    "c6_tile_metadata_store_to_tiles_query",
    "checked_rows",
    "key_of",
    "rows_of_boxes",
    "source_name",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def c6_tile_metadata_store_to_tiles_query(store: C6TileMetadataStore) -> TilesByBboxQuery:
    """Returns the port that lists tiles with their hashes, over a C6 metadata store."""
    return _TilesQuery(store)


def c6_tile_metadata_store_to_tiles_batch_query(store: C6TileMetadataStore) -> TilesByBboxBatchQuery:
    """Returns the port that lists tiles for batching, over a C6 metadata store."""
    return _TilesQuery(store)


class _TilesQuery:
    """Both ports over one store."""

    def __init__(self, store: C6TileMetadataStore) -> None:
        self._store = store

    def query_by_bbox(
        self, *, bbox: BoundingBox, zoom_levels: Sequence[int], sector_class: str
    ) -> Iterator[TileHashRecord]:
        """As `ports.TilesByBboxQuery`."""
        for row in checked_rows(self._store, bbox, zoom_levels, sector_class):
            tile = row.tile_id
            yield TileHashRecord(
                tile.zoom_level, float(tile.lat), float(tile.lon), source_name(row.source), row.content_sha256_hex
            )

    def query_by_bbox_batch(
        self, *, bbox: tuple[float, float, float, float], zoom_levels: Sequence[int], sector_class: str
    ) -> list[TileBboxRecord]:
        """As `ports.TilesByBboxBatchQuery`."""
        box = BoundingBox(*bbox)
        return [
            TileBboxRecord(record.zoom, record.lat, record.lon, record.source)
            for record in self.query_by_bbox(bbox=box, zoom_levels=zoom_levels, sector_class=sector_class)
        ]


def source_name(source: Any) -> str:  # noqa: ANN401 - text or an enum of the caller's
    """Returns a source's name: the text itself, or the value of an enum."""
    return str(getattr(source, "value", source))


def checked_rows(
    store: C6TileMetadataStore, bbox: BoundingBox, zoom_levels: Sequence[int], sector_class: str
) -> list[TileMetadataShape]:
    """Returns the rows of a box, sorted by (zoom, lat, lon, source).

    Raises:
        TileContentError: a row is not a tile row, lies outside the box, is of a tile that another row of its source has, or
            has a hash of another form.
        DatabaseError: the store's own error, translated.
    """
    rows = [row for zoom in sorted(set(zoom_levels)) for row in _of_zoom(store, bbox, zoom, sector_class)]
    rows.sort(key=key_of)
    seen: set[tuple[int, int, int, str]] = set()
    for row in rows:
        tile = row.tile_id
        # By the tile, because two positions in one tile are the same ground.
        same = (tile.zoom_level, *tile_at(tile.zoom_level, tile.lat, tile.lon), source_name(row.source))
        if same in seen:
            raise TileContentError(f"the tile store returns {_name(row)} twice. Repair the store")
        seen.add(same)
    return rows


def rows_of_boxes(
    store: C6TileMetadataStore, boxes: Sequence[BoundingBox], zoom_levels: Sequence[int], sector_class: str
) -> list[TileMetadataShape]:
    """Returns the rows of several boxes, each row once, sorted by (zoom, lat, lon, source). Raises as `checked_rows`."""
    found = {key_of(row): row for box in boxes for row in checked_rows(store, box, zoom_levels, sector_class)}
    return [found[key] for key in sorted(found)]


def _of_zoom(
    store: C6TileMetadataStore, bbox: BoundingBox, zoom: int, sector_class: str
) -> Iterator[TileMetadataShape]:
    for row in _asked(store, bbox, zoom, sector_class):
        problem = _problem(row, bbox, zoom)
        if problem is not None:
            raise TileContentError(f"the tile store returns {problem}. Repair the store")
        yield row


def _asked(store: C6TileMetadataStore, bbox: BoundingBox, zoom: int, sector_class: str) -> Iterable[TileMetadataShape]:
    """Asks the store for one zoom, in the form that it takes. Translates its errors."""
    try:
        parameters = inspect.signature(store.query_by_bbox).parameters
        if "zoom" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            return list(store.query_by_bbox(bbox=bbox, zoom=zoom))
        found: Any = store.query_by_bbox(bbox=bbox, zoom_levels=(zoom,), sector_class=sector_class)  # type: ignore[call-arg] # C6's other form
        return list(found)
    except PreflightError:
        raise
    except Exception as error:
        raise DatabaseError(
            f"the tile store cannot be queried at zoom {zoom}: {type(error).__name__}: {error}. Check the store"
        ) from error


def _problem(row: TileMetadataShape, bbox: BoundingBox, zoom: int) -> str | None:
    """Returns what is wrong with a row, or None."""
    tile = getattr(row, "tile_id", None)
    parts = [getattr(tile, name, None) for name in ("zoom_level", "lat", "lon")]
    if not isinstance(parts[0], int) or not all(_is_number(part) for part in parts):
        return f"a row without tile_id.zoom_level, .lat and .lon: {row!r}"
    if parts[0] != zoom:
        return f"{_name(row)} for a query of zoom {zoom}"
    if not _SHA256.fullmatch(str(getattr(row, "content_sha256_hex", ""))):
        return f"{_name(row)} with the hash {getattr(row, 'content_sha256_hex', None)!r}, which is not 64 hex digits"
    if getattr(row, "source", None) is None or not source_name(row.source):
        return f"{_name(row)} without a source"
    return None if _shares_interior(row, bbox) else f"{_name(row)}, which lies outside the box {bbox}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shares_interior(row: TileMetadataShape, bbox: BoundingBox) -> bool:
    tile = row.tile_id
    if not -90 <= tile.lat <= 90 or not -180 <= tile.lon <= 180:
        return False
    bounds = tile_bounds(tile.zoom_level, *tile_at(tile.zoom_level, tile.lat, tile.lon))
    return (
        bounds.lat_min < bbox.lat_max
        and bbox.lat_min < bounds.lat_max
        and bounds.lon_min < bbox.lon_max
        and bbox.lon_min < bounds.lon_max
    )


def key_of(row: TileMetadataShape) -> tuple[int, float, float, str]:
    """Returns (zoom, lat, lon, source): the order and the identity of a row."""
    return row.tile_id.zoom_level, float(row.tile_id.lat), float(row.tile_id.lon), source_name(row.source)


def _name(row: TileMetadataShape) -> str:
    tile = row.tile_id
    return f"tile {tile.zoom_level} at ({tile.lat}, {tile.lon}) of source {source_name(getattr(row, 'source', ''))!r}"
