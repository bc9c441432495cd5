"""The tile store of a run, from whatever C6 objects the caller hands in."""

from __future__ import annotations

from preflight.mission.job import Job
from preflight.ports import Clock, TileMetadataStore, TilePixelStore
from preflight.ports.c6 import C6TileMetadataStore, C6TileStore
from preflight.run.tile_access import TileAccess
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout

__all__ = ["tile_access_of"]


def tile_access_of(rows: C6TileMetadataStore, pixels: C6TileStore, job: Job, clock: Clock) -> TileAccess:
    """Returns the tile store of a run over the area of `job`.

    A `TileAccess`, or a store with all methods of the ports, is used as it is. Any other store needs nothing but
    `query_by_bbox` and `read_tile_pixels`: what it lacks is derived, and the log says what that costs.
    """
    if isinstance(rows, TileAccess):
        if pixels is rows:
            return rows
        raise ValueError("tile_store: give the same object as tile_metadata_store, because it holds rows and pixels")
    if isinstance(rows, TileMetadataStore) and isinstance(pixels, TilePixelStore):
        whole_rows, whole_pixels = rows, pixels
        return TileAccess(None, lambda _: whole_rows, lambda: whole_pixels)
    from preflight.adapters.c6.pixels import C6Pixels  # noqa: PLC0415 - for stores of a caller only
    from preflight.adapters.c6.store import QueriedTileStore  # noqa: PLC0415 - as above

    layout = CacheLayout(job.cache_root)
    store = QueriedTileStore(
        rows,
        job.area.boxes(),
        job.zoom_levels,
        job.sector_class,
        clock=clock,
        seen=layout.first_seen,
        write=atomic_write,
    )
    return TileAccess(None, lambda _: store, lambda: C6Pixels(pixels, store.tiles))
