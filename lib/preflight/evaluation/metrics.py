"""From returned ids and true positions to recall and metres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from preflight.area.web_mercator import haversine_m
from preflight.evaluation.queries import POSITION_ZOOM, TileTable
from preflight.evaluation.result import RANKS, Figures
from preflight.tileset.tile_lookup import TileLookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Truth", "figures", "units_holding"]


class Truth:
    """True positions of queries: (Q, 2) int64 columns and rows at POSITION_ZOOM, and (Q, 2) latitudes and longitudes."""

    def __init__(self, cells: Sequence[tuple[int, int]], degrees: Sequence[tuple[float, float]]) -> None:
        self.cells = np.asarray(cells, dtype=np.int64).reshape(-1, 2)
        self.degrees = np.asarray(degrees, dtype=np.float64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.cells)


def units_holding(truth: Truth, table: TileTable) -> NDArray[np.int64]:
    """(Q,): how many units of the table, of any zoom, contain each position."""
    counts = np.zeros(len(truth), dtype=np.int64)
    units = TileLookup(table.zooms, table.xs, table.ys, table.steps)
    for zoom in np.unique(table.zooms).tolist():
        around = table.steps << zoom
        cells = truth.cells // ((1 << POSITION_ZOOM - zoom) // table.steps)
        zooms = np.full(len(cells), zoom)
        # Those that begin at the position's place in the grid, or up to a tile's side before it; the map is round.
        for i, j in np.ndindex(table.steps, table.steps):
            counts += units.rows(zooms, (cells[:, 0] - i) % around, cells[:, 1] - j) >= 0
    return counts


def figures(found: NDArray[np.int64], truth: Truth, table: TileTable) -> Figures:
    """The figures of (Q, k) ids, k at least the largest of RANKS; -1 means none.

    Raises ValueError when an id is not in the table: the index is then of another tile set.
    """
    rows = _rows(found, table)
    hits = _hits(rows, truth, table)
    errors = [
        haversine_m(lat, lon, float(table.lats[row]), float(table.lons[row])) if row >= 0 else np.inf
        for row, (lat, lon) in zip(rows[:, 0].tolist(), truth.degrees.tolist(), strict=True)
    ]
    recall = tuple(float(hits[:, :k].any(axis=1).mean()) for k in RANKS)
    # An error that was measured, not one between two: infinities stay out of the arithmetic.
    median, p90 = np.percentile(errors, [50, 90], method="inverted_cdf").tolist()
    return Figures(recall, median, p90)


def _rows(found: NDArray[np.int64], table: TileTable) -> NDArray[np.int64]:
    """Row of each id in the table, -1 for none."""
    order = np.argsort(table.ids, kind="stable")
    place = np.searchsorted(table.ids, found, sorter=order).clip(max=len(table) - 1)
    rows: NDArray[np.int64] = np.where(found == -1, -1, order[place])
    unknown = found[(rows >= 0) & (table.ids[rows] != found)]
    if len(unknown):
        raise ValueError(f"the index returned id {int(unknown[0])}, which is no tile of the set")
    return rows


def _hits(rows: NDArray[np.int64], truth: Truth, table: TileTable) -> NDArray[np.bool_]:
    side = np.left_shift(1, POSITION_ZOOM - table.zooms[rows])
    step = side // table.steps
    east = (truth.cells[:, :1] - table.xs[rows] * step) % (1 << POSITION_ZOOM)
    south = truth.cells[:, 1:] - table.ys[rows] * step
    hits: NDArray[np.bool_] = (rows >= 0) & (east < side) & (south >= 0) & (south < side)
    return hits
