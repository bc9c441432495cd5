"""Computes recall and position errors from the returned ids and the true positions."""

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
    """The true positions of Q queries.

    Attributes:
        cells: (Q, 2) int64, column and row at POSITION_ZOOM.
        degrees: (Q, 2) float64, latitude and longitude.
    """

    def __init__(self, cells: Sequence[tuple[int, int]], degrees: Sequence[tuple[float, float]]) -> None:
        self.cells = np.asarray(cells, dtype=np.int64).reshape(-1, 2)
        self.degrees = np.asarray(degrees, dtype=np.float64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.cells)


def units_holding(truth: Truth, table: TileTable) -> NDArray[np.int64]:
    """Return how many units of the table, of any zoom, contain each position: (Q,)."""
    counts = np.zeros(len(truth), dtype=np.int64)
    units = TileLookup(table.zooms, table.xs, table.ys, table.steps)
    for zoom in np.unique(table.zooms).tolist():
        columns = table.steps << zoom
        cells = truth.cells // ((1 << POSITION_ZOOM - zoom) // table.steps)
        zooms = np.full(len(cells), zoom)
        # A unit contains the position if it begins less than a tile's side west and north of it. The map is round.
        for i, j in np.ndindex(table.steps, table.steps):
            counts += units.rows(zooms, (cells[:, 0] - i) % columns, cells[:, 1] - j) >= 0
    return counts


def figures(ids: NDArray[np.int64], truth: Truth, table: TileTable) -> Figures:
    """Compute recall and position errors.

    Args:
        ids: (Q, k) returned ids, best first; -1 stands for no result. k is at least the largest of RANKS.
        truth: the true positions.
        table: the units of the index.

    Raises:
        ValueError: an id is not in the table, so the index belongs to another tile set.
    """
    rows = _rows(ids, table)
    hits = _hits(rows, truth, table)
    errors = [
        haversine_m(lat, lon, float(table.lats[row]), float(table.lons[row])) if row >= 0 else np.inf
        for row, (lat, lon) in zip(rows[:, 0].tolist(), truth.degrees.tolist(), strict=True)
    ]
    recall = tuple(float(hits[:, :k].any(axis=1).mean()) for k in RANKS)
    # `inverted_cdf` picks a measured error and does not interpolate, because errors may be infinite.
    median, p90 = np.percentile(errors, [50, 90], method="inverted_cdf").tolist()
    return Figures(recall, median, p90)


def _rows(ids: NDArray[np.int64], table: TileTable) -> NDArray[np.int64]:
    """Return the row of each id in the table; -1 for the id -1."""
    order = np.argsort(table.ids, kind="stable")
    positions = np.searchsorted(table.ids, ids, sorter=order).clip(max=len(table) - 1)
    rows: NDArray[np.int64] = np.where(ids == -1, -1, order[positions])
    unknown = ids[(rows >= 0) & (table.ids[rows] != ids)]
    if len(unknown):
        raise ValueError(f"the index returned the id {int(unknown[0])}, which does not belong to the tile set")
    return rows


def _hits(rows: NDArray[np.int64], truth: Truth, table: TileTable) -> NDArray[np.bool_]:
    side = np.left_shift(1, POSITION_ZOOM - table.zooms[rows])
    step = side // table.steps
    east = (truth.cells[:, :1] - table.xs[rows] * step) % (1 << POSITION_ZOOM)
    south = truth.cells[:, 1:] - table.ys[rows] * step
    hits: NDArray[np.bool_] = (rows >= 0) & (east < side) & (south >= 0) & (south < side)
    return hits
