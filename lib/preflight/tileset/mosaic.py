"""Windows cut out of neighbouring tiles, each tile read and decoded once for all the windows it feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mosaic"]


class Mosaic:
    """Cuts windows in a given order. Where that is from north to south and west to east, one row of tiles is held at a time.

    parts: (M, 4) numbers of the tiles under each window: its own, and east, south and south-east of it, -1 for none.
    offsets: (M, 2) where it begins in its own tile, east and south, in steps of a tile's side / steps.
    read: number of a tile -> (height, width, 3) uint8. resize: to a (height, width).
    """

    def __init__(
        self,
        parts: NDArray[np.int32],
        offsets: NDArray[np.integer],
        steps: int,
        read: Callable[[int], NDArray[np.uint8]],
        resize: Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]],
    ) -> None:
        self._parts = parts
        self._offsets = offsets
        self._steps = steps
        self._read = read
        self._resize = resize
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._last = _last_uses(parts)

    @property
    def held(self) -> int:
        """Tiles in memory now."""
        return len(self._held)

    def window(self, place: int) -> NDArray[np.uint8]:
        """The window at a place of the order: (height, width, 3) uint8, as large as the largest tile under it.

        Each place is asked for once, in ascending order. Raises what `read` raises.
        """
        numbers: list[int] = self._parts[place].tolist()
        tiles = [self._tile(number) for number in numbers]
        image = self._cut(tiles, *self._offsets[place].tolist())
        for number in numbers:
            if number >= 0 and self._last[number] <= place:
                self._held.pop(number, None)
        return image

    def _tile(self, number: int) -> NDArray[np.uint8] | None:
        if number < 0:
            return None
        tile = self._held.get(number)
        if tile is None:
            tile = self._held[number] = self._read(number)
        return tile

    def _cut(self, tiles: list[NDArray[np.uint8] | None], right: int, down: int) -> NDArray[np.uint8]:
        there = [tile.shape for tile in tiles if tile is not None]
        height, width = max(shape[0] for shape in there), max(shape[1] for shape in there)
        fitted = [None if tile is None else self._resize(tile, (height, width)) for tile in tiles]
        own, east, south, south_east = fitted
        if east is None and south is None and own is not None:
            return own
        x, y = right * width // self._steps, down * height // self._steps
        window = np.empty((height, width, 3), np.uint8)
        corners = (
            (own, window[: height - y, : width - x], slice(y, None), slice(x, None)),
            (east, window[: height - y, width - x :], slice(y, None), slice(None, x)),
            (south, window[height - y :, : width - x], slice(None, y), slice(x, None)),
            (south_east, window[height - y :, width - x :], slice(None, y), slice(None, x)),
        )
        for tile, corner, rows, columns in corners:
            if tile is not None:
                corner[:] = tile[rows, columns]
        return window


def _last_uses(parts: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each tile the last place whose window it is under."""
    last = np.full(int(parts.max(initial=-1)) + 1, -1, np.int64)
    places = np.arange(len(parts), dtype=np.int64)
    for column in parts.T:
        there = column >= 0
        np.maximum.at(last, column[there], places[there])
    return last
