"""Which rows of the tile store a tile set is made of: those of a cover, and of each tile the source that goes first."""

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
    """The store's rows of a cover, streamed by (zoom, lat, lon, source).

    Each range of the cover is a query of its own: compare `store.revision()` before and after for one snapshot.
    """
    for _, ranges in groupby(cover.ranges, key=lambda found: found.zoom):
        streams = [store.rows_in_box(*found) for found in ranges]
        rows = streams[0] if len(streams) == 1 else merge(*streams, key=row_order)
        yield from (row for row in rows if cover.position(row.zoom, row.x, row.y) is not None)


def choose_sources(
    rows: Iterable[TileRow], source_order: Sequence[str], passed_over: Callable[[TileRow], None] | None = None
) -> Iterator[TileRow]:
    """Keep one row a (zoom, x, y): of the first source in `source_order`; sources not listed come after, by name.

    Rows come and go by (zoom, lat, lon, source). One row of tiles is held at a time, so that two sources may also
    disagree about the last bits of a centre. passed_over: told of each row that is not kept.
    """
    rank = {source: number for number, source in enumerate(source_order)}
    for _, band in groupby(rows, key=lambda row: (row.zoom, row.y)):
        best: dict[int, TileRow] = {}
        for row in band:
            held = best.get(row.x)
            kept, left = (row, held) if held is None or _rank(rank, row) < _rank(rank, held) else (held, row)
            best[row.x] = kept
            if left is not None and passed_over is not None:
                passed_over(left)
        yield from sorted(best.values(), key=row_order)


def _rank(rank: dict[str, int], row: TileRow) -> tuple[int, str]:
    return rank.get(row.source, len(rank)), row.source
