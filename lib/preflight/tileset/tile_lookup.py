"""Which tiles are there, for sets of a million: sorted integers instead of a Python set of tuples (16 bytes a tile, not 200)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TileLookup"]

_BITS = 26  # of x and of y: the deepest zoom is 24, a tile's side holds at most 4 windows
_BLOCK = 1 << 16  # looked at together: a dozen numbers a tile are held meanwhile


class TileLookup:
    """Distinct tiles, found by (zoom, x, y); they are ordered by zoom, x, y.

    steps: with windows instead of tiles, how many of them a tile's side holds: x and y count them.
    """

    def __init__(self, zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64], steps: int = 1) -> None:
        self._steps = steps
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
        last = self._steps * np.left_shift(1, zooms) - 1
        wanted = _codes(zooms, xs, ys)
        found = np.searchsorted(self._codes, wanted).clip(max=len(self) - 1)
        there = (self._codes[found] == wanted) & (xs >= 0) & (xs <= last) & (ys >= 0) & (ys <= last)
        rows: NDArray[np.int64] = np.where(there, self._rows[found], -1)
        return rows

    def surrounded(self) -> NDArray[np.int64]:
        """The numbers, ascending, of the tiles that have all eight neighbours."""
        mask = (1 << _BITS) - 1
        whole = np.ones(len(self), bool)
        for at in range(0, len(self), _BLOCK):
            codes, here = self._codes[at : at + _BLOCK], whole[at : at + _BLOCK]
            zooms, xs, ys = codes >> 2 * _BITS, codes >> _BITS & mask, codes & mask
            for dx, dy in ((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
                here &= self.rows(zooms, xs + dx, ys + dy) >= 0
        return np.flatnonzero(whole)


def _codes(zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Off the map, a code may be another tile's: who asks checks the range."""
    codes: NDArray[np.int64] = zooms << 2 * _BITS | xs << _BITS | ys
    return codes
