"""Converts table rows to the records of the ports, and back. All times are UTC."""

from __future__ import annotations

from datetime import timezone
from typing import Any

from preflight.ports import ManifestRow
from preflight.records import SourceRecord, TileRow

__all__ = ["TILE_COLUMNS", "manifest_row", "source_record", "tile_row", "tile_values"]

TILE_COLUMNS = "zoom, x, y, lat, lon, source, content_sha256, path, captured_at, texture"
"""The columns of the table `tiles`, in the order that `tile_row` and `tile_values` use."""


def tile_values(row: TileRow) -> tuple[object, ...]:
    """Return the values of a tile in the order of TILE_COLUMNS."""
    return row.zoom, row.x, row.y, row.lat, row.lon, row.source, row.sha256, row.path, row.captured_at, row.texture


def tile_row(row: tuple[Any, ...]) -> TileRow:
    """Convert a row of the table `tiles`."""
    zoom, x, y, lat, lon, source, sha256, path, captured_at, texture = row
    return TileRow(zoom, x, y, lat, lon, source, sha256, path, captured_at.astimezone(timezone.utc), texture)


def source_record(row: tuple[Any, ...]) -> SourceRecord:
    """Convert a row of the table `sources`."""
    name, origin, terms, captured_at, imported_at = row
    captured = None if captured_at is None else captured_at.astimezone(timezone.utc)
    return SourceRecord(name, origin, terms, captured, imported_at.astimezone(timezone.utc))


def manifest_row(row: tuple[Any, ...]) -> ManifestRow:
    """Convert a row of the table `manifests`."""
    cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, issued_at, valid_until, status = row
    times = issued_at.astimezone(timezone.utc), valid_until.astimezone(timezone.utc)
    return ManifestRow(cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, *times, status)
