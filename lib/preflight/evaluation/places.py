"""Which tiles are there, for sets of a million: sorted integers instead of a Python set of tuples (16 bytes a tile, not 200)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Places"]

_BITS = 24  # of x and of y: the deepest zoom is 24


class Places:
    """Distinct tiles, found by (zoom, x, y); they are ordered by zoom, x, y."""

    def __init__(self, zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> None:
        codes = _codes(zooms, xs, ys)
        self._rows = np.argsort(codes, kind="stable")
        self._codes = codes[self._rows]

    def __len__(self) -> int:
        return len(self._codes)

    def tile(self, number: int) -> tuple[int, int, int]:
        """(zoom, x, y) of the tile with this number in the order."""
        code = int(self._codes[number])
        mask = (1 << _BITS) - 1
        return code >> 2 * _BITS, code >> _BITS & mask, code & mask

    def row(self, zoom: int, x: int, y: int) -> int:
        """The row a tile was given in; -1 when it is not there, or lies off the map."""
        return int(self.rows(np.array([zoom]), np.array([x]), np.array([y]))[0])

    def rows(self, zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `row`, for many."""
        if not len(self):
            return np.full(len(zooms), -1, np.int64)
        last = np.left_shift(1, zooms) - 1
        wanted = _codes(zooms, xs, ys)
        found = np.searchsorted(self._codes, wanted).clip(max=len(self) - 1)
        there = (self._codes[found] == wanted) & (xs >= 0) & (xs <= last) & (ys >= 0) & (ys <= last)
        rows: NDArray[np.int64] = np.where(there, self._rows[found], -1)
        return rows

    def surrounded(self) -> NDArray[np.int64]:
        """The numbers, ascending, of the tiles that have all eight neighbours."""
        mask = (1 << _BITS) - 1
        zooms, xs, ys = self._codes >> 2 * _BITS, self._codes >> _BITS & mask, self._codes & mask
        whole = np.ones(len(self), bool)
        for dx, dy in ((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            whole &= self.rows(zooms, xs + dx, ys + dy) >= 0
        return np.flatnonzero(whole)


def _codes(zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Off the map, a code may be another tile's: who asks checks the range."""
    codes: NDArray[np.int64] = zooms << 2 * _BITS | xs << _BITS | ys
    return codes
