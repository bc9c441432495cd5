"""Selects the rows of a tile set from the tile store: the rows of a cover, and for each tile the preferred source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING

from preflight.records import TileRow
from preflight.tileset.inventory import row_order

if TYPE_CHECKING:
    from preflight.area.area import Cover
    from preflight.ports import TileMetadataStore

__all__ = ["choose_sources", "rows_of_cover"]


def rows_of_cover(store: TileMetadataStore, cover: Cover) -> Iterator[TileRow]:
    """Stream the store's rows of a cover, ordered by (zoom, lat, lon, source).

    Each range of the cover is a separate query. To make sure that all rows belong to one snapshot, compare
    `store.revision()` before and after.
    """
    for _, ranges in groupby(cover.ranges, key=lambda tile_range: tile_range.zoom):
        streams = [store.rows_in_box(*tile_range) for tile_range in ranges]
        rows = streams[0] if len(streams) == 1 else merge(*streams, key=row_order)
        yield from (row for row in rows if cover.position(row.zoom, row.x, row.y) is not None)


def choose_sources(
    rows: Iterable[TileRow], source_order: Sequence[str], passed_over: Callable[[TileRow], None] | None = None
) -> Iterator[TileRow]:
    """Keep one row for each tile (zoom, x, y).

    Memory holds one row of tiles (equal zoom and y) at a time. Two sources may therefore disagree about the last bits
    of a tile's centre.

    Args:
        rows: the rows, sorted by (zoom, lat, lon, source).
        source_order: names of sources, the preferred one first. Sources that are not listed follow, by name.
        passed_over: called with each row that is not kept.

    Yields:
        The kept rows, sorted by (zoom, lat, lon, source).
    """
    rank = {source: number for number, source in enumerate(source_order)}
    for _, band in groupby(rows, key=lambda row: (row.zoom, row.y)):
        best: dict[int, TileRow] = {}
        for row in band:
            other = best.get(row.x)
            kept, dropped = (row, other) if other is None or _rank(rank, row) < _rank(rank, other) else (other, row)
            best[row.x] = kept
            if dropped is not None and passed_over is not None:
                passed_over(dropped)
        yield from sorted(best.values(), key=row_order)


def _rank(rank: dict[str, int], row: TileRow) -> tuple[int, str]:
    return rank.get(row.source, len(rank)), row.source
