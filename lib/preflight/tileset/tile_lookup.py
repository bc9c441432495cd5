"""Finds tiles in a set of a million by (zoom, x, y).

The set is an array of sorted integers. It needs 16 bytes for each tile; a Python set of tuples would need 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TileLookup"]

_BITS = 26  # for x and for y: the deepest zoom is 24, and at most 4 windows begin along a tile's side
_BLOCK = 1 << 16  # tiles checked together by `surrounded`, which needs about 12 temporary numbers for each


class TileLookup:
    """A lookup table of distinct tiles or windows, ordered by (zoom, x, y).

    zooms, xs and ys are parallel arrays (N,). For windows, xs and ys count windows, and `steps` is the number of
    windows that begin along a tile's side.
    """

    def __init__(self, zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64], steps: int = 1) -> None:
        self._steps = steps
        codes = _codes(zooms, xs, ys)
        self._rows = np.argsort(codes, kind="stable")
        self._codes = codes[self._rows]

    def __len__(self) -> int:
        return len(self._codes)

    def tile(self, number: int) -> tuple[int, int, int]:
        """Return (zoom, x, y) of the tile with this number in the order of the table."""
        code = int(self._codes[number])
        mask = (1 << _BITS) - 1
        return code >> 2 * _BITS, code >> _BITS & mask, code & mask

    def row(self, zoom: int, x: int, y: int) -> int:
        """Return the index of a tile in the arrays that were given; -1 if it is not among them or lies off the map."""
        return int(self.rows(np.array([zoom]), np.array([x]), np.array([y]))[0])

    def rows(self, zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return `row` of each of N tiles, (N,)."""
        if not len(self):
            return np.full(len(zooms), -1, np.int64)
        last = self._steps * np.left_shift(1, zooms) - 1
        codes = _codes(zooms, xs, ys)
        numbers = np.searchsorted(self._codes, codes).clip(max=len(self) - 1)
        found = (self._codes[numbers] == codes) & (xs >= 0) & (xs <= last) & (ys >= 0) & (ys <= last)
        rows: NDArray[np.int64] = np.where(found, self._rows[numbers], -1)
        return rows

    def surrounded(self) -> NDArray[np.int64]:
        """Return the numbers, ascending, of the tiles whose eight neighbours are all in the table."""
        mask = (1 << _BITS) - 1
        surrounded = np.ones(len(self), bool)
        for first in range(0, len(self), _BLOCK):
            codes, block = self._codes[first : first + _BLOCK], surrounded[first : first + _BLOCK]
            zooms, xs, ys = codes >> 2 * _BITS, codes >> _BITS & mask, codes & mask
            for dx, dy in ((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
                block &= self.rows(zooms, xs + dx, ys + dy) >= 0
        return np.flatnonzero(surrounded)


def _codes(zooms: NDArray[np.int64], xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Encode each tile as one number. A tile off the map may share a code with another: the caller checks the range."""
    codes: NDArray[np.int64] = zooms << 2 * _BITS | xs << _BITS | ys
    return codes
